"""Simulated arrays: nothing is lost or doubled, seeds decide, and simple cases are what formulas say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import cli, study
from harness.launchers.slurm.simulate import FILE
from harness.launchers.slurm.simulation import Outcome, Site, grouped, simulate
from harness.records.files import read_json
from workloads.base import BadInput

BUSY: dict[str, Any] = {
    "slots": 20, "gpus": 2, "launch_s": 0.1, "latency_s": 2.0, "start_s": 10.0, "compile_s": 15.0, "look_s": 0.3,
    "look_row_s": 1e-5, "record_s": 0.2, "chunk_s": 20.0, "checkpoint_s": 0.5, "checkpoint_every_s": 25.0,
    "limit_s": 3600.0, "signal_s": 60.0, "preemptions": 1.0, "grace_s": 12.0, "failures": 0.5, "requeue_s": 100.0,
}  # fmt: skip


def run(seconds: Sequence[float], target: float = 0.0, seed: int = 0, **site: Any) -> Outcome:
    """Packs of 64 trials, in tasks of about `target` seconds."""
    packs = np.array(seconds)
    return simulate(packs, np.full(len(packs), 64), grouped(packs, target, len(packs)), Site(**site), seed)


def uneven(count: int = 400) -> np.ndarray:
    return np.random.default_rng(1).uniform(50.0, 900.0, count)


@pytest.mark.parametrize(
    "change", [{}, {"grace_s": 0.0}, {"grace_s": 1e4}, {"checkpoint_every_s": math.inf}, {"slots": 1}]
)
def test_every_pack_is_recorded_once_and_all_time_is_accounted_for(change: dict[str, float]) -> None:
    site = BUSY | {"retries": 10**6} | change
    outcome = run(uneven(), target=1800.0, **site)
    assert (outcome.finished == 1).all()
    assert outcome.rows == 64 * 400
    assert outcome.given_up == 0
    assert outcome.spent["useful"] == pytest.approx(2 * uneven().sum())
    every_gpu = site["slots"] * site["gpus"] * outcome.makespan
    assert outcome.allocated + sum(outcome.idle.values()) == pytest.approx(every_gpu)
    assert min(*outcome.spent.values(), *outcome.idle.values()) >= 0
    assert {"preempted", "failed"} <= outcome.ended.keys()


def test_the_seed_decides() -> None:
    one, same, other = (run(uneven(), 1800.0, seed, **BUSY) for seed in (0, 0, 1))
    assert (one.makespan, one.spent, one.idle, one.ended) == (same.makespan, same.spent, same.idle, same.ended)
    assert one.makespan != other.makespan


@pytest.mark.parametrize(("count", "slots"), [(10, 3), (12, 4), (5, 8)])
def test_without_interruptions_tasks_run_in_waves(count: int, slots: int) -> None:
    outcome = run([100.0] * count, slots=slots, latency_s=1.0, start_s=4.0, compile_s=5.0, record_s=2.0, look_s=1.0)
    assert outcome.makespan == pytest.approx(-(-count // slots) * 113.0)
    assert outcome.ended == {"done": count}


def test_the_controller_starts_one_task_after_the_other() -> None:
    outcome = run([10.0] * 5, slots=5, launch_s=2.0)
    assert outcome.makespan == pytest.approx(5 * 2.0 + 10.0)
    assert outcome.idle["launching"] == pytest.approx(2.0 * (1 + 2 + 3 + 4 + 5))


def test_failures_without_checkpoints_cost_what_the_formula_says() -> None:
    """Restarting from nothing at rate r, a task of T seconds takes (e^(rT) - 1)/r on average."""
    rate, length, tasks = 3.6, 800.0, 4000
    outcome = run([length] * tasks, slots=tasks, failures=rate, retries=10**6)
    assert outcome.allocated / tasks == pytest.approx(math.expm1(rate / 3600 * length) / (rate / 3600), rel=0.05)


def test_a_preemption_costs_half_a_checkpoint_interval_and_a_start() -> None:
    """Without warning, on average; with one that is longer than a chunk, only the start."""
    site: dict[str, Any] = {
        "slots": 2000,
        "start_s": 7.0,
        "checkpoint_every_s": 40.0,
        "chunk_s": 40.0,
        "preemptions": 1.0,
    }
    hard = run([3600.0] * 2000, **site)
    cuts = hard.ended["preempted"]
    assert hard.spent["lost"] / cuts == pytest.approx(20.0, rel=0.1)
    assert hard.spent["start"] == pytest.approx(7.0 * (2000 + cuts), rel=0.01)
    soft = run([3600.0] * 2000, **site, grace_s=41.0)
    assert soft.spent["lost"] == 0
    assert soft.ended["preempted"] > 1000


def test_time_limits_checkpoint_and_go_on() -> None:
    outcome = run([1000.0], slots=1, limit_s=310.0, signal_s=10.0, chunk_s=5.0, requeue_s=50.0)
    assert outcome.ended == {"time limit": 3, "done": 1}
    assert outcome.makespan == pytest.approx(1000.0 + 3 * 50.0)
    assert outcome.idle["requeued"] == pytest.approx(150.0)


def test_a_task_that_never_gets_anywhere_is_given_up() -> None:
    """A chunk that takes longer than the time limit allows."""
    outcome = run([1000.0, 1000.0], slots=2, limit_s=100.0, signal_s=10.0, chunk_s=500.0, retries=2)
    assert outcome.ended == {"time limit": 6}
    assert outcome.given_up == 2
    assert not outcome.finished.any()
    assert outcome.spent["useful"] == 0


def test_preemptions_alone_never_give_up() -> None:
    outcome = run([400.0] * 50, slots=50, preemptions=40.0, retries=0)
    assert (outcome.finished == 1).all()
    assert outcome.ended["preempted"] > 500


def test_tasks_are_neighbouring_packs_of_about_a_length() -> None:
    seconds = uneven(1000)
    edges = grouped(seconds, 1800.0, 1000)
    sums = [seconds[a:b].sum() for a, b in pairwise(edges)]
    assert max(sums) <= 1800.0
    assert min(a + b for a, b in pairwise(sums)) > 1800.0 - 900.0
    few = grouped(seconds, 1800.0, 40)
    assert (few[0], few[-1]) == (0, 1000)
    assert 30 < len(few) - 1 <= 40


def test_what_makes_no_sense_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInput, match="preemptions=-1"):
        run([1.0], preemptions=-1.0)
    with pytest.raises(BadInput, match="raise limit_s"):
        run([1.0], limit_s=10.0, signal_s=10.0)
    for words, message in (
        (["trails=5"], "trials"),
        (["gpus=0"], "at least 1"),
        (["measured=no.json"], "does not exist"),
        (["study=regresion"], "regression"),
    ):
        assert cli.run(study.main, ["simulate", *words]) == 2
        assert message in capsys.readouterr().err


def test_the_command_tells_where_time_goes_and_what_breaks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["simulate", "trials=100000", "gpus=100", "steps=1000", f"out={tmp_path}"]
    assert cli.run(study.main, words) == 0
    content = read_json(tmp_path / FILE)
    assert content["packs"] == content["finished_packs"] == 1563
    assert content["doubled_packs"] == 0
    assert sum(content["uses"].values()) == pytest.approx(1.0)
    assert content["makespan_h"] > content["ideal_h"]
    assert content["bottleneck"] in capsys.readouterr().out
    reached = [limit["trials"] for limit in content["limits"] if limit["trials"] is not None]
    assert reached == sorted(reached)


def test_a_study_s_own_plan_is_simulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "study=regression",
        "cluster=cpu",
        "engine.pack_size=8",
        f"results='{tmp_path}'",
        f"out={tmp_path}",
        "gpus=4",
    ]
    assert cli.run(study.main, ["simulate", *words]) == 0
    content = read_json(tmp_path / FILE)
    assert content["trials"] == 6 * 7 * 4
    assert content["packs"] == 6 * 4
    assert content["options"]["retries"] == 2
    assert "are a guess" in capsys.readouterr().out
    assert cli.run(study.main, ["simulate", *words, "trials=2000", "time_min=30"]) == 0
    larger = read_json(tmp_path / FILE)
    assert 2000 <= larger["trials"] < 2000 + 6 * 7 * 4
    assert larger["options"]["time_min"] == 30
    assert not (tmp_path / "regression").exists()
