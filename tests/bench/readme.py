"""README's tables: of measures, from the committed benchmark; of claims, from the committed studies; of targets.

python -m tests.bench.readme              rewrites README.md and SLURM/README.md between their markers
python -m tests.bench.readme simulate     simulates SLURM/README.md's studies anew before, from the committed benchmarks
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness import score, study
from harness.launchers.slurm.simulate import FILE
from harness.records.files import atomic_write_text, read_json
from harness.records.importers import read_table
from harness.scoring import read_targets
from tests.bench.setup import ROOT

README = ROOT / "README.md"
SLURM = ROOT / "SLURM" / "README.md"
REFERENCE = ROOT / "results" / "reference"
FILES = ("bench.json", "bench_small.json", "bench_fit.json")
_CLAIMS = re.compile(r"(<!-- claims -->\n).*?(<!-- /claims -->)", re.S)
_TARGETS = re.compile(r"(<!-- targets -->\n).*?(<!-- /targets -->)", re.S)
_COMPETITIONS = re.compile(r"(<!-- competitions -->\n).*?(<!-- /competitions -->)", re.S)
_JUDGEMENTS = re.compile(r"(<!-- judgements -->\n).*?(<!-- /judgements -->)", re.S)
_SIMULATIONS = re.compile(r"(<!-- simulations -->\n).*?(<!-- /simulations -->)", re.S)
_MARKED = re.compile(r"(<!-- bench: (\S+) -->\n).*?(<!-- /bench -->)", re.S)


def table(content: dict[str, Any]) -> str:
    """A Markdown table of every measure that has a target, with machine and date above it."""
    machine = content["machine"]
    lines = [
        f"Medians of {content['date'][:10]}, {machine['cpu']}, {machine['cores']} cores, load {machine['load']:.1f} before, "
        f"code {content['versions']['code']}:",
        "",
        "| measure | reached | asked |",
        "|---|---|---|",
    ]
    for section in content["sections"]:
        for measure in section["measures"]:
            if measure["target"] is None:
                continue
            sense, bound = measure["target"]["sense"], measure["target"]["bound"]
            reached = f"{measure['median']:.3g} {measure['unit']}"
            shown = reached if measure["met"] else f"**{reached}**"
            lines.append(f"| {section['name']}: {measure['name']} | {shown} | {sense} {bound:g} |")
    return "\n".join(lines)


def claims(folder: Path) -> str:
    """A Markdown table of every claim of every committed study of checks or transfer."""
    lines = ["| study | claim | verdict | evidence |", "|---|---|---|---|"]
    for path in sorted(folder.glob("*/claims.json")):
        for claim in read_json(path):
            kind, series = next((key, value) for key, value in claim["claim"].items() if isinstance(value, dict))
            name = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in series.items())
            said = f"{kind} of {name or 'all'}: {claim['claim']['expect']}"
            cells = (f"`{path.parent.name}`", said, claim["verdict"], str(claim["evidence"]["reason"]).rstrip("."))
            lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


ALGORITHMS = {"adamw": "AdamW", "nadamw": "NadamW", "nesterov": "Nesterov", "momentum": "heavy ball"}


def targets(folder: Path) -> str:
    """Markdown tables of the committed targets, and of how far every algorithm that set them came; variants fold away."""
    found = {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}
    base = {name: entry for name, entry in found.items() if not entry["variant"]}
    variants = {name: entry for name, entry in found.items() if entry["variant"]}
    summary = f"<details><summary>{len(variants)} variants, of which some are held out</summary>"
    return "\n".join([*_rows(base), "", summary, "", *_rows(variants), "", "</details>"])


def _rows(entries: Mapping[str, Any]) -> list[str]:
    header = ("workload", "target (validation)", "steps", "set by", "seeds that reach it", *ALGORITHMS.values())
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for name, entry in entries.items():
        tuned = [entry["algorithms"][algorithm] for algorithm in ALGORITHMS]
        shown = [
            (f"{one['gap_closed']:.0%}" if one["gap_closed"] is not None else f"({_middle(one['finals']):.3g})")
            + "\\*" * bool(one["at_edge"])
            for one in tuned
        ]
        target = f"{entry['metric']} {entry['validation_target']:.4g}"
        seeds = entry.get("hit_seeds") or entry["seeds"]
        reach = f"{round(entry['hit_probability'] * len(seeds))} of {len(seeds)}" + " (its own)" * (
            "hit_seeds" not in entry
        )
        cells = (name, target, entry["steps"], ALGORITHMS[entry["algorithm"]], reach, *shown)
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return lines


def _middle(finals: Sequence[float | None]) -> float:
    return sorted(math.inf if final is None else final for final in finals)[len(finals) // 2]


def competitions(folder: Path) -> str:
    """Markdown, of every committed competition: where it is, and a row per submission, the best first."""
    return "\n\n".join(_competition(path.parent) for path in sorted(folder.glob(f"*/{score.OWN_TRIALS}")))


def _competition(folder: Path) -> str:
    """Scores in time and in steps with their intervals, and how many trials met their workload's target."""
    columns = read_table(folder / score.OWN_TRIALS).columns
    content = read_json(folder / score.OWN_TARGETS)
    workloads = read_targets(folder / score.OWN_TARGETS).workloads
    in_time, in_steps = (read_json(folder / place / "scores.json") for place in (".", "steps"))
    studies, trials = (len(set(columns[name].tolist())) for name in ("study", "trial"))
    header = ("submission", "score, in time", "95%", "score, in steps", "95%", "workloads that count")
    header += ("speed-up, in time", "95%", "trials that met their target")
    lines = [
        f"`{folder.relative_to(ROOT)}`: {', '.join(workloads.base)}, held out: {', '.join(workloads.held_out)}; {studies} "
        f"studies of {trials} trials; targets relaxed by {content['relaxed_by']:.0%}.",
        "",
        f"| {' | '.join(header)} |",
        "|---" * len(header) + "|",
    ]
    for name in sorted(in_time, key=lambda one: in_time[one]["rank"]):
        own, steps = in_time[name], in_steps[name]
        counts = sum(one["status"] == "counts" for one in own["per_workload"].values())
        faster = own["speedup"]
        mine = np.isin(columns["workload"].astype(str), workloads.columns) & (columns["submission"] == name)
        met = columns["hit_eval_index"][mine] >= 0
        cells = (
            name,
            f"{own['score']:.3f}",
            _interval(own["ci95"]),
            f"{steps['score']:.3f}",
            _interval(steps["ci95"]),
            f"{counts} of {len(workloads.base)}",
            "-" if faster["value"] is None else f"{faster['value']:.2f}",
            "-" if faster["value"] is None else _interval(faster["ci95"]),
            f"{met.sum()} of {met.size}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _interval(ends: Sequence[float | None]) -> str:
    return "-" if None in ends else f"[{ends[0]:.2f}, {ends[1]:.2f}]"


def judgements(folder: Path) -> str:
    """A Markdown table of every committed judgement: of all its workloads, and of each."""
    header = ("judged", "on", "speed-up in steps", "90%", "95%", "verdict", "with size")
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for path in sorted(folder.glob("*/judge.json")):
        found = read_json(path)
        judged = f"`{found['judged']}` against {', '.join(f'`{name}`' for name in found['baselines'])}"
        parts = {"all": (found["overall"], "")}
        parts |= {name: (one["overall"], one["with_size"]["verdict"]) for name, one in found["workloads"].items()}
        for name, (one, size) in parts.items():
            value = "-" if one["value"] is None else f"{one['value']:.2f}"
            cells = (judged, name, value, _interval(one["ci90"]), _interval(one["ci95"]), one["verdict"], size)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


BASE = (
    "trials=1000000",
    "gpus=1000",
    "measured=results/reference/bench_scale.json,results/reference/bench.json",
    "step='width 64: engine'",
)
STUDIES = {  # of SLURM/README.md: what each changes
    "as it is": (),
    "more tasks": ("max_tasks=20000", "max_array=20001"),
    "no warning": ("grace_s=0", "preemptions=1"),
    "packs of one": ("pack_trials=1",),
    "ten times the trials": ("trials=10000000",),
}


def simulate() -> None:
    """Write results/reference/simulation/ anew."""
    for name, words in STUDIES.items():
        changed = {word.partition("=")[0] for word in words}
        base = [word for word in BASE if word.partition("=")[0] not in changed]
        out = REFERENCE / "simulation" / name.replace(" ", "_")
        study.main(["simulate", *(word.replace("'", "") for word in (*base, *words)), f"out={out}"])


def simulations(folder: Path) -> str:
    """Markdown: the command, a table with a column for every simulated study, and what breaks first in the first."""
    found = {name: read_json(folder / "simulation" / name.replace(" ", "_") / FILE) for name in STUDIES}
    lines = [f"    windtunnel study simulate {' '.join(BASE)}", ""]
    changes = [" ".join(f"`{word}`" for word in words) or "-" for words in STUDIES.values()]
    rows = {"": list(STUDIES), "changed": changes}
    for what, show in _ROWS.items():
        rows[what] = [show(content) for content in found.values()]
    for use in next(iter(found.values()))["uses"]:
        rows[f"GPU time: {use}"] = [f"{100 * content['uses'][use]:.1f}%" for content in found.values()]
    rows["bottleneck"] = [f"{content['bottleneck']}" for content in found.values()]
    lines += [f"| {' | '.join([what, *cells])} |" for what, cells in rows.items()]
    lines.insert(3, "|---" * (len(found) + 1) + "|")
    lines += ["", f"What breaks first ({next(iter(found))}):", "", "| what grows | here | limit | reached at, trials |"]
    lines.append("|---|---|---|---|")
    for limit in next(iter(found.values()))["limits"]:
        unit, reached = limit["unit"], limit["trials"]
        at = "it does not depend on them" if reached is None else f"{reached:.2g}"
        lines.append(f"| {limit['what']} | {limit['here']:.3g} {unit} | {limit['limit']:.3g} {unit} | {at} |")
    return "\n".join(lines)


_ROWS: dict[str, Callable[[dict[str, Any]], str]] = {
    "trials, packs, tasks": lambda c: f"{c['trials']:,}, {c['packs']:,}, {c['tasks']:,}",
    "attempts": lambda c: ", ".join(f"{count} {cause}" for cause, count in c["attempts"].items()),
    "packs lost or doubled": lambda c: str(c["packs"] - c["finished_packs"] + c["doubled_packs"]),
    "makespan": lambda c: f"{c['makespan_h']:.1f} h",
    "without any loss": lambda c: f"{c['ideal_h']:.1f} h",
    "useful share of allocated GPU time": lambda c: f"{100 * c['utilisation']:.1f}%",
    "planning before it": lambda c: f"{c['plan_s']:.0f} s",
    "merging all its records": lambda c: f"{c['merge_s']:.0f} s",
}


def written(text: str, folder: Path = REFERENCE) -> str:
    """README's text with its tables made anew."""
    text = _CLAIMS.sub(lambda m: f"{m[1]}{claims(folder)}\n{m[2]}", text)
    text = _TARGETS.sub(lambda m: f"{m[1]}{targets(ROOT / 'conf' / 'targets')}\n{m[2]}", text)
    text = _COMPETITIONS.sub(lambda m: f"{m[1]}{competitions(folder)}\n{m[2]}", text)
    text = _JUDGEMENTS.sub(lambda m: f"{m[1]}{judgements(folder)}\n{m[2]}", text)
    text = _SIMULATIONS.sub(lambda m: f"{m[1]}{simulations(folder)}\n{m[2]}", text)
    return _MARKED.sub(lambda m: f"{m[1]}{table(read_json(folder / m[2]))}\n{m[3]}", text)


if __name__ == "__main__":
    if sys.argv[1:] == ["simulate"]:
        simulate()
    for path in (README, SLURM):
        atomic_write_text(path, written(path.read_text()))
    sys.exit(0)
