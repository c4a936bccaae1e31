"""A study as the harness would record it, with losses from a known law instead of training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from harness.laws import LAWS, fit, prediction_verdict, straight_line
from harness.laws.fit import Prediction
from harness.records.files import write_json
from harness.records.store import Store
from harness.transfer import Transfer, learning_rate_transfer

WIDTHS = (16, 24, 32, 48, 64, 96)
RATES = tuple(range(-9, -3))
DRIFT = {"sp": -0.45, "mup": 0.02}
SCALE = 128
PACKAGES = json.dumps({"jax": "0.10.2", "numpy": "2.4.6", "python": "3.11.9"})


def params(width: float) -> int:
    return int(24 * width**2 + 512 * width)


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


def transfer_of(rows: Sequence[Mapping[str, Any]], series: str) -> Transfer:
    chosen = [entry for entry in rows if entry["parametrization"] == series]

    def column(name: str) -> np.ndarray:
        return np.array([entry[name] for entry in chosen])

    return learning_rate_transfer(
        column("workload.width"),
        column("optimizer.learning_rate"),
        column("final_loss"),
        column("seed"),
        column("status") == "diverged",
        base_scale=min(WIDTHS),
    )


def make(root: Path) -> None:
    """A whole study: sweep, analyses, prediction, predicted trials, claims."""
    write_study(root)
    rows = sweep_rows()
    write_rows(root, rows)
    transfers = {series: transfer_of(rows, series) for series in DRIFT}
    write_json(root / "transfer.json", {series: found.to_json() for series, found in transfers.items()})
    fits, predictions, predicted, claims = {}, {}, [], []
    for series, found in transfers.items():
        inputs = np.array([params(width) for width in WIDTHS], np.float64)
        law = fit(
            LAWS["power_law_offset"](),
            {"N": inputs},
            found.loss_at_best,
            stderr=found.loss_at_best_stderr_paired,
            stderr_dof=found.dof,
        )
        fits[series] = law.to_json() | {"x": "params", "inputs": inputs, "fitted": law.losses}
        at = law.predict({"N": [params(SCALE)]}, noise=float(found.noise.paired * found.loss_at_best[-1] / np.sqrt(2)))
        rate, line = found.best_lr_at(SCALE), float(straight_line(inputs, found.loss_at_best, params(SCALE)))
        predictions[series] = {
            "x": "params",
            "size": params(SCALE),
            "learning_rate": rate,
            "loss": float(at.mean[0]),
            "low": float(at.low[0]),
            "high": float(at.high[0]),
            "straight_line": line,
            "fitted_losses": law.losses,
        }
        new = [
            row(10_000 + len(predicted) + seed, series, SCALE, float(np.log2(rate)), seed, "2026-01-02T10:30:00+00:00")
            for seed in (0, 1)
        ]
        predicted += new
        observed = float(np.mean([entry["final_loss"] for entry in new]))
        verdict = prediction_verdict(Prediction(*at), observed, law.losses, line)
        claims.append((series, verdict))
    write_json(root / "fit.json", fits)
    write_json(
        root / "prediction.json",
        {
            "written_at": "2026-01-02T10:15:00+00:00",
            "sweep": "00",
            "scale": SCALE,
            "seeds": [0, 1],
            "series": predictions,
        },
    )
    write_rows(root, predicted)
    write_json(root / "claims.json", _claims(transfers, dict(claims)))


def _claims(transfers: Mapping[str, Transfer], verdicts: Mapping[str, Any]) -> list[dict[str, Any]]:
    out = []
    for claim in STUDY["claims"]:
        kind = "drift" if "drift" in claim else "prediction"
        series = claim[kind]["parametrization"]
        if kind == "prediction":
            verdict = verdicts[series]
            out.append(
                {
                    "claim": claim,
                    "verdict": verdict.verdict,
                    "evidence": {"reason": verdict.reason, **verdict.evidence},
                }
            )
            continue
        entry = transfers[series].to_json()
        expected = {"zero": "transfers", "nonzero": "does_not_transfer"}[claim["expect"]]
        verdict = (
            "undecided"
            if entry["verdict"] == "undecided"
            else "supported"
            if entry["verdict"] == expected
            else "refuted"
        )
        keys = ("drift_exponent", "drift_ci90", "drift_ci95", "verdict", "reason")
        out.append({"claim": claim, "verdict": verdict, "evidence": {key: entry[key] for key in keys}})
    return out
