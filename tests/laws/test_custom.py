"""A user's own law from a file."""

from __future__ import annotations

import textwrap

import numpy as np
import pytest

from harness.laws import fit
from harness.laws.custom import load_law
from workloads.base import BadInput

N = np.geomspace(1e4, 1e7, 20)
FORM = """
    from harness.laws import Positive, Real

    def law(N, *, E: Positive, A: Positive, alpha: Real = 0.3):
        return E + A * N**-alpha

    def unkinded(N, *, E, A: Positive):
        return E + A / N

    number = 3
"""
CLASS = """
    from dataclasses import dataclass
    from typing import ClassVar
    import jax.numpy as jnp
    from harness.laws import Grid, Law, Positive

    @dataclass(frozen=True)
    class Inverse(Law):
        power: float = 1.0
        inputs: ClassVar = ("N",)
        parameters: ClassVar = {"A": Positive}
        starts: ClassVar = Grid(log_A=(0, 10, 3))

        def log_loss(self, p, **inputs):
            return p.log_A - self.power * jnp.log(inputs["N"])
"""


def written(folder, text, name="form"):
    path = folder / f"{name}.py"
    path.write_text(textwrap.dedent(text))
    return path


def test_a_function_is_fitted_like_a_built_in_law(tmp_path):
    law = load_law(f"{written(tmp_path, FORM, 'function_law')}:law", {})
    found = fit(law, {"N": N}, 1.5 + 80 * N**-0.35, bootstrap=100)
    assert found.params == pytest.approx({"E": 1.5, "A": 80.0, "alpha": 0.35}, rel=1e-4)
    assert found.law.name == "law"


def test_a_class_keeps_its_options(tmp_path):
    law = load_law(f"{written(tmp_path, CLASS, 'class_law')}:Inverse", {"power": 0.5})
    assert fit(law, {"N": N}, 3 * N**-0.5, bootstrap=100).params["A"] == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("what", "options", "message"),
    [
        ("form.py:lae", {}, "Did you mean 'law'"),
        ("form.py:number", {}, "is a int"),
        ("form.py:unkinded", {}, "annotated Positive or Real: E"),
        ("form.py:law", {"a": 1}, "no options"),
        ("missing.py:law", {}, "no file"),
        ("broken.py:law", {}, "SyntaxError"),
        ("power_law", {"breaks": 2}, "no options"),
        ("power_lax", {}, "Did you mean 'power_law'"),
    ],
)
def test_what_is_no_law_is_refused_with_the_fix(tmp_path, monkeypatch, what, options, message):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, FORM)
    written(tmp_path, "def law(", "broken")
    with pytest.raises(BadInput, match=message):
        load_law(what, options)
