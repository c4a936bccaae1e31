"""One array task: trains its packs, resumes what was checkpointed, skips what is recorded.

    python -m harness.launchers.slurm.worker manifest=results/STUDY/slurm/ID/manifest.json index=0

Exit codes: 0 all packs are recorded; 2 bad input; 3 gave up after too many attempts without progress; 75 a signal came, what
was trained is checkpointed; anything else is a failure, which the job script starts again as often as the manifest allows.
"""

from __future__ import annotations

import sys

from harness.engine.signals import StopFlag


def run() -> int:
    """The task's process; returns the exit code."""
    with StopFlag() as stop:  # before JAX is imported, which takes seconds: a signal may come at any time
        from harness import cli
        from harness.launchers.slurm.training import main

        return cli.run(lambda argv: main(argv, stop))


if __name__ == "__main__":
    sys.exit(run())
