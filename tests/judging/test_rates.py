"""Learning rates around the best one, with made-up losses: muP's optimum stays where it is, SP's moves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.judging.contest import Arena, Setting, tune
from harness.judging.rates import FIRST_SEED, OCTAVES, rates_of, sweeps
from harness.submissions import load_submission
from workloads.image_mlp import ImageMLP

WIDTHS = (8, 16, 32, 64)


def found(drift, methods=("adamw", "lion"), widths=WIDTHS, cliff=math.inf):
    """Rates of both methods where the best rate is 3e-3 (width / 8)^drift; a rate beyond `cliff` times that diverges."""
    noise = np.random.default_rng(0)

    def train(trials):
        rows = {}
        for trial in trials:
            best = 3e-3 * (trial.workload.width / 8) ** drift
            octaves = math.log2(trial.optimizer.learning_rate / best)
            loss = 1 + 0.02 * octaves**2 + 1e-4 * noise.standard_normal()
            lost = octaves > math.log2(cliff)
            rows[trial.id] = {
                "final_loss": math.nan if lost else loss,
                "initial_loss": 2.3,
                "status": "diverged" if lost else "ok",
            }
        return rows

    settings = [Setting(ImageMLP(width=w), s) for w in widths[::-1] for s in (40, 20)]
    arena = Arena({"image_mlp": settings}, 40, 3)
    tuned = tune([load_submission(name) for name in methods], arena, train)
    made = sweeps(tuned, arena, methods)
    rows = train([trial for sweep in made for trial in sweep.trials.values()])
    return made, [rates_of(sweep, rows) for sweep in made]


@pytest.mark.parametrize(("drift", "verdict"), [(0.0, "transfers"), (-0.5, "does_not_transfer")])
def test_the_verdict_follows_the_optimum(drift, verdict):
    _, rates = found(drift)
    assert [one.method for one in rates] == ["adamw", "lion"]
    for one in rates:
        assert one.transfer.verdict == verdict
        assert one.transfer.drift.exponent == pytest.approx(drift, abs=0.1)


def test_rates_are_relative_to_the_smallest_widths_best_at_the_shortest_horizon():
    (sweep, _), _ = found(0.0)
    assert sweep.parametrization == "mup"
    assert {key[1] for key in sweep.trials} == set(OCTAVES)
    for (width, octave, seed), trial in sweep.trials.items():
        assert trial.workload.width == width
        assert trial.horizon == 20
        assert seed >= FIRST_SEED
        assert trial.parametrization.base_width == 8
        centre = sweep.trials[8, 0, FIRST_SEED].optimizer.learning_rate
        assert trial.optimizer.learning_rate == pytest.approx(centre * 2.0**octave)


def test_a_cliff_costs_the_loss_of_the_untrained_model():
    (_, gentle), (_, steep) = (found(0.0, cliff=cliff)[1] for cliff in (math.inf, 2.5))
    assert (steep.sensitivity.mean > gentle.sensitivity.mean + 0.2).all()


def test_an_unknown_family_trains_under_sp_and_one_width_says_nothing():
    made, rates = found(0.0, methods=("adagrad",), widths=(8,))
    assert made[0].parametrization == ("sp" if made[0].trials[8, 0, FIRST_SEED].optimizer.family == "other" else "mup")
    assert rates[0].transfer is None
    assert "two or more" in rates[0].note
