"""Programs side by side on one CPU: a thread runs the program of one core's trials, as many threads as there are cores.

Given several CPU devices, XLA makes one program for all of them. With one device's program on every core instead, no bit of a
trial can depend on how many cores there are, the data exist once, and no core waits for another before the end of a chunk.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import jax
import numpy as np


class Lanes(tuple[Any, ...]):
    """A tree of arrays, (trials, ...) each, in parts that hold every n-th trial; a tree itself."""

    @classmethod
    def of(cls, tree: Any, count: int) -> Lanes:
        """In `count` parts of as many trials. Of a pack that is not full all have about as many, too."""
        return cls(jax.tree.map(lambda leaf, start=start: leaf[start::count], tree) for start in range(count))

    def whole(self) -> Any:
        """On the host, the trials in their order."""

        def joined(*parts: Any) -> np.ndarray:
            side_by_side = np.stack([np.asarray(part) for part in parts], axis=1)
            return side_by_side.reshape(-1, *side_by_side.shape[2:])

        return jax.tree.map(joined, *self)


jax.tree_util.register_pytree_node(Lanes, lambda lanes: (tuple(lanes), None), lambda _, parts: Lanes(parts))


def side_by_side(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    """`function` on every lane of its arguments at once; arguments that are no Lanes go to all. Results are Lanes."""

    def run(*arguments: Any) -> Any:
        """Returns when all are done; raises what any of them raised."""

        def lane(index: int) -> Any:
            mine = [argument[index] if isinstance(argument, Lanes) else argument for argument in arguments]
            return jax.block_until_ready(function(*mine))

        runs: list[Future[Any]] = [_threads(count).submit(lane, index) for index in range(count)]
        wait(runs)
        results = [done.result() for done in runs]
        return tuple(map(Lanes, zip(*results, strict=True))) if type(results[0]) is tuple else Lanes(results)

    return run


@functools.cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="lane")
