"""Every check says what is true of made-up trials, and the opposite of their counter-examples."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.analysis import LEARNING_RATE
from harness.checks import CHECKS
from harness.checks.run import checks_of
from harness.config import StudyConfig
from harness.report.checked import check_sections
from harness.transfer.plain import plain
from tests.checks.made import STEPS, members
from tests.trials import small_trial
from workloads.base import BadInput

WIDTHS = [16, 32, 64, 128]


def noise(point, scale=0.02):
    """Of this trial, the same in every process."""
    seed = list(str(sorted(point.items(), key=str)).encode())
    return np.exp(scale * np.random.default_rng(seed).standard_normal())


def verdicts(name, made, **options):
    found = CHECKS[name](**options).run(made)
    json.dumps(plain(found.to_json()))
    return {series: word for series, (word, _) in found.verdicts.items()}


def sharp(exponent):
    def curve(point):
        values = 10 * point["workload.width"] ** exponent * (1 + STEPS / 400) * noise(point)
        return {"probe.sharpness": values, "probe.bounded": values, "probe.bound": np.full(8, 200.0)}

    axes = {"parametrization": ["sp"], "workload.width": WIDTHS, LEARNING_RATE: [0.01], "seed": [0, 1, 2]}
    return members(axes, lambda point: {}, curve)


def test_sharpness():
    assert verdicts("sharpness", sharp(0.0)) == {"sp": "independent"}
    assert verdicts("sharpness", sharp(0.6)) == {"sp": "dependent"}
    with pytest.raises(BadInput, match="quantity=sharp must be"):
        CHECKS["sharpness"](quantity="sharp").run(sharp(0.0))


def values_of(exponent):
    def row(point):
        size = point["workload.width"] ** exponent * noise(point, 0.005)
        return {
            "probe.sigma_max:layer_0/mlp_in": size,
            "probe.sigma_max:layer_0/mlp_out": 2 * size,
            "probe.sigma_max:embedding": 7.0,
        }

    axes = {"workload.width": WIDTHS, LEARNING_RATE: [0.01], "seed": [0, 1]}
    return members(axes, row, optimizer__weight_decay=1.0)


def test_singular_values():
    assert verdicts("singular_values", values_of(0.0))["all"] == "invariant"
    assert verdicts("singular_values", values_of(0.4))["all"] == "varies"
    assert verdicts("singular_values", values_of(0.75))["all/law"] == "holds"
    assert verdicts("singular_values", values_of(0.0))["all/law"] == "fails"
    with pytest.raises(BadInput, match="no decayed matrix"):
        CHECKS["singular_values"](matrices="nothing").run(values_of(0.0))


def valley(steepness):
    def row(point):
        away = np.log2(point[LEARNING_RATE] / 2**-6)
        slope = steepness if point["workload.qk_norm"] else 0.2
        return {"final_loss": 2 + slope * away**2 * 0.1 + 0.002 * (noise(point) - 1)}

    axes = {
        "workload.qk_norm": [False, True],
        "workload.width": [16, 32],
        LEARNING_RATE: [2.0**k for k in range(-9, -2)],
        "seed": [0, 1, 2],
    }
    return members(axes, row)


def test_sensitivity():
    assert verdicts("sensitivity", valley(0.05), baseline="qk_norm=False") == {"qk_norm=True": "lower"}
    assert verdicts("sensitivity", valley(0.2), baseline="qk_norm=False") == {"qk_norm=True": "not_lower"}
    with pytest.raises(BadInput, match="there are: qk_norm=False, qk_norm=True"):
        CHECKS["sensitivity"](baseline="none").run(valley(0.1))


def growing(beyond):
    """Attention logits grow with width and learning rate; at the largest width by another factor."""

    def curve(point):
        width = point["workload.width"]
        last = 400 * point[LEARNING_RATE] * (width / 16) ** 0.5 * noise(point, 0.01) * (beyond if width == 128 else 1)
        return {"probe.attention_logit_0": last * STEPS / STEPS[-1], "probe.attention_logit_1": last * STEPS / 400}

    axes = {"workload.width": WIDTHS, LEARNING_RATE: [2.0**k for k in range(-10, -2)], "seed": [0, 1]}
    return members(axes, lambda point: {}, curve)


def test_instability():
    assert verdicts("instability", growing(1.0)) == {"all": "hit"}
    assert verdicts("instability", growing(8.0)) == {"all": "missed"}


def batches(exponent):
    def row(point):
        best = 2**-8 * (point["workload.batch_size"] / 4) ** exponent
        away = np.log2(point[LEARNING_RATE] / best)
        return {"final_loss": (2 + 0.05 * away**2) * noise(point, 0.001)}

    axes = {
        "workload.batch_size": [4, 8, 16, 32],
        LEARNING_RATE: [2.0**k for k in range(-11, -3)],
        "seed": [0, 1, 2],
    }
    return members(axes, row)


def test_batch_exponent():
    assert verdicts("batch_exponent", batches(0.5)) == {"all": "predicted"}
    assert verdicts("batch_exponent", batches(0.0)) == {"all": "differs"}


def norms(growth):
    def curve(point):
        return {"probe.norm:layer_0/mlp_in": (1 + growth * STEPS / 160) * noise(point, 0.001)}

    return members({"workload.width": [16], LEARNING_RATE: [0.01], "seed": [0, 1, 2]}, lambda point: {}, curve)


def test_effective_rate():
    assert verdicts("effective_rate", norms(0.0)) == {"all": "follows"}
    assert verdicts("effective_rate", norms(2.0)) == {"all": "drifts"}


def edges(ratio):
    def curve(point):
        bound = np.full(8, 2 / point[LEARNING_RATE])
        values = ratio * bound * noise(point, 0.05)
        return {
            "probe.sharpness": 0.6 * values,
            "probe.bounded": values,
            "probe.bound": bound,
            "probe.stability_top": values,
        }

    return members({"workload.width": [16], LEARNING_RATE: [0.01, 0.02], "seed": [0, 1, 2]}, lambda point: {}, curve)


def test_edge_of_stability():
    assert verdicts("edge_of_stability", edges(1.0)) == {"all": "at_edge"}
    assert verdicts("edge_of_stability", edges(0.5)) == {"all": "below_edge"}
    assert verdicts("edge_of_stability", edges(1.6)) == {"all": "above_edge"}
    assert verdicts("edge_of_stability", edges(1.0)[:1]) == {"all": "undecided"}
    with pytest.raises(BadInput, match="quantity=sharp must be one of bounded, batch_sharpness"):
        CHECKS["edge_of_stability"](quantity="sharp").run(edges(1.0))


def scores(gap):
    """The large batch's test error is `gap` above the small one's, and both have a best learning rate of 2^-3."""

    def row(point):
        error = 0.1 + 0.01 * (np.log2(point[LEARNING_RATE]) + 3) ** 2 + gap * (point["workload.batch_size"] > 16)
        error += 0.002 * (noise(point) - 1)
        return {"final_metric": error, "test_metric": error, "final_loss": error, "test_loss": error}

    axes = {"workload.batch_size": [16, 256], LEARNING_RATE: [2.0**k for k in range(-5, -1)], "seed": [0, 1, 2]}
    return members(axes, row)


def test_generalization():
    assert verdicts("generalization", scores(0.0), baseline="batch_size=16") == {"batch_size=256": "no_worse"}
    assert verdicts("generalization", scores(0.05), baseline="batch_size=16") == {"batch_size=256": "worse"}
    assert verdicts("generalization", scores(-0.05), baseline="batch_size=16", score="loss") == {
        "batch_size=256": "no_worse"
    }
    made = [m for m in scores(0.0) if m.row["seed"] == 0]
    assert verdicts("generalization", made, baseline="batch_size=16") == {"batch_size=256": "undecided"}
    found = CHECKS["generalization"](baseline="batch_size=16").run(scores(0.05))
    assert found.document["batch_size=256"]["learning_rate"] == 2.0**-3
    for options, words in (
        ({"baseline": "8"}, "there are: batch_size=16, batch_size=256"),
        ({"score": "error"}, "must be loss or metric"),
    ):
        with pytest.raises(BadInput, match=words):
            CHECKS["generalization"](**options).run(scores(0.0))


def test_a_probe_that_was_not_recorded_is_named():
    with pytest.raises(BadInput, match=r"add the probe .* to base\.probes"):
        CHECKS["sharpness"]().run(norms(0.0))


def study(**analysis):
    return StudyConfig(name="made", question="?", analyses=[analysis])


def test_checks_are_validated_before_anything_is_trained():
    trial = small_trial()
    probed = small_trial()
    object.__setattr__(probed, "probes", ("sharpness",))
    assert set(checks_of(study(check="sharpness", first=0.5), [probed])) == {"sharpness"}
    for analysis, words in (
        ({"check": "sharpnes"}, "Did you mean 'sharpness'"),
        ({"check": "sharpness"}, r"add it to study\.base\.probes"),
        ({"check": "coordinates", "step": 3}, "has no option 'step'"),
        ({"check": "coordinates", "seeds": "many"}, "could not be converted to Integer"),
        ({"check": "coordinates", "axis": "workload.widht"}, r"Did you mean 'workload\.width'"),
    ):
        with pytest.raises(BadInput, match=words):
            checks_of(study(**analysis), [trial])


def test_the_report_shows_findings_and_survives_hostile_ones():
    found = CHECKS["sharpness"]().run(sharp(0.0))
    entry = plain({"title": "t", **found.to_json(), "tables": [], "plots": []})
    hostile = {
        "title": 3,
        "verdicts": ["x"],
        "tables": [3, {"rows": [[1], 2], "header": None}],
        "plots": [{"layers": [{"x": "a"}]}],
    }
    shown = list(check_sections({"sharpness": entry, "<script>": hostile}))
    assert [section.id for section in shown] == ["check-0", "check-1"]
    assert "independent" in str(shown[0].tables)
