"""Coordinate check (Yang et al. 2022, appendix D.1): how far activations move in the first steps, against width.

Under a parametrization that transfers, every activation moves by the same amount at every width; where some move further the
wider the model, its best learning rate cannot stay where it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from harness.components import bind
from harness.engine.program import make_train
from harness.laws.plots import Layer, Plot
from harness.trial import Trial
from workloads.base import Array, BadInput

FLAT = 0.25  # of the log-log slope: half of the 1/2 by which one wrong exponent moves it
_QUICK_COMPILE: dict[str, Any] = {"xla_backend_optimization_level": 0}  # programs that run for a few steps
LEAST_WIDTHS, LEAST_RANGE = 3, 8.0
Verdict = Literal["pass", "fail", "undecided"]
Movement = Callable[[Any, Any], dict[str, Array]]


@dataclass(frozen=True)
class Slope:
    """Of log movement against log width: mean over seeds with a t interval."""

    value: float
    ci95: tuple[float, float]

    @property
    def verdict(self) -> Verdict:
        """pass: the interval lies inside +-0.25; fail: it excludes that range; else undecided."""
        low, high = self.ci95
        if low >= -FLAT and high <= FLAT:
            return "pass"
        return "fail" if low > FLAT or high < -FLAT else "undecided"


@dataclass(frozen=True)
class CoordinateCheck:
    """movement: activation -> RMS change (widths, seeds) after `steps` steps; "MATRIX alone": of the first activation
    that reads it, when from step 1 on only this matrix is trained (what others move can hide that it stands still or runs
    away, and matrices that start at zero hide what comes before them; where they still do after step 1, from step 2 on).
    slopes: the same keys -> Slope.
    """

    widths: tuple[int, ...]
    steps: int
    movement: dict[str, np.ndarray]
    slopes: dict[str, Slope]

    @property
    def verdict(self) -> Verdict:
        """pass if every activation passes, fail if any fails."""
        found = {slope.verdict for slope in self.slopes.values()}
        return "fail" if "fail" in found else "undecided" if "undecided" in found else "pass"

    def to_json(self) -> dict[str, Any]:
        return {
            "widths": list(self.widths),
            "steps": self.steps,
            "verdict": self.verdict,
            "activations": {
                name: {
                    "slope": slope.value,
                    "ci95": list(slope.ci95),
                    "verdict": slope.verdict,
                    "movement": self.movement[name].tolist(),
                }
                for name, slope in self.slopes.items()
            },
        }

    def plot(self, name: str) -> Plot:
        """Movement against width, one line an activation."""
        x = np.array(self.widths, np.float64)
        layers = tuple(
            Layer(
                activation,
                x,
                np.exp(np.log(moved).mean(axis=1)),
                moved.min(axis=1),
                moved.max(axis=1),
                "line",
            )
            for activation, moved in self.movement.items()
        )
        caption = f"RMS change of each activation in {self.steps} steps; bands span the seeds. Flat lines transfer."
        return Plot(
            name, f"Coordinate check: {self.verdict}", "width", "RMS change", layers, caption=caption, alt=caption
        )


def coordinate_check(trial: Trial, widths: Sequence[int], seeds: int = 8, steps: int = 4) -> CoordinateCheck:
    """Train `trial` at each width for a few steps on the same batches and compare how far its activations moved.

    seeds: initialisations, each with its own slope; all see the trial's data. Constant learning rates show most: use
    schedule=constant without warmup. Activations that no width moves (zero updates) are left out.
    Raises BadInput on fewer than three widths, a range below 8x, or a workload without activations.
    """
    widths = tuple(sorted(set(widths)))
    if len(widths) < LEAST_WIDTHS or widths[-1] < LEAST_RANGE * widths[0]:
        raise BadInput(
            f"widths={list(widths)}: give at least {LEAST_WIDTHS} that span {LEAST_RANGE:g} times, e.g. 32,64,128,256"
        )
    if seeds < 2 or steps < 2:
        raise BadInput(
            f"seeds={seeds} must be at least 2, for intervals, and steps={steps} too, for leaves that start at 0"
        )
    groups = {width: _seeded(trial, width, seeds) for width in widths}
    data = dict(trial.workload.load().arrays)
    with ThreadPoolExecutor(2) as pool:  # XLA compiles outside the interpreter lock
        programs = dict(zip(widths, pool.map(lambda w: _compiled(groups[w], steps, data), widths), strict=True))
    found = [programs[width](_stacked(groups[width]), data) for width in widths]
    names = [name for name in found[0] if all(np.all(np.asarray(one[name]) > 0) for one in found)]
    movement = {name: np.stack([np.asarray(one[name], np.float64) for one in found]) for name in names}
    return CoordinateCheck(widths, steps, movement, {name: _slope(widths, moved) for name, moved in movement.items()})


def _seeded(trial: Trial, width: int, seeds: int) -> list[Trial]:
    data_seed = trial.seed if trial.data_seed is None else trial.data_seed
    found = []
    for seed in range(seeds):
        workload = trial.workload.replace(width=width)
        one = dataclasses.replace(trial, workload=workload, seed=trial.seed + seed, data_seed=data_seed)
        one.validate()
        found.append(one)
    return found


def _compiled(group: Sequence[Trial], steps: int, data: Any) -> Movement:
    """Hyperparameters of all seeds, data -> RMS change (seeds,) of each activation."""
    static = group[0].static()
    train = make_train(static)

    def one_seed(hparams: Any, data: Any) -> dict[str, Array]:
        start = train.init(hparams)

        def step(state: Any, _: None) -> tuple[Any, Any]:
            state, _loss = train.step(state, hparams, data)
            return state, state.params

        second, forks = jax.lax.scan(step, start, length=2)  # parameters after one step, and after two
        end = jax.lax.fori_loop(2, steps, lambda _, state: step(state, None)[0], second)
        workload = bind(static.workload, hparams.workload)
        batch = workload.batch(data, jax.random.key(1), jnp.int32(0))
        before, after = (workload.activations(state.params, batch) for state in (start, end))
        leaves = jax.tree_util.tree_leaves_with_path(start.params)
        matrices = [i for i, (_, leaf) in enumerate(leaves) if leaf.ndim > 1]

        def alone(params: Any, index: Array) -> dict[str, Array]:
            """Changes of all activations when only leaf `index` moves on from `params` to the end."""
            chosen = jax.tree.unflatten(jax.tree.structure(start.params), list(range(len(leaves))))
            mixed = jax.tree.map(lambda i, a, b: jnp.where(i == index, b, a), chosen, params, end.params)
            return _change(workload.activations(params, batch), workload.activations(mixed, batch))

        def direct(params: Any) -> Array:
            """(matrices,): change of the first activation that each matrix moves; 0 where it moves none."""
            by_leaf = jax.lax.map(lambda index: alone(params, index), jnp.array(matrices))
            order = jnp.stack(
                [by_leaf[name] for name in before]
            )  # (activations, matrices), in the forward pass's order
            return order[jnp.argmax(order > 0, axis=0), jnp.arange(len(matrices))]

        # From the first step on; where branches and outputs begin at zero, what lies before them moves nothing so soon.
        from_first, from_second = jax.lax.map(direct, forks)
        moved = jnp.where(from_first > 0, from_first, from_second)
        names = ["/".join(str(entry.key) for entry in leaves[i][0]) + " alone" for i in matrices]
        return _change(before, after) | dict(zip(names, moved, strict=True))

    def every_seed(hparams: Any, data: Any) -> dict[str, Array]:
        return jax.lax.map(lambda one: one_seed(one, data), hparams)

    lowered = jax.jit(every_seed).lower(_stacked(group), data)
    compiled: Movement = lowered.compile(compiler_options=_QUICK_COMPILE)
    return compiled


def _change(before: dict[str, Array], after: dict[str, Array]) -> dict[str, Array]:
    """Root mean square of the difference, by name."""
    return {name: jnp.sqrt(jnp.mean(jnp.square(after[name] - before[name]))) for name in before}


def _stacked(group: Sequence[Trial]) -> Any:
    return jax.tree.map(lambda *values: np.stack(values), *(trial.hparams() for trial in group))


def _slope(widths: Sequence[int], moved: np.ndarray) -> Slope:
    slopes = np.polyfit(np.log(widths), np.log(moved), 1)[0]
    half = float(stats.t.ppf(0.975, slopes.size - 1) * slopes.std(ddof=1) / np.sqrt(slopes.size))
    center = float(slopes.mean())
    return Slope(center, (center - half, center + half))
