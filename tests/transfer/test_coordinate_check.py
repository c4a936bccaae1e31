"""Coordinate check: passes for muP, fails for SP and for every rule that is broken on purpose."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

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
from workloads.language_model import LanguageModel
from workloads.regression import Regression

WIDTHS = (32, 64, 128, 256)
TOKENS = LanguageModel(corpus="zipf_markov:vocab_size=16", heads=4, context=16, batch_size=8, depth=1)


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


def test_mup_passes_and_says_so_in_json():
    found = check(PARAMETRIZATIONS["mup"](base_width=8), seeds=8)
    entry = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert entry["verdict"] == "pass"
    assert {"embedding", "attention_0", "mlp_0", "logits", "readout alone"} <= set(entry["activations"])
    assert np.shape(entry["activations"]["logits"]["movement"]) == (4, 8)
    assert found.plot("x").layers[0].x.tolist() == list(WIDTHS)


def test_sp_fails_where_it_should():
    found = check(PARAMETRIZATIONS["sp"](), seeds=4)
    assert found.verdict == "fail"
    failed = {name for name, slope in found.slopes.items() if slope.verdict == "fail"}
    assert {"attention_0", "mlp_0", "logits", "readout alone", "layer_0/mlp_out alone"} <= failed
    assert "embedding" not in failed


@pytest.mark.parametrize(
    ("part", "role"),
    [("learning_rate", "hidden"), ("learning_rate", "output"), ("learning_rate", "input"), ("init", "output")],
)
def test_a_broken_rule_does_not_pass(part, role):
    found = check(Broken(base_width=8, part=part, role=role), seeds=4)
    assert found.verdict == "fail"


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
