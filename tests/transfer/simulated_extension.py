"""How often verdicts are false or missing before and after `extend=true`, on made-up sweeps.

    python -m tests.transfer.simulated_extension        # about ten minutes

60 studies a line: widths 16 to 128, six learning rates an octave apart, 3 seeds, the best rate moving as width^drift, a basin
with a steeper side, seed noise of 1% that all scales share and noise of every trial. Prints the share of each verdict after no
and after three rounds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from harness.analysis import LEARNING_RATE, Cell, transfers
from harness.config import StudyConfig
from harness.extension import ROUNDS, extension
from harness.sweep import Point

AXIS = "workload.width"
STUDY = StudyConfig(name="made", question="?", sweep={AXIS: [], LEARNING_RATE: []}, analyses=[{"transfer": AXIS}])
STUDIES = 60


def cells(points: Sequence[Point], drift: float, noise: float, run: int) -> list[Cell]:
    """Final losses of these points in one made-up world; the same point has the same loss whenever it is asked for."""
    found = []
    for point in points:
        octave = np.log2(point[LEARNING_RATE])
        own = np.random.default_rng([run, point["seed"], int(point[AXIS]), round(160 + 8 * octave)]).standard_normal()
        shared = np.random.default_rng([run, point["seed"]]).standard_normal()
        off = octave + 6 - drift * np.log2(point[AXIS] / 16)
        basin = 0.02 * off**2 + 0.003 * off**3 * (abs(off) < 3)
        loss = 2 * np.exp(basin + noise * own + 0.01 * shared)
        found.append(Cell(point, {**point, "final_loss": loss, "status": "ok", "trial": "x"}))
    return found


def verdicts(drift: float, noise: float, run: int) -> tuple[str, str]:
    """Of one study, before and after its extensions."""
    points: list[Point] = [
        {AXIS: width, LEARNING_RATE: 2.0**octave, "seed": seed}
        for width in (16, 32, 64, 128)
        for octave in range(-9, -3)
        for seed in range(3)
    ]
    known = cells(points, drift, noise, run)
    found = transfers(STUDY, known)
    first = found["all"].verdict
    for _ in range(ROUNDS):
        more = extension(points, found, AXIS)
        if not more:
            break
        points, known = [*points, *more], [*known, *cells(more, drift, noise, run)]
        found = transfers(STUDY, known)
    return first, found["all"].verdict


def main() -> None:
    for drift in (0.0, -0.3, -0.15, 0.15):
        for noise in (0.008, 0.015):
            both = [verdicts(drift, noise, run) for run in range(STUDIES)]
            shown = [
                {name: f"{n / STUDIES:.0%}" for name, n in Counter(column).items()}
                for column in zip(*both, strict=True)
            ]
            print(f"drift {drift}, noise {noise}: before {shown[0]}, after {shown[1]}", flush=True)


if __name__ == "__main__":
    main()
