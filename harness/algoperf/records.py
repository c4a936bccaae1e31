"""What a training with an AlgoPerf submission is given, and what it finds."""

from __future__ import annotations

import keyword
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harness.algoperf.submission import AlgoPerfSubmission
from workloads.base import BadInput, Workload

Ended = Literal["steps", "submission", "time", "error"]


@dataclass(frozen=True)
class Task:
    """The arguments of `harness.algoperf.train`, which says what they are. steps: of the workload's own batch size.

    stretch: of steps and max_seconds over what the submission is told, as AlgoPerf stretches but the clock of self-tuning ones:
    their step_hint and max_allowed_runtime_sec stay those of external tuning.
    """

    submission: AlgoPerfSubmission
    workload: Workload
    hyperparameters: Mapping[str, Any]
    steps: int
    evaluations: int
    seed: int
    max_seconds: float = math.inf
    data_seed: int | None = None
    test_curve: bool = False
    stretch: float = 1.0

    def validate(self) -> None:
        """Raise BadInput if this cannot be trained."""
        if self.steps < 1 or self.evaluations < 1:
            raise BadInput(f"steps={self.steps} and evaluations={self.evaluations} must be at least 1")
        if not self.max_seconds > 0:
            raise BadInput(f"max_seconds={self.max_seconds} must be positive")
        if not self.stretch >= 1:
            raise BadInput(f"stretch={self.stretch} must be at least 1")
        for number in (self.seed, self.data_seed or 0):
            if not 0 <= number < 2**31:
                raise BadInput(f"seed {number} must lie in [0, 2^31)")
        for name in self.hyperparameters:
            check_name(name)
        for name in ("dropout_rate", "label_smoothing"):
            value = self.hyperparameters.get(name)
            if not (value is None or isinstance(value, int | float)):
                raise BadInput(f"{name}={value!r} must be a number, or null for none")


def check_name(name: str) -> None:
    """Raise BadInput if a hyperparameter of this name cannot be an attribute of a namedtuple."""
    if not name.isidentifier() or name.startswith("_") or keyword.iskeyword(name):
        raise BadInput(
            f"hyperparameter '{name}' cannot be an attribute; use letters, digits and _, and no word of Python"
        )


@dataclass(frozen=True)
class Evaluation:
    """On the validation split. step: updates taken. seconds: the submission's time up to here, prepare_for_eval included.

    test_loss, test_metric: on the test split, None where it was not looked at.
    """

    step: int
    seconds: float
    loss: float
    metric: float
    test_loss: float | None = None
    test_metric: float | None = None


@dataclass(frozen=True)
class Run:
    """A training with a submission.

    ended: by "steps" (the horizon), "submission" (it raised TrainingCompleteError, and was evaluated a last time), "time"
    (max_seconds; what it reached after that is not evaluated, as in AlgoPerf) or "error" (it raised something else, `error`).
    steps: calls of update_params, one that raised TrainingCompleteError included. test_loss, test_metric: of the
    last parameters; None where an error left none. seconds: the submission's time, without compilation.
    """

    evaluations: tuple[Evaluation, ...]
    ended: Ended
    steps: int
    seconds: float
    batch_size: int
    test_loss: float | None
    test_metric: float | None
    error: str = ""


class BrokenOff(BadInput):
    """A submission raised something, or returned what is no state. run: what there was until then."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.error)
        self.run = run
