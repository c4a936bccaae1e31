"""A study as the harness would record it, with losses from a known law instead of training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from harness.analysis import Cell
from harness.config import StudyConfig
from harness.records.store import Store
from harness.study import investigate, write_outcome
from harness.sweep import Point, points_of

WIDTHS = (16, 24, 32, 48, 64, 96)
RATES = tuple(range(-9, -3))
DRIFT = {"sp": -0.45, "mup": 0.02}
SCALE = 128
PACKAGES = json.dumps({"jax": "0.10.2", "numpy": "2.4.6", "python": "3.11.9"})


def params(width: float) -> int:
    return int(24 * width**2 + 517 * width)  # of the language model, 2 layers, 256 bytes


def loss_of(series: str, width: float, log_lr: float, seed: int) -> float:
    """L = E + A N^-alpha at the best learning rate, a lopsided basin around it, seed effects; NaN where diverged."""
    best = -6.0 + DRIFT[series] * np.log2(width / 32)
    u = log_lr - best
    floor = 1.55 + 9.0 * params(width) ** -0.24
    noise = 0.001 * np.random.default_rng([seed, 7]).normal()
    noise += 0.001 * np.random.default_rng([seed, int(width), int(10 * log_lr + 500)]).normal()
    return float("nan") if u > 2.3 else float(floor * np.exp(0.12 * (np.exp(0.7 * u) - 0.7 * u - 1) + noise))


def row(number: int, series: str, width: int, log_lr: float, seed: int, began: str) -> dict[str, Any]:
    loss = loss_of(series, width, log_lr, seed)
    diverged = not np.isfinite(loss)
    tokens = 81_920 if diverged else 200_704
    size = params(width)
    return {
        "trial": f"{number:016x}",
        "study": "synthetic",
        "status": "diverged" if diverged else "ok",
        "workload": "language_model",
        "workload.width": width,
        "workload.depth": 2,
        "optimizer": "adamw",
        "optimizer.learning_rate": 2.0**log_lr,
        "optimizer.b2": 0.98,
        "schedule": "cosine",
        "parametrization": series,
        "budget.tokens": 2e5,
        "seed": seed,
        "initial_loss": 5.55,
        "final_loss": loss,
        "best_loss": loss,
        "test_loss": loss + 0.01,
        "final_metric": loss,
        "params": size,
        "horizon": 196,
        "steps": tokens // 1024,
        "tokens": tokens,
        "flops": 6.3 * size * tokens,
        "flops_6nd": 6.0 * size * tokens,
        "matmul_flops": 6.2 * size * tokens,
        "diverged_step": 80 if diverged else None,
        "compile_s": 0.4,
        "data_s": 0.01,
        "train_s": 0.2 + width / 40,
        "eval_s": 0.1 + width / 400,
        "checkpoint_s": 0.02,
        "records_s": 0.005,
        "pack": f"pack{width}",
        "pack_size": 12,
        "device": "cpu",
        "devices": 2,
        "xla_flags": "--xla_force_host_platform_device_count=2",
        "code_version": "0.1.0+0123456789ab",
        "packages": PACKAGES,
        "started_at": began,
        "finished_at": began.replace("T10", "T11"),
        "error": None,
        "config": "{}",
    }


def curve(entry: Mapping[str, Any]) -> dict[str, Any]:
    steps = np.arange(1, 197)
    final = entry["final_loss"] if np.isfinite(entry["final_loss"]) else 12.0
    train = (
        final + (5.55 - final) * np.exp(-steps / 28) + 0.05 * np.random.default_rng(entry["params"]).normal(size=196)
    )
    if entry["status"] == "diverged":
        train = np.where(steps > 80, np.nan, 5.55 + steps / 20)
    evaluated = np.where(steps % 49 == 0, train + 0.02, np.nan)
    evaluated[-1] = entry["final_loss"]
    return {
        "step": steps,
        "tokens": steps * 1024,
        "lr": np.full(196, 1e-3),
        "train_loss": train,
        "eval_loss": np.ma.masked_invalid(evaluated),
        "eval_metric": np.ma.masked_invalid(evaluated),
    }


def sweep_rows() -> list[dict[str, Any]]:
    points = [(s, w, x, seed) for s in DRIFT for w in WIDTHS for x in RATES for seed in (0, 1)]
    return [row(i, *point, began="2026-01-02T10:00:00+00:00") for i, point in enumerate(points)]


STUDY = {
    "name": "synthetic",
    "question": "Does the best learning rate move with width, and can small models predict the next size?",
    "base": {
        "workload": "language_model",
        "optimizer": "adamw",
        "optimizer.b2": 0.98,
        "schedule": "cosine",
        "budget.tokens": 2e5,
    },
    "sweep": {
        "parametrization": ["sp", "mup"],
        "workload.width": list(WIDTHS),
        "optimizer.learning_rate": {"log2": [-9, -4]},
        "seed": [0, 1],
    },
    "predict": {"workload.width": SCALE},
    "analyses": [{"transfer": "workload.width"}, {"law": "power_law_offset", "x": "params"}],
    "claims": [
        {"drift": {"parametrization": "sp"}, "expect": "nonzero", "source": "Yang et al. 2022, figure 1"},
        {"drift": {"parametrization": "mup"}, "expect": "zero"},
        {"prediction": {"parametrization": "mup"}, "expect": "hit"},
    ],
}
DATA = [
    {
        "corpus": "stdlib",
        "files": 612,
        "tokens": {"train": 9_000_000, "validation": 500_000, "test": 500_000},
        "sha256": "9f" * 32,
        "split": "by file",
    }
]


def write_study(root: Path, study: Mapping[str, Any] = STUDY, data: Sequence[Any] = tuple(DATA)) -> None:
    root.mkdir(parents=True, exist_ok=True)
    document = {"study": dict(study), "data": list(data), "results": "results", "dry_run": False}
    (root / "study.yaml").write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))


def write_rows(root: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    Store(root).append(rows, {entry["trial"]: curve(entry) for entry in rows})


class FakeTraining:
    """Points -> cells, as harness.study trains them, with made-up losses recorded in the store at `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows: list[dict[str, Any]] = []

    def __call__(self, points: Sequence[Point]) -> list[Cell]:
        began = "2999-01-02T10:30:00+00:00"  # after any prediction that is written now
        new = [
            row(
                len(self.rows) + i,
                point["parametrization"],
                point["workload.width"],
                float(np.log2(point["optimizer.learning_rate"])),
                point["seed"],
                began,
            )
            for i, point in enumerate(points)
        ]
        self.rows += new
        write_rows(self.root, new)
        return [Cell(point, entry) for point, entry in zip(points, new, strict=True)]


def make(root: Path) -> None:
    """A whole study by the harness's own hands, but for the training: sweep, prediction, predicted trials, claims."""
    write_study(root)
    study = StudyConfig(**STUDY)
    outcome = investigate(study, points_of(study.sweep), FakeTraining(root), root)
    write_outcome(root, outcome)
