"""Compute-optimal allocation: the size and the data of lowest loss for a compute budget, from any fitted law."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from harness.laws.base import Law, positive
from harness.laws.fitting.fit import Fit
from harness.laws.plots import Layer, Plot
from workloads.base import BadInput

Interval = tuple[np.ndarray, np.ndarray]

COARSE = 65  # sizes tried before the golden section, so that a law with two valleys is searched in the deeper one
STEPS = 40  # of the golden section: shrinks two coarse cells by 4e-9, what float64 losses resolve
GOLDEN = (5**0.5 - 1) / 2
DERIVED = ("N", "D", "M")  # columns that a budget and a size determine; M = D / N
RARE = 0.005  # share of refits without an optimum that is not worth a warning


@dataclass(frozen=True)
class Exponent:
    """Slope of log N* (or log D*) on log C, with the standard deviation and 95% percentiles of the refits."""

    value: float
    stderr: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Allocation:
    """The best use of compute C = flops_per N D.

    compute, N, D, loss: (m,), from the fit itself; *_ci95 (low, high), (m,) each, percentiles of the fit's refits (of the
    law, not of a new run); NaN where loss falls to the edge of the search. exponents: of "N" and "D", N* ~ C^a, D* ~ C^b,
    over the budgets (from half to twice a single one). extrapolation: (m,), budget over the largest compute of the fitted
    points, NaN where those were not given. warnings: what a reader must know first.
    """

    law: str
    flops_per: float
    compute: np.ndarray
    N: np.ndarray
    D: np.ndarray
    loss: np.ndarray
    N_ci95: Interval
    D_ci95: Interval
    loss_ci95: Interval
    exponents: dict[str, Exponent]
    extrapolation: np.ndarray
    warnings: tuple[str, ...]

    @property
    def multiplier(self) -> np.ndarray:
        """(m,) tokens per parameter, D / N."""
        return self.D / self.N

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types: one entry a budget, exponent_N, exponent_D with _stderr and _ci95; null where there is none."""
        entry: dict[str, Any] = {"law": self.law, "flops_per": self.flops_per}
        entry["budgets"] = [self._budget(i) for i in range(self.compute.size)]
        for name, found in self.exponents.items():
            entry |= {
                f"exponent_{name}": found.value,
                f"exponent_{name}_stderr": found.stderr,
                f"exponent_{name}_ci95": list(found.ci95),
            }
        return {**entry, "warnings": list(self.warnings)}

    def _budget(self, i: int) -> dict[str, Any]:
        entry: dict[str, Any] = {"compute": float(self.compute[i]), "extrapolation": _number(self.extrapolation[i])}
        for name in ("N", "D", "loss"):
            low, high = getattr(self, f"{name}_ci95")
            entry |= {name: _number(getattr(self, name)[i]), f"{name}_ci95": [_number(low[i]), _number(high[i])]}
        return {**entry, "multiplier": _number(self.multiplier[i])}

    def plot(self) -> Plot:
        """N and D against compute with their intervals."""
        layers = (
            Layer("N", self.compute, self.N, *self.N_ci95, kind="line"),
            Layer("D", self.compute, self.D, *self.D_ci95, kind="line"),
        )
        caption = f"Compute-optimal size and data of the fitted {self.law}; bands are 95% intervals of its refits."
        return Plot("allocation", "Compute-optimal allocation", "FLOPs", "N, D", layers, caption=caption, alt=caption)


def allocate(
    fit: Fit,
    compute: Any,
    *,
    columns: Mapping[str, Any] | None = None,
    flops_per: float = 6.0,
    given: Mapping[str, float] | None = None,
) -> Allocation:
    """N and D of lowest predicted loss for each compute budget C = flops_per N D (Hoffmann et al. 2022, eq. 4), own search.

    fit: of a law that reads N and D, or N and M = D / N. compute: (m,) or one number, FLOPs. columns: the points that it was
    fitted to, (n,) each, which say how far a budget extrapolates. flops_per: FLOPs per parameter and token (6: forward and
    backward). given: a value for every other input of the law (U: distinct tokens).
    Every size from N = 1 to D = 1 is searched, for the fit and for each of its refits.
    Raises BadInput where the law has no such columns, where budgets are not positive, or where its loss falls all the way to
    the edge of the search for every budget, so that no allocation is best.
    """
    law, given = fit.law, dict(given or {})
    budgets = positive("compute", np.atleast_1d(np.asarray(compute, np.float64)))
    _check(law, budgets, flops_per, given)
    thetas = np.concatenate([fit.theta[None], fit.refits.theta])
    thetas = thetas[np.isfinite(thetas).all(axis=1)]
    search = partial(_search, law, thetas, given)
    log_product = np.log(budgets / flops_per)
    log_n, log_loss, edge = search(log_product)
    inside = ~edge[0]
    if not inside.any():
        raise BadInput(
            f"under the fitted '{law.name}' loss falls to the edge of the search at every budget, so no allocation is best: "
            "it trades N against D without limit; fit a law with separate terms in both, such as chinchilla"
        )
    spanned, sizes = log_product[inside], log_n[:, inside]
    if np.ptp(spanned) == 0:
        spanned = spanned[0] + np.log([0.5, 2.0])
        sizes = search(spanned)[0]
    log_n[0, ~inside], log_loss[0, ~inside] = np.nan, np.nan
    log_d = log_product - log_n
    far = np.full(budgets.size, np.nan) if columns is None else budgets / _largest_compute(columns, flops_per)
    return Allocation(
        law=law.name,
        flops_per=flops_per,
        compute=budgets,
        N=np.exp(log_n[0]),
        D=np.exp(log_d[0]),
        loss=np.exp(log_loss[0]),
        N_ci95=_interval(log_n),
        D_ci95=_interval(log_d),
        loss_ci95=_interval(log_loss),
        exponents={"N": _exponent(spanned, sizes), "D": _exponent(spanned, spanned - sizes)},
        extrapolation=far,
        warnings=(*_warnings(edge, far), *fit.warnings),
    )


