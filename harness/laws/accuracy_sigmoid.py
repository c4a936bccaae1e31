"""Accuracy of a task, from the loss or straight from the size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from harness.laws.base import LAWS, Array, Kind, Law, Positive, Real
from harness.laws.fitting.objective import Objective

LINEAR = Objective("mse", space="linear")
SHARE = Positive.between(1e-9, 1.0)
WIDTHS = (0.3, 1.0, 3.0)  # half-widths of the transition tried, in ranges of the data
MARGINS = (0.02, 0.5)  # distance of floor and ceiling from the data tried, in ranges of the data


def _log_sigmoid_between(p: Any, rise: Array) -> Array:
    """log(floor + (ceil - floor) sigmoid(rise)) as log(floor sigmoid(-rise) + ceil sigmoid(rise)): never of a negative."""
    return jnp.logaddexp(p.log_floor + jax.nn.log_sigmoid(-rise), p.log_ceil + jax.nn.log_sigmoid(rise))


def _sigmoid_starts(x: np.ndarray, accuracy: np.ndarray) -> list[tuple[float, float, float, float]]:
    """(floor, ceil, slope, midpoint) of accuracy against rising x: logistic lines between tried floors and ceilings."""
    span = max(float(np.ptp(accuracy)), 1e-6)
    rows = []
    for below in MARGINS:
        for above in MARGINS:
            floor = max(float(accuracy.min()) - below * span, 1e-6)
            ceil = max(min(float(accuracy.max()) + above * span, 1.0), floor + 1e-6)
            inside = np.clip((accuracy - floor) / (ceil - floor), 0.01, 0.99)
            slope, intercept = np.polyfit(x, np.log(inside / (1 - inside)), 1)
            for width in WIDTHS:
                steep = max(float(slope) * width, 1e-3 / max(float(np.ptp(x)), 1e-12))
                rows.append((floor, ceil, steep, float(-intercept / slope) if slope > 0 else float(x.mean())))
    return rows


@LAWS.register("accuracy_sigmoid")
@dataclass(frozen=True)
class AccuracySigmoid(Law):
    """accuracy(loss) = floor + (ceil - floor) / (1 + exp(k (loss - L_0))).

    floor the accuracy of chance, ceil that of a perfect model, k the steepness per nat, L_0 the loss half-way; shares of
    one. The second step of task scaling laws: Grattafiori et al. 2024 (Llama 3, section 3.2.1), Bhagia et al. 2024
    (arXiv:2412.04403).
    """

    inputs: ClassVar[tuple[str, ...]] = ("loss",)
    extrapolates = "down"
    response: ClassVar[str] = "accuracy"
    parameters: ClassVar[Mapping[str, Kind]] = {"floor": SHARE, "ceil": SHARE, "k": Positive, "L_0": Real}
    simpler: ClassVar[tuple[str, ...]] = ("accuracy_exponential",)
    objective: ClassVar[Objective] = LINEAR

    def log_loss(self, p: Any, **inputs: Array) -> Array:
        return _log_sigmoid_between(p, p.k * (p.L_0 - inputs["loss"]))

    def start_points(self, inputs: Mapping[str, np.ndarray], loss: np.ndarray) -> np.ndarray:
        rows = _sigmoid_starts(-inputs["loss"], loss)
        return np.array([(np.log(f), np.log(c), np.log(k), -middle) for f, c, k, middle in rows])


def accuracy_of(params: Mapping[str, Any], loss: Any) -> Any:
    """The sigmoid's value in numpy, parameters and loss broadcast against each other."""
    rise = np.clip(params["k"] * (params["L_0"] - loss), -500.0, 500.0)
    return params["floor"] + (params["ceil"] - params["floor"]) / (1 + np.exp(-rise))


@LAWS.register("accuracy_exponential")
@dataclass(frozen=True)
class AccuracyExponential(Law):
    """accuracy(loss) = floor + k exp(-gamma loss).

    floor the accuracy at high loss (one minus the error epsilon), k a share, gamma per nat. Gadre et al. 2024
    (arXiv:2403.08540), where it is error = epsilon - k exp(-gamma loss).
    """

    inputs: ClassVar[tuple[str, ...]] = ("loss",)
    extrapolates = "down"
    response: ClassVar[str] = "accuracy"
    parameters: ClassVar[Mapping[str, Kind]] = {"floor": SHARE, "k": Positive, "gamma": Positive}
    objective: ClassVar[Objective] = LINEAR
    shares: ClassVar[tuple[float, ...]] = (1e-3, 0.3, 0.6, 0.9, 0.98)

    def log_loss(self, p: Any, **inputs: Array) -> Array:
        return jnp.logaddexp(p.log_floor, p.log_k - p.gamma * inputs["loss"])

    def start_points(self, inputs: Mapping[str, np.ndarray], loss: np.ndarray) -> np.ndarray:
        """The floor at each of `shares` of the lowest accuracy, with the line through the logarithm of what is left."""
        rows = []
        for share in self.shares:
            floor = max(share * float(loss.min()), 1e-9)
            slope, intercept = np.polyfit(inputs["loss"], np.log(np.maximum(loss - floor, 1e-9)), 1)
            rows.append((np.log(floor), intercept, np.log(max(-slope, 1e-3))))
        return np.array(rows)


@LAWS.register("accuracy_size")
@dataclass(frozen=True)
class AccuracySize(Law):
    """accuracy(N) = floor + (ceil - floor) / (1 + (N / N_0)^-k).

    The one-step alternative to loss and then accuracy: a logistic in log N, with floor, ceil (shares), the size N_0
    half-way and the steepness k. N any size (params, FLOPs).  Own.
    """

    inputs: ClassVar[tuple[str, ...]] = ("N",)
    response: ClassVar[str] = "accuracy"
    parameters: ClassVar[Mapping[str, Kind]] = {"floor": SHARE, "ceil": SHARE, "k": Positive, "N_0": Positive}
    objective: ClassVar[Objective] = LINEAR

    def log_loss(self, p: Any, **inputs: Array) -> Array:
        return _log_sigmoid_between(p, p.k * (jnp.log(inputs["N"]) - p.log_N_0))

    def start_points(self, inputs: Mapping[str, np.ndarray], loss: np.ndarray) -> np.ndarray:
        rows = _sigmoid_starts(np.log(inputs["N"]), loss)
        return np.array([(np.log(f), np.log(c), np.log(k), middle) for f, c, k, middle in rows])
