"""The benchmark's machinery: what it would report is right. Nothing here is timed."""

from __future__ import annotations

import importlib.util
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest

from harness.config import with_values
from harness.engine.devices import local_devices
from harness.launchers.slurm import simulate
from harness.records.files import read_json
from tests.bench import families, gpu, report, scale, studies, sweep
from tests.bench.__main__ import chosen
from tests.bench.cases import trial
from tests.bench.measure import Measure, Section, Target, Timer, interleave, ratios
from tests.bench.overhead import STUDIES
from tests.bench.same_model import TOLERANCE, largest_difference, send
from tests.bench.setup import Setup
from tests.bench.worker import Worker
from tests.trials import LM
from workloads.base import BadInput


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return Setup(local_devices(), environment, tmp_path, rounds=2, seconds=1e-3)


def test_targets_are_judged_by_the_median_and_the_worst_repeat_is_shown():
    speed = Measure("speed", "x", (2.0, 4.0, 1.0), Target("at least", 2.0))
    assert (speed.median, speed.worst, speed.met) == (2.0, 1.0, True)
    cost = Measure("overhead", "%", (4.0, 7.0, 6.0), Target("at most", 5.0))
    assert (cost.median, cost.worst, cost.met) == (6.0, 7.0, False)
    assert Measure("time", "ms", (1.0, 3.0, 2.0)).worst == 3.0
    assert Measure("time", "ms", (1.0,)).met is None
    assert Measure("count", "programs", (1.0,), Target("exactly", 0.0)).met is False


@pytest.mark.parametrize("sense", ["at least", "at most", "exactly"])
def test_a_measure_that_is_no_number_misses_its_target(sense):
    assert not Target(sense, 0.0).met(math.nan)


def test_timings_alternate_in_order():
    calls: list[str] = []

    def timer(name: str, value: float):
        return lambda: calls.append(name) or value

    timings = interleave({"a": timer("a", 6.0), "b": timer("b", 2.0)}, rounds=3)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert ratios(timings["a"], timings["b"]) == [3.0, 3.0, 3.0]


@pytest.mark.parametrize(("seconds", "steps"), [(0.5, 500), (10.0, 1000), (1e-9, 1)])
def test_a_timer_chooses_its_steps_once_and_divides_by_trial_steps(seconds, steps):
    runs: list[int] = []

    def run(count: int) -> float:
        runs.append(count)
        return 1e-3 * count

    timer = Timer(run, seconds, most=1000, trials=4)
    assert timer() == pytest.approx(1e-3 / 4)
    tried = len(runs)
    timer()
    assert runs[tried - 1 :] == [steps, steps]


def test_packs_and_the_loop_train_and_are_compared(setup):
    plan = gpu.Plan(lambda width: LM.replace(width=width), (8,), packs=(1, 2), precisions=("float32",), horizon=4)
    section = gpu.measure(setup, plan)
    values = {measure.name.removeprefix("width 8 float32: "): measure.repeats for measure in section.measures}
    assert set(values) == {"loop", "pack of 1", "pack of 2", "pack of 1 / loop", "pack of 2 / loop"}
    assert ratios(values["pack of 2"], values["loop"]) == pytest.approx(values["pack of 2 / loop"])
    assert all(len(repeats) == 2 and min(repeats) > 0 for repeats in values.values())


def test_peaks_are_found_by_the_most_specific_name():
    assert gpu.peak_flops("NVIDIA H100 80GB HBM3", "bfloat16") == 989.4e12
    assert gpu.peak_flops("NVIDIA H100 PCIe", "bfloat16") == 756e12
    assert gpu.peak_flops("cpu", "float32") is None


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="PyTorch is an extra of the benchmark")
def test_pytorch_trains_the_same_model_and_a_difference_would_show(setup):
    one = trial(LM, "adamw", steps=8)
    with Worker("tests.bench.eager", setup.environment) as worker:
        send(worker, one, setup.folder, setup.seconds)
        assert largest_difference(worker, one) < TOLERANCE
        for key, value in {"optimizer.learning_rate": 1.2e-3, "optimizer.b2": 0.9, "schedule.warmup": "50%"}.items():
            assert largest_difference(worker, with_values(one, {key: value})) > TOLERANCE, key
        assert worker.ask(time=str(LM.width))["seconds"] > 0


def test_a_dead_worker_is_an_error(setup):
    with Worker("tests.bench.no_such_module", setup.environment) as worker, pytest.raises((RuntimeError, OSError)):
        worker.ask(time="8")


def test_the_sample_of_the_sweep_is_balanced():
    full = sweep.Sweep()
    sample = [full.jobs[i] for i in sweep._SAMPLE]
    assert len(full.jobs) == len(set(full.jobs)) == 32
    assert {width for width, _, _ in sample[:2]} == set(full.widths)
    assert [sum(job[0] == width for job in sample) for width in full.widths] == [3, 3]
    assert "-m" in full.packed()
    assert "seed=0,1" in full.packed()
    assert "workload.width=32" in full.separate(full.jobs[0])


def test_a_cut_study_has_the_trials_that_are_named():
    trials = studies.study_trials("quickstart", STUDIES["quickstart"])
    assert {one.workload.width for one in trials} == {32, 64}
    assert len(trials) == 16
    assert len({one.static() for one in trials}) == 2


def test_sections_are_those_of_the_platform():
    assert chosen(None, "cpu") == [
        "steps",
        "sweep",
        "small",
        "overhead",
        "tracker",
        "scale",
        "families",
        "fit",
        "published",
    ]
    assert chosen(None, "gpu") == ["gpu"]
    assert chosen("small,steps", "cpu") == ["small", "steps"]
    with pytest.raises(BadInput, match="steps"):
        chosen("step", "cpu")
    with pytest.raises(BadInput, match="platform"):
        chosen("gpu", "cpu")


def test_a_study_is_submitted_looked_at_and_merged_whole(setup, monkeypatch):
    monkeypatch.setenv("PATH", os.environ["PATH"])  # to which `run` adds
    size = scale.Size(seeds=1, per_pack=10)
    section = scale.section_of(size, 4, [scale.run(size, 4, setup.folder)])
    values = {measure.name: measure.median for measure in section.measures}
    assert values["trials lost by any of it"] == 0
    assert all(values[name] > 0 for name in simulate.MEASURES.values())
    path = report.write(setup.folder / "bench", [section], report.machine(setup.devices), {})
    assert simulate.main(["trials=1000", "gpus=10", f"measured={path}", f"out={setup.folder}"]) == 0
    assert read_json(setup.folder / simulate.FILE)["options"]["merge_ms"] == values["merge, a pack"]


def test_a_family_is_timed_by_the_step_and_whole(setup):
    section = families.measure(setup, names=("ctr",), counts=(), steps=10)
    assert [measure.unit for measure in section.measures] == ["ms", "s"]
    assert all(measure.median > 0 for measure in section.measures)


def test_every_repeat_is_written(tmp_path, setup):
    section = Section("small", "title")
    section.add("speed", "x", [1.0, 3.0], Target("at least", 2.5))
    path = report.write(tmp_path / "bench", [section], report.machine(setup.devices), {"rounds": 2})
    content = read_json(path)
    assert content["met"] is False
    assert content["sections"][0]["measures"][0]["repeats"] == [1.0, 3.0]
    assert {"device", "cpu", "cores", "load"} <= content["machine"].keys()
    assert content["versions"]["jax"]
    assert replace(section.measures[0], target=None).met is None
