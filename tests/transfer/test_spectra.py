"""Top singular values, and their scaling with width under weight decay, on matrices and tables with known answers."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.transfer.spectra import singular_value_scaling, top_singular_values
from workloads.base import BadInput

WIDTHS = np.array([32.0, 64, 128, 256])
MATRICES = ("query", "mlp_in", "mlp_out")
# weight-decay rule -> exponent of lambda in width; eta is 1/d for all of them
RULES = {"coupled": 0.0, "sqrt": 0.5, "independent": 1.0}


def table(rng, rules=RULES, exponents=(0.75, 0.75, 0.75), noise=0.02, settings=(1.0,), seeds=2):
    """sigma_max = c sqrt(eta / lambda) d^exponent of each matrix, with relative noise."""
    rows = []
    for rule, power in rules.items():
        for width in np.repeat(WIDTHS, seeds):
            for setting in settings:
                eta, decay = 0.3 * setting / width, 0.01 * (width / 32) ** power
                for k, (name, exponent) in enumerate(zip(MATRICES, exponents, strict=True)):
                    sigma = (1 + k) * np.sqrt(eta / decay) * width**exponent * np.exp(noise * rng.normal())
                    rows.append((width, name, sigma, eta, decay, rule))
    return dict(
        zip(
            ("width", "parameter", "sigma_max", "learning_rate", "weight_decay", "rule"),
            zip(*rows, strict=True),
            strict=True,
        )
    )


def test_only_the_papers_rule_keeps_gains_and_the_law_holds_for_all():
    found = singular_value_scaling(**table(np.random.default_rng(0)))
    assert {rule: one.gain_verdict for rule, one in found.items()} == {
        "coupled": "refuted",
        "sqrt": "supported",
        "independent": "refuted",
    }
    assert {one.law_verdict for one in found.values()} == {"supported"}
    for rule, expected in {"coupled": 0.25, "sqrt": 0.0, "independent": -0.25}.items():
        assert found[rule].parameters["query"].gain.value == pytest.approx(expected, abs=0.06)
        assert found[rule].parameters["query"].width is None  # eta / lambda is a power of the width


def test_both_exponents_are_fitted_where_the_table_determines_them():
    found = singular_value_scaling(**table(np.random.default_rng(1), {"all": 0.5}, settings=(0.25, 1.0, 4.0)))["all"]
    for one in found.parameters.values():
        assert one.width.value == pytest.approx(0.75, abs=0.05)
        assert one.rate.value == pytest.approx(0.5, abs=0.05)
    assert found.law_verdict == "supported"
    assert found.gain_verdict == "undecided"
    assert "rule label" in found.gain_reason


def test_planted_square_root_scaling_refutes_the_law():
    found = singular_value_scaling(**table(np.random.default_rng(2), exponents=(0.5, 0.5, 0.5)))
    assert {one.law_verdict for one in found.values()} == {"refuted"}
    assert found["coupled"].gain_verdict == "supported"


def test_a_wrong_exponent_of_the_rate_refutes_the_law_though_the_ratio_is_flat():
    columns = table(np.random.default_rng(3), {"all": 0.5}, settings=(0.25, 1.0, 4.0))
    rate = np.array(columns["learning_rate"]) / columns["weight_decay"] * np.array(columns["width"]) ** 1.5
    columns["sigma_max"] = columns["sigma_max"] * (rate / rate.mean()) ** 0.5
    found = singular_value_scaling(**columns)["all"]
    assert found.parameters["query"].ratio.value == pytest.approx(0.0, abs=0.05)
    assert found.law_verdict == "refuted"


def test_one_bad_matrix_is_not_averaged_away():
    found = singular_value_scaling(**table(np.random.default_rng(4), {"sqrt": 0.5}, exponents=(0.75, 1.05, 0.45)))[
        "sqrt"
    ]
    assert found.gain_verdict == "refuted"
    assert "2 of 3" in found.gain_reason


def test_verdicts_are_calibrated_and_have_power():
    rng, count = np.random.default_rng(5), 150

    def share(exponent, verdict, noise):
        single = [
            singular_value_scaling(**table(rng, {"sqrt": 0.5}, (exponent, 0.75, 0.75), noise))["sqrt"]
            for _ in range(count)
        ]
        return np.mean([one.gain_verdict == verdict for one in single])

    assert share(0.75, "supported", 0.03) >= 0.9
    assert share(0.75, "refuted", 0.3) <= 0.05
    assert share(0.90, "supported", 0.05) <= 0.07  # at the bound
    assert share(1.05, "refuted", 0.03) >= 0.8


def test_two_widths_decide_nothing():
    columns = {k: np.array(v) for k, v in table(np.random.default_rng(6)).items()}
    found = singular_value_scaling(**{k: v[columns["width"] < 100] for k, v in columns.items()})["sqrt"]
    assert (found.gain_verdict, found.law_verdict) == ("undecided", "undecided")
    assert "add widths" in found.gain_reason


def test_json_round_trips():
    found = singular_value_scaling(**table(np.random.default_rng(0)))["sqrt"]
    entry = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert entry["gain"]["verdict"] == "supported"
    assert entry["parameters"]["query"]["rate"] is None
    assert len(entry["parameters"]["query"]["ratio"]["ci95"]) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_decay": np.zeros(24)}, "weight_decay holds 0.0"),
        ({"parameter": ["a"]}, "one entry a run"),
        ({"sigma_max": np.ones(3)}, "sigma_max has shape"),
    ],
)
def test_bad_tables(change, message):
    with pytest.raises(BadInput, match=message):
        singular_value_scaling(**(table(np.random.default_rng(0), {"sqrt": 0.5}) | change))


def tree():
    rng = np.random.default_rng(0)
    low_rank = np.outer(np.arange(1.0, 41), np.ones(30)).astype(np.float32)
    return {
        "layer": {"tall": rng.normal(size=(96, 40)).astype(np.float32), "gain": np.ones(40, np.float32)},
        "kernel": rng.normal(size=(3, 3, 8, 16)).astype(np.float32),
        "rank_one": low_rank,
        "zero": np.zeros((6, 9), np.float32),
    }


def test_top_singular_values_of_every_matrix():
    params = tree()
    expected = {
        "kernel": np.linalg.norm(params["kernel"].reshape(72, 16), 2),
        "layer/tall": np.linalg.norm(params["layer"]["tall"], 2),
        "rank_one": np.linalg.norm(params["rank_one"], 2),
        "zero": 0.0,
    }
    exact = jax.jit(top_singular_values)(params)
    assert exact.keys() == expected.keys()
    few = jax.jit(lambda p: top_singular_values(p, 16))(params)
    one = jax.jit(lambda p: top_singular_values(p, 1))(params)
    for name, value in expected.items():
        assert exact[name] == pytest.approx(value, rel=1e-5)
        assert few[name] == pytest.approx(value, rel=0.01)
        assert few[name] <= value * (1 + 1e-5)
    assert one["layer/tall"] < 0.9 * expected["layer/tall"]  # a single step finds a random direction's gain


def test_top_singular_values_over_a_trial_axis():
    stacked = jnp.stack([jnp.eye(5), 3 * jnp.eye(5)])
    assert jax.vmap(top_singular_values)({"w": stacked})["w"].tolist() == pytest.approx([1.0, 3.0])
