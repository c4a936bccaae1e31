"""How long a listing takes: 100,000 trials with 100 curve points each, in 1,000 fragments and compacted.

Run by hand: python -m tests.records.bench_listing [trials] [fragments]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from harness.records.store import Store

POINTS = 100


def row(index: int, random: np.random.Generator, study: str = "generated") -> dict[str, Any]:
    """A trial's row as the engine writes it, one in 50 diverged."""
    width = int(2 ** random.integers(4, 10))
    diverged = index % 50 == 49
    loss = float("nan") if diverged else 1.5 + 20 * width**-0.5 + 0.1 * random.random()
    config: dict[str, Any] = {
        "workload": "language_model", "workload.width": width, "workload.depth": 2, "workload.batch_size": 16,
        "workload.context": 64, "workload.heads": 2, "workload.vocabulary": 256, "workload.corpus": "stdlib",
        "workload.qk_norm": False, "workload.z_loss": 0.0, "workload.tied": True, "workload.attention_scale": 1.0,
        "workload.residual_scale": 1.0, "workload.output_scale": 1.0, "optimizer": "adamw",
        "optimizer.learning_rate": float(2.0 ** random.uniform(-10, -4)), "optimizer.b1": 0.9, "optimizer.b2": 0.98,
        "optimizer.eps": 1e-8, "optimizer.weight_decay": float(random.choice([0.0, 0.01, 0.1])), "schedule": "cosine",
        "schedule.warmup": 0.1, "schedule.final": 0.0, "parametrization": str(random.choice(["sp", "mup"])),
        "parametrization.base_width": 64, "budget.steps": None, "budget.tokens": 200_000.0, "evaluations": 10,
        "divergence_factor": 4.0, "precision": "float32", "seed": index % 4, "data_seed": 0,
    }  # fmt: skip
    return config | {
        "trial": f"{index * 0x9E3779B97F4A7C15 % 2**64:016x}", "study": study,
        "status": "diverged" if diverged else "ok",
        "initial_loss": 5.5, "final_loss": loss, "best_loss": loss, "test_loss": loss, "final_metric": loss,
        "best_metric": loss, "diverged_step": 17 if diverged else None, "params": 12 * width**2, "horizon": 195,
        "steps": 195, "tokens": 199_680, "flops": 6.1e5 * width**2, "flops_6nd": 6e5 * width**2, "compile_s": 0.2,
        "data_s": 0.0, "train_s": float(random.random()), "eval_s": 0.1, "checkpoint_s": 0.01,
        "pack": f"{index // 100:08x}", "pack_size": 100, "device": "cpu", "devices": 2, "xla_flags": "",
        "code_version": "0.1.0", "packages": json.dumps({"jax": "0.10.2", "numpy": "2.4.6"}),
        "started_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T00:00:30Z", "error": None,
        "config": json.dumps(config),
    }  # fmt: skip


def curve(random: np.random.Generator, points: int = POINTS) -> dict[str, np.ndarray]:
    """`points` training losses, evaluated at every tenth."""
    steps = np.arange(points) * 2
    evaluated = np.arange(points) % 10 != 9
    loss = (5 - 0.01 * steps + 0.1 * random.standard_normal(points)).astype(np.float32)
    return {
        "step": steps, "tokens": steps * 1024, "lr": np.full(points, 1e-3), "train_loss": loss,
        "eval_loss": np.ma.masked_array(loss, evaluated), "eval_metric": np.ma.masked_array(loss, evaluated),
    }  # fmt: skip


def generate(root: Path, trials: int, fragments: int, points: int = POINTS) -> Store:
    """A store of `trials` trials in `fragments` appends (never merged on the way)."""
    store = Store(root)
    store.merge_above = fragments + 1
    random = np.random.default_rng(0)
    for part in np.array_split(np.arange(trials), fragments):
        rows = [row(int(index), random) for index in part]
        store.append(rows, {r["trial"]: curve(random, points) for r in rows})
    return store


def listing_seconds(results: Path, *arguments: str) -> float:
    """Wall time of the command, interpreter start included; the best of three."""
    command = [sys.executable, "-m", "harness.runs", f"results={results}", "study=generated", *arguments]
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return min(times)


def main(trials: int = 100_000, fragments: int = 1_000) -> None:
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        start = time.perf_counter()
        store = generate(results / "generated", trials, fragments)
        print(f"{trials:,} trials x {POINTS} points appended in {time.perf_counter() - start:.1f} s")
        _report(results, f"{fragments:,} fragments")
        start = time.perf_counter()
        store.compact()
        print(f"compact: {time.perf_counter() - start:.2f} s")
        _report(results, "compacted")


def _report(results: Path, state: str) -> None:
    store = Store(results / "generated")
    for arguments in ((), ("where=width=64 and status='ok'", "sort=final_loss")):
        print(f"{state}: listing {' '.join(arguments)}: {listing_seconds(results, *arguments):.2f} s")
    for name, call in {
        "finished()": store.finished,
        "trials()": store.trials,
        "curves(10 trials)": lambda: store.curves(sorted(store.finished())[:10]),
        "curves()": store.curves,
    }.items():
        start = time.perf_counter()
        call()
        print(f"{state}: {name}: {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
