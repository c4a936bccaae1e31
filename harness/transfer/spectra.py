"""Top singular values against width under weight decay.

"Robust layerwise scaling rules by proper weight decay tuning" (Fan et al. 2025): in AdamW's steady state the top
singular value of a matrix-like parameter is sigma_max ~ sqrt(eta / lambda) d^0.75, with d the width and decay written
w <- w - eta lambda w. Hence sublayer gains, told by matching top singular values, keep their size over widths if
eta ~ 1/d and lambda ~ sqrt(d), and not for constant lambda (sigma_max ~ d^0.25) or lambda ~ d (d^-0.25).

A leaf is one matrix: leading axes (of convolution kernels) belong to fan-in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import sequential_vmap

from harness.transfer.exponent import (
    BOUND,
    Claim,
    Exponent,
    LogLinear,
    all_of,
    exponent_verdict,
    fit_log_linear,
    geometric_means,
    labels,
    positive_columns,
    require_one_length,
)
from harness.transfer.plain import plain
from workloads.base import Array, Params

WIDTH_EXPONENT = 0.75
RATE_EXPONENT = 0.5


def top_singular_values(params: Params, iterations: int | None = None) -> dict[str, Array]:
    """Path -> largest singular value of every leaf with two axes or more; pure, may be jitted and vmapped.

    iterations: None for the exact decomposition; else so many Lanczos steps on the Gram matrix from a fixed random
    start, which cost 2 matrix-vector products each and never overestimate (16 are within 1% on random matrices).
    """
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if leaf.ndim >= 2:
            matrix = jnp.reshape(leaf, (-1, leaf.shape[-1])).astype(jnp.float32)
            found[_path_name(path)] = _exact(matrix) if iterations is None else _lanczos(matrix, iterations)
    return found


def _path_name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


@sequential_vmap  # see engine.compiler: LAPACK with a stack of matrices may wait for itself on CPU
def _exact(matrix: Array) -> Array:
    return jnp.linalg.svd(matrix, compute_uv=False)[0]


def _lanczos(matrix: Array, iterations: int) -> Array:
    """Rayleigh-Ritz value on the Krylov space of the smaller Gram matrix, its basis fully reorthogonalised."""
    a = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    size = a.shape[1]
    steps = min(iterations, size)
    start = jax.random.normal(jax.random.key(0), (size,), a.dtype)
    basis = jnp.zeros((steps, size), a.dtype).at[0].set(start / jnp.linalg.norm(start))

    def extend(basis: Array, k: Array) -> tuple[Array, None]:
        image = a.T @ (a @ basis[k])
        rest = image
        for _ in range(2):
            rest = rest - basis.T @ (basis @ rest)
        norm = jnp.linalg.norm(rest)
        fresh = norm > 1e-6 * jnp.linalg.norm(image)  # else the space is invariant: zero rows add nothing
        return basis.at[k + 1].set(jnp.where(fresh, rest / jnp.where(fresh, norm, 1.0), 0.0)), None

    basis, _ = jax.lax.scan(extend, basis, jnp.arange(steps - 1))
    return _exact(a @ basis.T)


@dataclass(frozen=True)
class MatrixSpectrum:
    """One parameter under one weight-decay rule; None where the table does not determine a number.

    gain: exponent of sigma_max in width, 0 if sublayer gains are invariant. ratio: exponent in width of
    sigma_max / (sqrt(eta / lambda) d^0.75), 0 if the paper's law holds. width, rate: exponents of d (0.75 predicted)
    and of eta / lambda (0.5 predicted), fitted together where eta / lambda also varies at fixed width.
    """

    gain: Exponent | None
    ratio: Exponent | None
    width: Exponent | None
    rate: Exponent | None

    def to_json(self) -> dict[str, Any]:
        return {name: None if value is None else plain(value.to_json()) for name, value in vars(self).items()}


@dataclass(frozen=True)
class SpectraVerdict:
    """One weight-decay rule: are its sublayer gains width-independent, and does the paper's law hold, for every matrix?

    widths (W,). parameters: name -> exponents. Verdicts are supported, refuted or undecided, with reasons.
    """

    widths: np.ndarray
    parameters: dict[str, MatrixSpectrum]
    gain_verdict: Claim
    gain_reason: str
    law_verdict: Claim
    law_reason: str

    def to_json(self) -> dict[str, Any]:
        return {
            "widths": plain(self.widths),
            "parameters": {name: one.to_json() for name, one in self.parameters.items()},
            "predicted": {"width": WIDTH_EXPONENT, "rate": RATE_EXPONENT},
            "gain": {"verdict": self.gain_verdict, "reason": self.gain_reason},
            "law": {"verdict": self.law_verdict, "reason": self.law_reason},
        }


def singular_value_scaling(
    width: Any, parameter: Any, sigma_max: Any, learning_rate: Any, weight_decay: Any, rule: Any = None
) -> dict[str, SpectraVerdict]:
    """Verdicts per weight-decay rule from a table with one row a (run, matrix), (T,) each.

    width, sigma_max, learning_rate (eta) and weight_decay (lambda, as in w <- w - eta lambda w) are positive: those the
    matrix itself got, so with its parametrization's factors. Repeated rows of a setting are its seeds. parameter:
    names; rule: labels of weight-decay rules, None for one.
    A rule's gains are called invariant if for *every* matrix the 90% interval of the exponent lies inside +-0.15, and
    not if for any the Bonferroni-corrected 95% interval excludes 0 and the exponent exceeds 0.15. The law's verdict
    applies the same test to sigma_max / (sqrt(eta / lambda) d^0.75), and to both free exponents where determined.
    Gains are compared at one (eta, lambda) per width; a rule with more is undecided.
    Raises BadInput on columns of different lengths and non-positive numbers.
    """
    table = positive_columns(
        width=width, sigma_max=sigma_max, learning_rate=learning_rate, weight_decay=weight_decay
    )  # fmt: skip
    names, rules = (labels(c, table["width"].size, d) for c, d in ((parameter, "matrix"), (rule, "all")))
    require_one_length({"width": table["width"], "parameter": names, "rule": rules})
    return {
        str(r): _verdicts({k: v[rules == r] for k, v in table.items()}, names[rules == r]) for r in np.unique(rules)
    }


def _verdicts(table: dict[str, np.ndarray], names: np.ndarray) -> SpectraVerdict:
    code = np.unique(names, return_inverse=True)[1].reshape(-1).astype(float)
    columns = [table["width"], code, table["learning_rate"], table["weight_decay"]]
    _, count = np.unique(np.unique(np.stack(columns, axis=1), axis=0)[:, :2], axis=0, return_counts=True)
    matrices = {
        str(name): _spectrum({k: v[names == name] for k, v in table.items()}, bool(np.all(count == 1)))
        for name in np.unique(names)
    }
    tests = len(matrices)
    gains = {name: _equals(one.gain, 0.0, tests) for name, one in matrices.items()}
    laws = {name: _law(one, tests) for name, one in matrices.items()}
    several: tuple[Claim, str] = (
        "undecided",
        "A width has several (eta, lambda); give each setting its own rule label to compare gains.",
    )
    gain = several if np.any(count > 1) else all_of(gains)
    return SpectraVerdict(np.unique(table["width"]), matrices, *gain, *all_of(laws))


def _spectrum(table: dict[str, np.ndarray], one_setting: bool) -> MatrixSpectrum:
    width, sigma = table["width"], table["sigma_max"]
    rate = table["learning_rate"] / table["weight_decay"]
    ratio = sigma / (rate**RATE_EXPONENT * width**WIDTH_EXPONENT)
    exponents = [_slope(y, width) for y in (sigma, ratio)]
    free = _free_fit(sigma, width, rate)
    both = (None, None) if free is None else (free.exponent("width"), free.exponent("rate"))
    return MatrixSpectrum(exponents[0] if one_setting else None, exponents[1], *both)


def _free_fit(sigma: np.ndarray, width: np.ndarray, rate: np.ndarray) -> LogLinear | None:
    """Both exponents; None unless eta / lambda varies at some width by a factor that is not rounding."""
    cells, cell_width, cell_rate = geometric_means(sigma, width, rate)
    spread = max(np.ptp(np.log2(cell_rate[cell_width == w])) for w in np.unique(cell_width))
    return fit_log_linear(cells, {"width": cell_width, "rate": cell_rate}) if spread >= 1.0 - 1e-9 else None


def _slope(y: np.ndarray, width: np.ndarray) -> Exponent | None:
    mean, widths = geometric_means(y, width)
    line = fit_log_linear(mean, {"width": widths})
    return None if line is None else line.exponent("width")


def _equals(found: Exponent | None, expected: float, tests: int) -> tuple[Claim, str]:
    if found is None:
        return "undecided", "Fewer than 3 widths; add widths."
    return exponent_verdict(found.value, found.interval, expected, BOUND, tests)


def _law(found: MatrixSpectrum, tests: int) -> tuple[Claim, str]:
    """Flatness of the ratio, and the two free exponents where the table determines them."""
    parts: dict[str, tuple[Exponent | None, float]] = {"sigma_max / (sqrt(eta / lambda) d^0.75)": (found.ratio, 0.0)}
    if found.width is not None:
        parts |= {"d": (found.width, WIDTH_EXPONENT), "eta / lambda": (found.rate, RATE_EXPONENT)}
    return all_of({name: _equals(one, expected, len(parts) * tests) for name, (one, expected) in parts.items()})
