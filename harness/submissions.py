"""Submissions: an optimizer with everything else that it decides about its training.

Registered optimizers are submissions, with defaults for the rest. A user's file may say, beside its function:

    SCHEDULE = {"name": "wsd", "warmup": "5%"}          # or "linear"; default: cosine after 10% of warmup
    SPACE = {"learning_rate": {"log": [1e-4, 1e-1]}}    # or a list of points; default: by the optimizer's family
    BATCH_SIZE = {"ctr": 512}                           # examples a step; default: the workload's
    HORIZON = 1.0                                       # share of compete's longest run that it plans for; default: 3/4
    CANDIDATES = 4                                      # batches drawn a step, of which its function `select` takes one's worth
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.algoperf import is_algoperf_style
from harness.config import WORKLOADS
from harness.optimizers.base import Optimizer
from harness.optimizers.user import declared, is_file, load_optimizer
from harness.registry import nearest
from harness.schedules import SCHEDULES
from harness.schedules.base import Schedule
from harness.tuning import Points, Space, default_space, parse_space, read_space
from workloads.base import BadInput, Workload

HORIZON = 3 / 4
"""The longest run is 4/3 of the one that targets were set with, so this is just as long."""
_DECLARATIONS = ("FAMILY", "SCHEDULE", "SPACE", "BATCH_SIZE", "HORIZON", "CANDIDATES")


@dataclass(frozen=True)
class Submission:
    """What is entered for a score.

    space: what is tuned. batch_sizes: workload -> examples a step, where not the workload's own. horizon: share of the
    longest run allowed that the schedule spans, after which training ends.
    """

    name: str
    optimizer: type[Optimizer]
    space: Space | Points
    schedule: Schedule = field(default_factory=lambda: SCHEDULES["cosine"]())
    batch_sizes: Mapping[str, int] = field(default_factory=dict)
    horizon: float = HORIZON

    def workload(self, workload: Workload) -> Workload:
        """The workload with this submission's batch size."""
        size = self.batch_sizes.get(workload.name)
        return workload if size is None else workload.replace(batch_size=size)


def load_submission(name: str, space: str = "") -> Submission:
    """A registered optimizer, or FILE.py:FUNCTION. space: a YAML file in place of the declared space, or of the default one.

    Raises BadInput on declarations that are none.
    """
    optimizer = _optimizer(name)
    said = declared(name)
    where = Path(name.partition(":")[0]).name
    for key in said:
        close = nearest(key, _DECLARATIONS)
        if key not in _DECLARATIONS and close.startswith("Did you mean"):
            raise BadInput(f"{where} says {key}, which means nothing. {close}")
    found: Space | Points
    if space:
        found = read_space(Path(space), optimizer())
    elif "SPACE" in said:
        found = parse_space(said["SPACE"], optimizer(), where)
    else:
        found = default_space(optimizer())
    return Submission(
        name=optimizer.name,
        optimizer=optimizer,
        space=found,
        schedule=_schedule(said.get("SCHEDULE", "cosine"), where),
        batch_sizes=_batch_sizes(said.get("BATCH_SIZE", {}), where),
        horizon=_horizon(said.get("HORIZON", HORIZON), where),
    )


def _optimizer(name: str) -> type[Optimizer]:
    """Raises BadInput that says what runs AlgoPerf's submissions, where the file is one."""
    try:
        return load_optimizer(name)
    except BadInput as error:
        file = name.partition(":")[0]
        if is_file(name) and is_algoperf_style(file):
            raise BadInput(
                f"{Path(file).name} is an AlgoPerf submission (it has init_optimizer_state or update_params); run it with "
                f"python -m harness.compete submissions={file}. Nothing else takes it, for as an optimizer {error}"
            ) from None
        raise


def _schedule(said: Any, where: str) -> Schedule:
    fields = {"name": said} if isinstance(said, str) else said
    if not (isinstance(fields, dict) and isinstance(fields.get("name"), str)):
        raise BadInput(f'{where}: SCHEDULE = {said!r} is none; write SCHEDULE = {{"name": "cosine", "warmup": "5%"}}')
    cls = SCHEDULES[fields["name"]]
    try:
        schedule = cls(**{key: value for key, value in fields.items() if key != "name"})
        schedule.validate()
    except TypeError as error:
        raise BadInput(f"{where}: SCHEDULE = {said!r}: {error}") from None
    return schedule


def _batch_sizes(said: Any, where: str) -> Mapping[str, int]:
    sizes = said.values() if isinstance(said, dict) else [None]
    if not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes):
        raise BadInput(f'{where}: BATCH_SIZE = {said!r} must be workload: examples a step, e.g. {{"ctr": 512}}')
    for name in said:
        if name not in WORKLOADS:
            raise BadInput(f"{where}: BATCH_SIZE names '{name}', which is no workload. {nearest(str(name), WORKLOADS)}")
    return {str(key): int(size) for key, size in said.items()}


def _horizon(said: Any, where: str) -> float:
    if not (isinstance(said, int | float) and math.isfinite(said) and 0 < said <= 1):
        raise BadInput(f"{where}: HORIZON = {said!r} is a share of the longest run and must lie in (0, 1]")
    return float(said)
