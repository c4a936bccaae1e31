"""Persistent worker processes: what is compared lives in a process of its own, with its own threads and flags.

One JSON object a line, question and answer. While one worker measures, the others wait in a read and use no processor.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from tests.bench.setup import ROOT


class Worker:
    """`python -m module`, which must call `serve`. Use it as a context manager."""

    def __init__(self, module: str, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._questions, self._answers = self._process.stdin, self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._questions.close()
        self._answers.close()
        self._process.wait()

    def ask(self, **question: Any) -> dict[str, Any]:
        """The worker's answer. Raises RuntimeError if it died, which it explained on standard error."""
        self._questions.write(json.dumps(question) + "\n")
        self._questions.flush()
        line = self._answers.readline()
        if not line:
            raise RuntimeError(f"a benchmark worker ended with code {self._process.wait()}; its error is above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer questions until standard input ends. What else is printed goes to standard error."""
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)
        for line in sys.stdin:
            print(json.dumps(answer(json.loads(line))), file=replies, flush=True)
