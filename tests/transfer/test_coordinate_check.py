"""Coordinate check: passes for muP, fails for SP and for every rule that is broken on purpose."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
import pytest

from harness.budget import Budget
from harness.optimizers import OPTIMIZERS
from harness.parametrizations import PARAMETRIZATIONS
from harness.parametrizations.mup import MuP
from harness.schedules import SCHEDULES
from harness.transfer.coordinate_check import Slope, coordinate_check
from harness.trial import Trial
from workloads.base import BadInput
from workloads.image_mlp import ImageMLP
from workloads.language_model import LanguageModel
from workloads.regression import Regression

WIDTHS = (32, 64, 128, 256)
TOKENS = LanguageModel(corpus="zipf_markov:vocab_size=16", heads=4, context=16, batch_size=8, depth=1)

IMAGES = ImageMLP(depth=2, batch_size=16)


def trial(parametrization, workload=TOKENS):
    return Trial(
        workload=workload,
        optimizer=OPTIMIZERS["adamw"](learning_rate=1e-2),
        schedule=SCHEDULES["constant"](warmup="0 steps"),
        parametrization=parametrization,
        budget=Budget(steps=4),
    )


@dataclass(frozen=True)
class Broken(MuP):
    """muP with one rule multiplied by a power of the width ratio."""

    part: str = ""
    role: str = ""

    def factors(self, leaf, optimizer, depth_ratio):
        found = super().factors(leaf, optimizer, depth_ratio)
        if leaf.role == self.role:
            found = found._replace(**{self.part: getattr(found, self.part) * leaf.width_ratio**0.5})
        return found

    def attention_scale(self, head_size_ratio):
        return super().attention_scale(head_size_ratio) * (head_size_ratio if self.part == "attention_scale" else 1.0)


def check(parametrization, **options):
    return coordinate_check(trial(parametrization), WIDTHS, **options)


CASES = {  # workload, optimizer, learning rate, widths, what must fail under SP
    "language_model-adamw": (TOKENS, "adamw", 1e-2, WIDTHS, ("attention_0", "mlp_0", "logits", "readout alone")),
    "tied-adamw": (TOKENS.replace(tied_embeddings=True), "adamw", 1e-2, WIDTHS, ("attention_0", "mlp_0", "logits")),
    "image_mlp-adamw": (IMAGES, "adamw", 1e-2, (128, 256, 512, 1024), ("hidden_1", "logits", "output/kernel alone")),
    "image_mlp-momentum": (IMAGES, "momentum", 0.1, (128, 256, 512, 1024), ("hidden_1", "logits")),
}


@pytest.mark.parametrize("case", CASES)
def test_mup_passes_and_sp_fails_on_every_workload_with_a_width(case):
    workload, optimizer, rate, widths, grows = CASES[case]
    one = replace(
        trial(PARAMETRIZATIONS["mup"](base_width=8), workload), optimizer=OPTIMIZERS[optimizer](learning_rate=rate)
    )
    found = coordinate_check(one, widths, seeds=8)
    assert {name: slope for name, slope in found.slopes.items() if slope.verdict != "pass"} == {}
    entry = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert entry["verdict"] == "pass"
    assert np.shape(entry["activations"]["logits"]["movement"]) == (len(widths), 8)
    assert found.plot("x").layers[0].x.tolist() == list(widths)
    sp = coordinate_check(replace(one, parametrization=PARAMETRIZATIONS["sp"]()), widths, seeds=8)
    assert sp.verdict == "fail"
    assert set(grows) <= {name for name, slope in sp.slopes.items() if slope.verdict == "fail"}


@pytest.mark.parametrize(
    ("part", "role"),
    [("learning_rate", "hidden"), ("learning_rate", "output"), ("learning_rate", "input"), ("init", "output")],
)
def test_a_broken_rule_does_not_pass(part, role):
    found = check(Broken(base_width=8, part=part, role=role), seeds=8)
    assert found.verdict == "fail"


class Silent(LanguageModel):
    """Residual branches and the readout begin at zero, so that what lies before them first matters in step 3."""

    def init(self, key):
        params = super().init(key)
        return params | {"readout": jnp.zeros_like(params["readout"])}


def test_matrices_behind_two_layers_of_zeros_are_seen():
    workload = Silent(**vars(TOKENS.replace(heads=2)))
    widths = (16, 32, 128)
    sp = coordinate_check(trial(PARAMETRIZATIONS["sp"](), workload), widths, seeds=3)
    names = {"layer_0/query_key_value alone", "layer_0/mlp_in alone"}
    assert names <= sp.slopes.keys()
    assert all(sp.slopes[name].verdict == "fail" for name in names)


def test_slopes_decide_by_their_interval():
    assert Slope(0.0, (-0.2, 0.2)).verdict == "pass"
    assert Slope(0.5, (0.3, 0.7)).verdict == "fail"
    assert Slope(0.1, (-0.1, 0.3)).verdict == "undecided"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (32, 64)}, "at least 3 that span 8 times"),
        ({"widths": (32, 48, 64)}, "span 8 times"),
        ({"widths": WIDTHS, "seeds": 1}, "seeds=1"),
        ({"widths": (30, 64, 256)}, "not divisible"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(BadInput, match=message):
        coordinate_check(trial(PARAMETRIZATIONS["mup"](base_width=8)), **options)


def test_a_workload_without_activations_says_so():
    plain = replace(trial(PARAMETRIZATIONS["sp"](), Regression(width=8)), optimizer=OPTIMIZERS["adam"]())
    with pytest.raises(BadInput, match="does not expose its activations"):
        coordinate_check(plain, (8, 16, 64))
