"""Recorded trials that nobody trained, for what only reads records."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from harness.records.store import Store


def trial_id(i: int) -> str:
    return f"{i:016x}"


def record(root: Path, count: int, steps: int = 6, first: int = 0, finished_at: str = "2026-01-01T00:00:00") -> Store:
    """Trials number first, first + 1, ... of a study; every third one diverged in its last step."""
    store = Store(root)
    trials = [trial_id(first + i) for i in range(count)]
    rows = [_row(trial, i, steps, finished_at) for i, trial in enumerate(trials, start=first)]
    store.append(rows, {trial: _curve(i, steps) for i, trial in enumerate(trials, start=first)})
    return store


def _row(trial: str, i: int, steps: int, finished_at: str) -> dict[str, Any]:
    config = {
        "workload": "regression",
        "workload.width": 8 * (1 + i % 2),
        "optimizer.learning_rate": 1e-3 * (1 + i),
        "parametrization": "mup",
        "seed": i,
    }
    diverged = i % 3 == 2
    results = {
        "status": "diverged" if diverged else "ok",
        "final_loss": math.nan if diverged else 1.0 / (1 + i),
        "params": 100 + i,
        "flops": 1e6,
        "matmul_flops": 600.0,
        "steps": steps,
        "train_s": 0.5,
        "compile_s": 0.25,
        "code_version": "0.1.0+34a7372abcde",
        "finished_at": finished_at,
        "study": "made",
    }
    return {"trial": trial, **config, **results, "config": json.dumps(config)}


def _curve(i: int, steps: int) -> dict[str, Any]:
    step = np.arange(1, steps + 1)
    loss = (1.0 / (step + i)).astype(np.float32)
    if i % 3 == 2:
        loss[-1] = np.nan
    evaluated = np.ma.masked_array(loss, mask=step % 3 != 0)
    return {
        "step": step,
        "tokens": 64 * step,
        "lr": np.full(steps, 1e-3, np.float32),
        "train_loss": loss,
        "eval_loss": evaluated,
        "eval_metric": evaluated,
    }