def _check(law: Law, budgets: np.ndarray, flops_per: float, given: Mapping[str, float]) -> None:
    if "N" not in law.inputs or not {"D", "M"} & set(law.inputs) or law.whole_curves:
        raise BadInput(
            f"law '{law.name}' reads {', '.join(law.inputs)}: an allocation needs a law of N and D (or of N and M = D / N), "
            "such as chinchilla"
        )
    missing = [name for name in law.inputs if name not in DERIVED and name not in given]
    if missing:
        raise BadInput(
            f"law '{law.name}' also reads {', '.join(missing)}: give a value, e.g. given={{'{missing[0]}': 1e9}}"
        )
    if not (np.isfinite(flops_per) and flops_per > 0):
        raise BadInput(f"flops_per={flops_per} must be positive (6 for one forward and backward pass)")
    if np.any(budgets <= flops_per):
        raise BadInput(f"compute={budgets.min():g} buys not one token of a one-parameter model: give FLOPs, e.g. 1e21")


def _search(
    law: Law, thetas: np.ndarray, given: Mapping[str, float], log_product: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log N, log loss and whether the optimum lies on the edge, (B, m) each, for thetas (B, P) and log(N D) (m,)."""
    shape = thetas.shape[0], log_product.size

    def loss_at(log_n: np.ndarray) -> np.ndarray:
        log_d = log_product - log_n
        derived = {"N": log_n, "D": log_d, "M": log_d - log_n}
        columns = {n: np.exp(derived[n]) if n in derived else np.full(log_n.shape, given[n]) for n in law.inputs}
        features = law.features({name: column.ravel() for name, column in columns.items()})
        return _log_losses(law, {k: v.reshape(*log_n.shape, *v.shape[1:]) for k, v in features.items()}, thetas)

    share = np.linspace(0.0, 1.0, COARSE)
    tried = np.stack([loss_at(np.broadcast_to(s * log_product, shape)) for s in share])
    best = np.nanargmin(tried, axis=0)
    low, high = share[np.maximum(best - 1, 0)] * log_product, share[np.minimum(best + 1, COARSE - 1)] * log_product
    width = high - low
    for _ in range(STEPS):
        width = width * GOLDEN
        left, right = high - width, low + width
        go_left = loss_at(left) <= loss_at(right)
        low, high = np.where(go_left, low, left), np.where(go_left, right, high)
    found = (low + high) / 2
    flat = np.ptp(tried, axis=0) < 1e-12
    edge = (found < 1e-6 * log_product) | (found > (1 - 1e-6) * log_product) | flat
    return found, loss_at(found), edge


def _log_losses(law: Law, features: Mapping[str, np.ndarray], thetas: np.ndarray) -> np.ndarray:
    """(B, m) log losses, theta b at its own features (B, m, ...)."""
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        return np.array(_each(law, {k: np.asarray(v, np.float64) for k, v in features.items()}, thetas))


@partial(jax.jit, static_argnums=0)
def _each(law: Law, features: Mapping[str, Any], thetas: Any) -> Any:
    return jax.vmap(lambda values, theta: law.log_loss(law.unpack(theta), **values))(features, thetas)


def _interval(logs: np.ndarray) -> Interval:
    """95% percentiles (m,) of the refits, rows 1 on; NaN where the fit itself has no optimum."""
    low, high = np.quantile(logs[1:], [0.025, 0.975], axis=0)
    none = np.isnan(logs[0])
    return np.where(none, np.nan, np.exp(low)), np.where(none, np.nan, np.exp(high))


def _exponent(log_c: np.ndarray, logs: np.ndarray) -> Exponent:
    """Least-squares slope of logs (B, m) on log_c (m,): row 0 the fit, the others its refits."""
    slope = np.polyfit(log_c, logs.T, 1)[0]
    low, high = np.quantile(slope[1:], [0.025, 0.975])
    return Exponent(float(slope[0]), float(np.std(slope[1:], ddof=1)), (float(low), float(high)))


def _largest_compute(columns: Mapping[str, Any], flops_per: float) -> float:
    size = np.asarray(columns["N"], np.float64)
    data = columns["D"] if "D" in columns else np.asarray(columns["M"], np.float64) * size
    return float(np.max(flops_per * size * np.asarray(data, np.float64)))


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _warnings(edge: np.ndarray, far: np.ndarray) -> list[str]:
    found = []
    if np.any(edge[0]):
        found.append(f"{edge[0].sum()} of {edge[0].size} budgets have no optimum: loss falls to the edge of the search")
    without = float(edge[1:].mean())
    if without > RARE:
        found.append(f"{without:.1%} of the refits have no optimum: their intervals reach to the edge of the search")
    if np.isnan(far).any():
        found.append("how far the budgets extrapolate is unknown: the fitted points were not given")
    elif far.max() > 1:
        found.append(f"the largest budget is {far.max():.3g} times the largest compute that the law was fitted to")
    return found
