"""Score submissions as AlgoPerf does: performance profiles integrated, with intervals, time ratios and what each workload does.

  python -m harness.score logs=trials.csv targets=workload_targets.json out=DIR
  python -m harness.score logs=trials.csv targets=workload_targets.json rules=algoperf where="ruleset='external_tuning'"
  python -m harness.score logs=submissions/external_tuning targets=workload_targets.json      an AlgoPerf log tree
  python -m harness.score logs=results/competition            what python -m harness.compete trained
  python -m harness.score logs=times.csv columns.submission=optimizer columns.time_to_target_s=seconds

logs: a table (CSV, TSV, Parquet, JSONL, JSON, also .gz, or a pattern of files) with one row a trial and the columns submission,
study, workload, trial, time_to_target_s (inf or empty: not met), hit_eval_index (from 0, negative: not met; rules=exact does
without) and perhaps time_rel_stderr (relative standard error of the step time that all times of a submission on a workload
share, 0.01 is 1%); or a folder <submission>/study_k/<workload>_<framework>/trial_j/eval_measurements.csv.
columns.NAME=COLUMN says which column is which. where: SQL condition of rows to use.
targets: AlgoPerf's workload_targets JSON, which names the base workloads and held-out variants that score; others in the logs
are left out. Without it every workload of a table is a base workload.
by: columns whose values are leaderboards of their own; version and ruleset where the table has them.
rules: exact (earliest time, exact integral) or algoperf (earliest evaluation index, trapezoid on 100 points, as published).
baseline: what speed-ups are over (default, also where it did not enter: the submission "baseline", else the highest score).
bootstrap: resamples of studies.

out=DIR writes scores.json, {submission: {score, ci95, per_workload, …}}, or {leaderboard: {submission: …}} where `by` finds
more than one; data.json, with what was read and left out; report.html and figures/*.png.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.cli import help_text, parse, run, wants_help
from harness.records.files import write_json
from harness.records.formats import is_study
from harness.records.importers import Table, read_table, select_columns, where
from harness.records.table import as_numbers, listed
from harness.registry import nearest
from harness.report.document import Section, write_document
from harness.report.fitted import data_section
from harness.report.scored import (
    CONDITIONAL,
    OPTIMISTIC,
    left_out_section,
    neighbours_section,
    pairs_section,
    ratio_section,
    score_section,
    warnings_of,
)
from harness.report.terminal import print_section
from harness.scoring import RULES, Rules, Scores, Targets, Trials, Workloads, leaderboard, read_targets, study_times
from harness.scoring.log_tree import read_logs
from harness.scoring.rules import TAU_MAX
from harness.scoring.scores import largest_changes
from workloads.base import BadInput

NAMES = ("submission", "study", "workload", "trial")
TIME, INDEX, ERROR = "time_to_target_s", "hit_eval_index", "time_rel_stderr"
GROUPS = "version,ruleset"
OWN_TRIALS, OWN_TARGETS = "submissions.csv", "targets.json"
"""What `python -m harness.compete` writes into its results folder."""


@dataclass
class ScoreConfig:
    logs: str = ""
    targets: str = ""
    rules: str = "exact"
    columns: dict[str, str] = field(default_factory=dict)
    where: str = ""
    by: str = GROUPS
    baseline: str = ""
    bootstrap: int = 1000
    seed: int = 0
    out: str = ""


def main(argv: list[str]) -> int:
    """Entry point; returns the exit code. Raises BadInput."""
    if wants_help(argv):
        print(help_text(__doc__, ScoreConfig))
        return 0
    config = parse(argv, ScoreConfig)
    rules = RULES[config.rules]()
    if config.seed < 0:
        raise BadInput(f"seed={config.seed} must be 0 or more")
    own = Path(config.logs).expanduser() / OWN_TARGETS
    path = config.targets or (str(own) if config.logs and own.is_file() else "")
    targets = read_targets(path) if path else None
    table, data = _rows(config, rules, targets)
    groups = _groups(table, config)
    _check_baseline(config.baseline, groups)
    boards = {name: _board(part, config, rules, targets) for name, part in groups.items()}
    warnings = {name: _warnings(board, config.baseline) for name, board in boards.items()}
    sections = {name: _sections(name, board, warnings[name]) for name, board in boards.items()}
    for parts in sections.values():
        for section in (parts["scores"], parts["neighbours"], parts["left out"]):
            print_section(replace(section, text="") if section is parts["scores"] else section)
    print_section(data_section(data))
    print(f"\n{CONDITIONAL}\n{OPTIMISTIC}")
    if config.out:
        _write(Path(config.out), argv, boards, sections, warnings, data)
    return 0


def _rows(config: ScoreConfig, rules: Rules, targets: Targets | None) -> tuple[Table, dict[str, Any]]:
    """The trials that score, and the account of those that do not."""
    by = _by(config)
    needed = (*NAMES, TIME, *((INDEX,) if rules.needs_index else ()), *(() if config.by == GROUPS else by))
    table = select_columns(_of_own_times(_read(config, targets), config), config.columns, needed, (INDEX, ERROR, *by))
    if config.where:
        table = where(table, config.where)
    present = [name for name in (*NAMES, *by) if name in table.columns]
    table = replace(table, columns={**table.columns, **{name: _labels(table, name) for name in present}})
    table = as_numbers(table, [name for name in (TIME, INDEX, ERROR) if name in table.columns])
    if targets is not None:
        table = _of_targets(table, targets)
    data = {
        "source": table.source,
        "rows_read": table.rows_read,
        "rows_used": len(table),
        "dropped": dict(table.dropped),
        "columns": dict(config.columns),
        "where": config.where or None,
        "targets": config.targets or None,
        "rules": config.rules,
        "notes": [*table.notes, *_contradictions(table, rules)],
    }
    return table, data


def _by(config: ScoreConfig) -> list[str]:
    return [word for word in config.by.split(",") if word]


def _read(config: ScoreConfig, targets: Targets | None) -> Table:
    if not config.logs:
        raise BadInput("which logs? logs=FILE takes a table of trials, logs=FOLDER an AlgoPerf log tree")
    folder = Path(config.logs).expanduser()
    if (folder / OWN_TRIALS).is_file():
        return read_table(folder / OWN_TRIALS)
    if not folder.is_dir() or is_study(folder):
        return read_table(config.logs)
    if targets is None:
        raise BadInput("a log tree holds curves, which take targets to judge them by: targets=workload_targets.json")
    return read_logs(folder, targets)


def _of_own_times(table: Table, config: ScoreConfig) -> Table:
    """The table without the error of its times where columns.time_to_target_s puts others in their place."""
    if ERROR not in table.columns or TIME not in config.columns or ERROR in config.columns:
        return table
    note = f"{ERROR} is of the table's own {TIME}, so not used; columns.{ERROR}=COLUMN gives an error to other times"
    columns = {name: column for name, column in table.columns.items() if name != ERROR}
    return replace(table, columns=columns, notes=(*table.notes, note))


def _labels(table: Table, name: str) -> np.ndarray:
    """(n,) names as text; numbers as short as they can be written."""
    column = table.columns[name]
    missing = np.array([value == "" for value in column]) if column.dtype == object else np.isnan(column)
    if missing.any():
        row = int(missing.argmax()) if table.rows is None else int(table.rows[missing.argmax()])
        raise BadInput(f"{table.source}, {table.place} {row}: {name} is empty; every trial needs one")
    texts = [value.strip() if isinstance(value, str) else repr(value).removesuffix(".0") for value in column.tolist()]
    return np.array(texts, object)


def _of_targets(table: Table, targets: Targets) -> Table:
    """The rows of the workloads that score, whose names may end in a framework; a note on each submission without any."""
    written = table.columns["workload"]
    names = np.array([targets.named(name) or name for name in written], object)
    keep = np.isin(names.astype(str), targets.workloads.columns)
    if not keep.any():
        there = listed(sorted(set(names.tolist())))
        raise BadInput(
            f"no workload of {table.source} ({there}) is among the targets ({listed(targets.workloads.columns)})"
        )
    others = int(np.sum(~keep))
    dropped = {**table.dropped, **({"workload is not among those that score": others} if others else {})}
    submissions = table.columns["submission"]
    lost = sorted(set(submissions) - set(submissions[keep]))
    notes = [f"no row is left of submission {listed(lost)}: its workloads are not among those that score"] * bool(lost)
    renamed = sorted(set(written[keep & (names != written)]))
    notes += [f"workloads taken without their framework: {listed(renamed)}"] * bool(renamed)
    return replace(
        table,
        columns={name: column[keep] for name, column in {**table.columns, "workload": names}.items()},
        dropped=dropped,
        notes=(*table.notes, *notes),
        rows=None if table.rows is None else table.rows[keep],
    )


def _contradictions(table: Table, rules: Rules) -> list[str]:
    """Rows whose index and time do not say the same: not met, save that a time is enough where rules need no index."""
    if INDEX not in table.columns:
        return []
    index, timed = table.columns[INDEX], np.isfinite(table.columns[TIME]) & (table.columns[TIME] > 0)
    cases = {
        f"{INDEX} but no {TIME}: not met": (index >= 0) & ~np.isfinite(table.columns[TIME]),
        f"{TIME} but a negative {INDEX}: not met": timed & (index < 0),
        f"{TIME} but no {INDEX}: {'not met' if rules.needs_index else 'met'}": timed & np.isnan(index),
    }
    return [f"{int(rows.sum())} rows have a {case}" for case, rows in cases.items() if rows.any()]


def _groups(table: Table, config: ScoreConfig) -> dict[str, Mapping[str, np.ndarray]]:
    """Columns of each leaderboard, under its name; "" if there is only one."""
    by = [name for name in _by(config) if name in table.columns]
    labels = np.array(["/".join(row) for row in zip(*(table.columns[name] for name in by), strict=True)], object)
    names = sorted(set(labels.tolist())) if by else []
    if len(names) < 2:
        return {"": table.columns}
    return {name: {key: column[labels == name] for key, column in table.columns.items()} for name in names}


def _check_baseline(baseline: str, groups: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    entered = sorted({name for columns in groups.values() for name in columns["submission"]})
    if baseline and baseline not in entered:
        raise BadInput(f"baseline '{baseline}' did not enter. {nearest(baseline, entered)}")


def _board(columns: Mapping[str, np.ndarray], config: ScoreConfig, rules: Rules, targets: Targets | None) -> Scores:
    seconds = columns[TIME]
    index = columns.get(INDEX, np.full(len(seconds), np.nan))
    names = {name: columns[name] for name in NAMES}
    trials = Trials(**names, hit_index=index, seconds=seconds, time_rel_stderr=columns.get(ERROR, np.zeros(1)))
    workloads = targets.workloads if targets is not None else Workloads(tuple(sorted(set(trials.workload.tolist()))))
    times = study_times(trials, workloads, rules)
    baseline = config.baseline if config.baseline in times.submissions else ""
    return leaderboard(times, rules, baseline=baseline, bootstrap=config.bootstrap, seed=config.seed)


def _warnings(board: Scores, baseline: str) -> tuple[str, ...]:
    """What a reader of a leaderboard must know first."""
    found = list(warnings_of(board))
    if baseline and baseline not in board.submissions:
        found.append(f"'{baseline}' did not enter; speed-ups are over {board.submissions[board.baseline]}.")
    return tuple(found)


def _sections(name: str, board: Scores, warnings: tuple[str, ...]) -> dict[str, Section]:
    found = {
        "scores": replace(score_section(board), warnings=warnings),
        "ratios": ratio_section(board),
        "neighbours": neighbours_section(board),
        "pairs": pairs_section(board),
        "left out": left_out_section(board),
    }
    if not name:
        return found
    return {key: _of_group(name, one) for key, one in found.items()}


def _of_group(name: str, section: Section) -> Section:
    plots = tuple(replace(plot, name=f"{name}_{plot.name}") for plot in section.plots)
    return replace(section, title=f"{name}: {section.title.lower()}", plots=plots)


def _write(
    folder: Path, argv: list[str], boards: Mapping[str, Scores], sections: Mapping[str, Mapping[str, Section]],
    warnings: Mapping[str, tuple[str, ...]], data: dict[str, Any],
) -> None:  # fmt: skip
    command = "python -m harness.score " + shlex.join(argv)
    entries = {name: board.to_json() for name, board in boards.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "scores.json", entries.get("", entries))
    about = {name or "all": _about(board, warnings[name]) for name, board in boards.items()}
    write_json(folder / "data.json", {**data, "leaderboards": about, "command": command})
    page = [parts[key] for parts in sections.values() for key in ("scores", "ratios", "pairs", "left out")]
    entered = sum(len(board.submissions) for board in boards.values())
    lead = f"{entered} submissions in {len(boards)} leaderboards" if len(boards) > 1 else f"{entered} submissions"
    lead = f"{lead} of {data['source']}, rules={data['rules']}."
    print(write_document(folder, "Scores", lead, [*page, data_section(data)], command), file=sys.stderr)


def _about(board: Scores, warnings: tuple[str, ...]) -> dict[str, Any]:
    """What holds for a whole leaderboard."""
    return {
        "base_workloads": board.base,
        "held_out_workloads": dict(board.times.workloads.held_out),
        "studies": board.times.studies,
        "tau_max": TAU_MAX,
        "bootstrap": 0 if board.draws is None else len(board.draws.scores),
        "minimum_detectable_speedup": board.detectable,
        "largest_change_without": largest_changes(board),
        "warnings": warnings,
        "intervals": f"{CONDITIONAL} {OPTIMISTIC}",
    }


if __name__ == "__main__":
    sys.exit(run(main))
