"""A task's accuracy at a larger size, by way of the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.laws.accuracy_sigmoid import LINEAR, AccuracySigmoid, AccuracySize, accuracy_of
from harness.laws.base import Law, positive
from harness.laws.fitting.backtest import Fold, fit_subsets, roll_forward
from harness.laws.fitting.fit import Fit, fit
from harness.laws.fitting.objective import Objective
from harness.laws.fitting.solver import predict
from harness.laws.plots import Layer, Plot
from harness.laws.power_law import PowerLawOffset
from harness.laws.procedures.base import PROCEDURES, Estimate, Procedure, Settings, Table
from workloads.base import BadInput

ZERO = 1e-9  # what an accuracy of 0 enters as: laws need positive responses, and the objective is linear
FARTHER = 10.0  # sizes beyond the largest run at which the accuracy is predicted unless `target` says


@dataclass(frozen=True)
class Chain:
    """Both steps. draws: accuracy at sizes (m,) -> mean (m,), low (m,), high (m,)."""

    size_to_loss: Fit
    loss_to_accuracy: Fit

    def predict(self, size: np.ndarray, settings: Settings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Accuracy of new runs with 95% interval: both fits' refits and both noises, drawn independently.

        As `Fit.predict`, a prediction bootstrap (Stine 1985): the error of a refit is subtracted in either step.
        """
        first, second = self.size_to_loss, self.loss_to_accuracy
        rng = np.random.default_rng([settings.seed, 2])
        center = np.log(_loss(first.params, size))
        deviation = np.log(_loss(_columns(first), size)) - center
        loss = np.exp(center - deviation + _noise(first, rng, size.size))
        order = rng.permutation(second.refits.theta.shape[0])[: loss.shape[0]]
        loss = loss[: order.size]
        refits = {name: value[order] for name, value in _columns(second).items()}
        accuracy = 2 * accuracy_of(second.params, loss) - accuracy_of(refits, loss)
        low, high = np.nanquantile(accuracy + _noise(second, rng, size.size)[order], [0.025, 0.975], axis=0)
        return accuracy_of(second.params, np.exp(center)), np.clip(low, 0, 1), np.clip(high, 0, 1)


@PROCEDURES.register("loss_to_metric")
@dataclass(frozen=True)
class LossToMetric(Procedure):
    """Size to loss (`power_law_offset`), loss to accuracy (`accuracy_sigmoid`), with the errors of both steps.

    columns: N (params or FLOPs along one recipe), loss, accuracy (share). target: the size to predict, ten times the largest
    by default. Backtest: the k smallest sizes predict the accuracy of the next, beside one step from size to accuracy
    (`accuracy_size`); errors are absolute differences of accuracy. Two steps: Grattafiori et al. 2024 (Llama 3, section
    3.2.1), Bhagia et al. 2024 (arXiv:2412.04403); the intervals are our own.
    """

    columns: ClassVar[tuple[str, ...]] = ("N", "loss", "accuracy")
    may_be_zero: ClassVar[tuple[str, ...]] = ("accuracy",)

    target: float | None = None

    def run(self, columns: Mapping[str, np.ndarray], settings: Settings) -> Estimate:
        size, loss, accuracy = _checked(columns)
        target = FARTHER * float(size.max()) if self.target is None else self.target
        if not target > 0:
            raise BadInput(f"target={target} must be a positive size in the unit of N")
        options: dict[str, Any] = {"bootstrap": settings.bootstrap, "seed": settings.seed}
        chain = Chain(
            fit(PowerLawOffset(), {"N": size}, loss, **options),
            fit(AccuracySigmoid(), {"loss": loss}, accuracy, **options),
        )
        direct = fit(AccuracySize(), {"N": size}, accuracy, **options)
        mean, low, high = (float(v[0]) for v in chain.predict(np.array([target]), settings))
        alone = direct.predict({"N": np.array([target])})
        folds, errors = backtest(size, loss, accuracy)
        lowest = float(_loss(chain.size_to_loss.params, np.array([target]))[0])
        values = {
            "target": target,
            "loss": lowest,
            "accuracy": mean,
            "ci95": [low, high],
            "direct": {
                "accuracy": float(alone.mean[0]),
                "ci95": np.clip([alone.low[0], alone.high[0]], 0, 1).tolist(),
            },
            "backtest": {"folds": folds, "mean_abs_error": errors},
            "better": min(errors, key=lambda name: errors[name]) if errors else None,
        }
        return Estimate(
            self.name,
            size.size,
            values,
            (_table(target, values), _backtest_table(folds)),
            (_sigmoid_plot(chain, loss, accuracy, lowest), _size_plot(chain, size, accuracy, target, settings)),
            {"size to loss": chain.size_to_loss, "loss to accuracy": chain.loss_to_accuracy, "direct": direct},
            tuple(_warnings(chain, accuracy, errors)),
        )


