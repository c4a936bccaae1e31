"""A chunk that takes far too long hangs: say where, and end the process, so that whoever started it starts it again.

What hangs (a device, a network file system, a lock) seldom lets itself be interrupted, so nothing is cleaned up: finished packs
are recorded, the pack in flight goes on from its checkpoint.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import TextIO

HUNG = 76
"""The exit code; a job script takes it as a failure, and requeues the task as often as cluster.retries allows."""

_GRACE = 30.0  # seconds after which a watchdog that needs no Python ends the process, with exit code 1


@contextmanager
def limited(seconds: float | None, what: str) -> Iterator[None]:
    """End the process with all threads' stacks on standard error if the body takes longer than `seconds` (None: never)."""
    if seconds is None:
        yield
        return
    timer = Timer(seconds, _end, (seconds, what))
    timer.daemon = True
    timer.start()
    # for code that hangs while it holds Python's lock
    faulthandler.dump_traceback_later(seconds + _GRACE, exit=True, file=_stderr())
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        timer.cancel()


def _end(seconds: float, what: str) -> None:
    said = (
        f"error: {what} took more than {seconds:g} s (engine.chunk_limit_s; null for no limit). Where each thread was:"
    )
    try:
        print(said, file=_stderr(), flush=True)
        faulthandler.dump_traceback(_stderr(), all_threads=True)
        print("what was finished is recorded; run the same command again to go on", file=_stderr(), flush=True)
    finally:
        os._exit(HUNG)


def _stderr() -> TextIO:
    """The process' own, whatever stands in for it."""
    return sys.__stderr__ or sys.stderr
