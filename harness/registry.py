"""Named components: a frozen dataclass under a name, with nearest-match errors."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from workloads.base import BadInput

T = TypeVar("T")


def nearest(word: str, valid: Iterable[str]) -> str:
    """A sentence listing the valid names, beginning with the nearest match to `word` if there is one."""
    names = sorted(valid)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return f"{hint}Valid names: {', '.join(names)}."


class Registry(Generic[T]):
    """Name -> class, for one kind of component (`kind` is the Hydra group and the word in errors)."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._classes: dict[str, type[T]] = {}
        self._admitted: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        def add(cls: type[T]) -> type[T]:
            if name in self._classes:
                raise ValueError(f"{self.kind} '{name}' is registered twice")
            cls.name = name  # type: ignore[attr-defined]
            self._classes[name] = cls
            return cls

        return add

    def admit(self, cls: type[T]) -> None:
        """Make a user's own class findable by its name, in this process; it is not listed. The last one of a name counts."""
        self._admitted[cls.name] = cls  # type: ignore[attr-defined]

    def __getitem__(self, name: str) -> type[T]:
        if name in self._admitted:
            return self._admitted[name]
        if name not in self._classes:
            raise BadInput(f"unknown {self.kind} '{name}'. {nearest(name, self._classes)}")
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __contains__(self, name: str) -> bool:
        return name in self._classes

    def __len__(self) -> int:
        return len(self._classes)