def _checked(columns: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    size, loss = positive("N", columns["N"]), positive("loss", columns["loss"])
    accuracy = np.asarray(columns["accuracy"], np.float64)
    if not np.all(np.isfinite(accuracy) & (accuracy >= 0) & (accuracy <= 1)):
        raise BadInput("accuracy must be a share between 0 and 1: divide percents by 100 and drop broken runs")
    if np.unique(size).size < 5:
        raise BadInput(f"{np.unique(size).size} sizes: a sigmoid and a power law take at least 5")
    if np.ptp(accuracy) == 0:
        raise BadInput("the accuracy is the same in every run: no sigmoid can be fitted; add larger models")
    return size, loss, np.maximum(accuracy, ZERO)


def _columns(found: Fit) -> dict[str, np.ndarray]:
    """Parameters of the refits as columns (B, 1)."""
    return {name: value[:, None] for name, value in found.natural_refits().items()}


def _noise(found: Fit, rng: np.random.Generator, count: int) -> np.ndarray:
    """(B, count) draws of a new point's noise in the objective's space."""
    scale = found.noise.new_point(None) * found.refits.inflation
    return rng.normal(size=(scale.size, count)) * scale[:, None]


def _loss(params: Mapping[str, Any], size: np.ndarray) -> np.ndarray:
    """The offset power law in numpy."""
    return params["E"] + params["A"] * size ** -params["alpha"]


def backtest(size: np.ndarray, loss: np.ndarray, accuracy: np.ndarray) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Per fold and on average, the absolute error of accuracy (root mean square in a fold) of chain and direct."""
    folds = roll_forward(size, 1, len(AccuracySigmoid.parameters) + 1)
    if not folds:
        return [], {}
    first = _refit(PowerLawOffset(), Objective(), {"N": size}, loss, folds)
    second = _refit(AccuracySigmoid(), LINEAR, {"loss": loss}, accuracy, folds)
    direct = _refit(AccuracySize(), LINEAR, {"N": size}, accuracy, folds)
    law, named = AccuracySize(), []
    for i, fold in enumerate(folds):
        held, truth = size[fold.test], accuracy[fold.test]
        chained = accuracy_of(_named(AccuracySigmoid(), second[i]), _loss(_named(PowerLawOffset(), first[i]), held))
        alone = predict(law, LINEAR, {"N": size}, direct[i][None])[0][fold.test]
        missed = {"chain": _rms(chained - truth), "direct": _rms(alone - truth)}
        named.append({**fold.name, "error": missed})
    return named, {key: float(np.mean([row["error"][key] for row in named])) for key in ("chain", "direct")}


def _refit(
    law: Law, objective: Objective, features: Mapping[str, np.ndarray], response: np.ndarray, folds: list[Fold]
) -> np.ndarray:
    """theta (folds, P); all points come first only to have the shape, and so the compiled program, of the fit itself."""
    masks = [np.ones(response.size, bool), *(fold.train for fold in folds)]
    return fit_subsets(law, objective, features, response, np.ones_like(response), masks).best()[1:]


def _named(law: Law, theta: np.ndarray) -> dict[str, float]:
    return dict(zip(law.parameters, law.natural(theta).tolist(), strict=True))


def _rms(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(error**2)))


def _warnings(chain: Chain, accuracy: np.ndarray, errors: Mapping[str, float]) -> list[str]:
    found = [f"size to loss: {w}" for w in chain.size_to_loss.warnings]
    found += [f"loss to accuracy: {w}" for w in chain.loss_to_accuracy.warnings]
    loose = chain.loss_to_accuracy.identifiable.loose
    if "ceil" in loose:
        found.append(
            "the ceiling of the accuracy is not determined by these runs: the prediction leans on the sigmoid's form"
        )
    if np.mean(accuracy <= ZERO) > 0:
        found.append(f"{int(np.sum(accuracy <= ZERO))} run(s) have accuracy 0: they count as 0 in the linear objective")
    if errors and errors["direct"] < errors["chain"]:
        found.append(
            f"one step from size to accuracy did better on backtest ({errors['direct']:.3g} against {errors['chain']:.3g})"
        )
    return found


def _table(target: float, values: Mapping[str, Any]) -> Table:
    rows = (
        ("loss, then accuracy", values["accuracy"], *values["ci95"]),
        ("accuracy from size", values["direct"]["accuracy"], *values["direct"]["ci95"]),
    )
    return Table(f"Accuracy at N = {target:g}", ("by", "accuracy", "low", "high"), rows)


def _backtest_table(folds: list[dict[str, Any]]) -> Table:
    rows = tuple((f["sizes_fitted"], f["size_predicted"], f["error"]["chain"], f["error"]["direct"]) for f in folds)
    return Table("Backtest, error of accuracy", ("sizes fitted", "N predicted", "chain", "direct"), rows)


def _sigmoid_plot(chain: Chain, loss: np.ndarray, accuracy: np.ndarray, lowest: float) -> Plot:
    line = np.linspace(min(lowest, float(loss.min())), float(loss.max()), 80)
    band = chain.loss_to_accuracy.predict({"loss": line}, noise=0.0)
    layers = (Layer("runs", loss, accuracy), Layer("sigmoid", line, *band, "line"))
    text = f"The line reaches down to the predicted loss {lowest:.4g}."
    return Plot("loss_to_accuracy", "Accuracy from loss", "loss", "accuracy", layers, None, False, False, text, text)


def _size_plot(chain: Chain, size: np.ndarray, accuracy: np.ndarray, target: float, settings: Settings) -> Plot:
    line = np.geomspace(float(size.min()), max(target, float(size.max())), 60)
    layers = (Layer("runs", size, accuracy), Layer("chain", line, *chain.predict(line, settings), "line"))
    text = "The band is where a new run's accuracy falls with 95%."
    return Plot("size_to_accuracy", "Accuracy from size", "N", "accuracy", layers, None, True, False, text, text)
