"""What a study, judge or compete found, as one more W&B run: verdicts, scores and laws in its summary, files as an artifact."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.records.files import read_json
from harness.tracking.wandb_runs import RECORDED, Destination, open_run
from workloads.base import BadInput

_FILES = (
    "study.yaml",
    "fit.json",
    "transfer.json",
    "prediction.json",
    "claims.json",
    "stages.json",
    "checks.json",
    "judge.json",
    "scores.json",
    "submissions.csv",
    "targets.json",
    "step_seconds.json",
    "report.html",
    "figures/*.png",
)


def results_id(study: str) -> str:
    """The id of a study's results run; beside trial ids, which are 16 hex digits."""
    return f"results-{re.sub('[^A-Za-z0-9_-]', '-', study)}"[:64]


def result_files(root: Path) -> list[Path]:
    """The analyses' files that the study has, in a fixed order."""
    return [path for pattern in _FILES for path in sorted(root.glob(pattern)) if path.is_file()]


def digest_of(root: Path) -> str:
    """Names the content of a study's results; empty if there are none."""
    files = result_files(root)
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16] if files else ""


def summary_of_results(root: Path) -> dict[str, Any]:
    """Verdicts of claims, transfers, checks and judge, scores, and laws with their parameters: "transfer/mup/verdict" ->
    "transfers", ...
    """
    found: dict[str, Any] = {}
    for index, claim in enumerate(_read(root / "claims.json", [])):
        found[f"claim/{index}/verdict"] = claim.get("verdict")
    for series, entry in _entries(_read(root / "transfer.json", {})):
        found |= {f"transfer/{series}/{key}": entry.get(key) for key in ("verdict", "drift_exponent")}
    fits = _read(root / "fit.json", {})
    for series, entry in [("fit", fits)] if "law" in fits else _entries(fits):
        found[f"law/{series}"] = entry.get("law")
        found |= {f"law/{series}/{name}": value for name, value in (entry.get("params") or {}).items()}
    for check, entry in _entries(_read(root / "checks.json", {})):
        for series, said in _entries(entry.get("verdicts") or {}):
            found[f"check/{check}/{series}/verdict"] = said.get("verdict")
    judged = _read(root / "judge.json", {}).get("overall") or {}
    found |= {f"judge/{key}": judged.get(key) for key in ("verdict", "value")}
    found |= {f"score/{name}": entry.get("score") for name, entry in _entries(_read(root / "scores.json", {}))}
    return {name: value for name, value in found.items() if isinstance(value, (str, int, float))}


def _read(path: Path, default: Any) -> Any:
    try:
        content = read_json(path) if path.exists() else default
    except BadInput:
        return default
    return content if isinstance(content, type(default)) else default


def _entries(content: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((name, entry) for name, entry in content.items() if isinstance(entry, dict))


def write_results(wandb: Any, to: Destination, root: Path, digest: str, code_version: str) -> None:
    """The results run with its artifact. Raises what W&B raises."""
    name = f"{to.group} results"
    run = open_run(wandb, to, results_id(to.group), {}, code_version, job_type="analysis", name=name)
    artifact = wandb.Artifact(re.sub("[^A-Za-z0-9_.-]", "-", to.group)[:128], type="study")
    for path in result_files(root):
        artifact.add_file(str(path), name=str(path.relative_to(root)))
    run.log_artifact(artifact)
    run.summary.update({**summary_of_results(root), RECORDED: digest})
    run.finish()
