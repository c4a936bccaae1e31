"""The checks that a study asks for: validated before anything is trained, run on its records, written to checks.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.analysis import Cell
from harness.checks import CHECKS, Check, Finding
from harness.checks.base import members_of
from harness.config import StudyConfig, schema
from harness.laws.plots import Plot
from harness.records.files import write_json
from harness.records.store import Store
from harness.registry import nearest
from harness.sweep import trials_of
from harness.transfer.plain import plain
from harness.trial import Trial
from workloads.base import BadInput

FILE = "checks.json"


def checks_of(study: StudyConfig, trials: Sequence[Trial]) -> dict[str, Check]:
    """Name -> the check with its options. Raises BadInput on unknown names and options, and where a probe is missing."""
    found: dict[str, Check] = {}
    for analysis in study.analyses:
        options = dict(analysis)
        name = options.pop("check", None)
        if name is None:
            continue
        check = _built(str(name), options)
        missing = [probe for probe in check.probes if any(probe not in trial.probes for trial in trials)]
        if missing:
            raise BadInput(f"the check '{name}' reads the probe {missing[0]}: add it to study.base.probes")
        if any(check.axis not in trial.config() for trial in trials[:1]):
            raise BadInput(
                f"check '{name}': axis={check.axis} is no key of the trials. {nearest(check.axis, trials[0].config())}"
            )
        found[name] = check
    return found


def _built(name: str, options: Mapping[str, Any]) -> Check:
    cls = CHECKS[name]
    known = [f.name for f in dataclasses.fields(cls)]
    for key in options:
        if key not in known:
            raise BadInput(f"check '{name}' has no option '{key}'. {nearest(key, known)}")
    try:
        node = OmegaConf.structured(schema(cls, named=False))  # type: ignore[arg-type]
        node.merge_with(dict(options))
        values = OmegaConf.to_container(node)
    except OmegaConfBaseException as error:
        raise BadInput(f"check '{name}': {str(error).splitlines()[0]}") from None
    assert isinstance(values, dict)
    return cls(**{str(key): value for key, value in values.items()})


def run_checks(study: StudyConfig, cells: Sequence[Cell], root: Path) -> dict[str, Finding]:
    """Every check on the study's trials; checks.json is written under `root`. Nothing is trained but what checks do."""
    trials = trials_of(study, [cell.point for cell in cells])
    checks = checks_of(study, trials)
    if not checks:
        return {}
    members = members_of(cells, trials, Store(root).curves([trial.id for trial in trials]))
    found: dict[str, Finding] = {}
    for name, check in checks.items():
        try:
            found[name] = check.run(members)
        except BadInput as error:
            found[name] = Finding({"all": ("undecided", str(error))}, {})
    write_json(root / FILE, {name: _entry(checks[name], finding) for name, finding in found.items()})
    return found


def _entry(check: Check, finding: Finding) -> dict[str, Any]:
    """What the report shows, and the evidence."""
    tables = [{"title": t.title, "header": list(t.header), "rows": [list(r) for r in t.rows]} for t in finding.tables]
    pictures = [_picture(plot) for plot in finding.plots]
    entry = {"title": check.title, **finding.to_json(), "tables": tables, "plots": pictures}
    return {key: plain(value) for key, value in entry.items()}


def _picture(plot: Plot) -> dict[str, Any]:
    layers = [{key: value for key, value in vars(layer).items() if value is not None} for layer in plot.layers]
    return {**{key: value for key, value in vars(plot).items() if key != "contour"}, "layers": layers}
