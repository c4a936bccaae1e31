"""published: what `harness.laws` finds on tables that others have published, against the numbers asked for."""

from __future__ import annotations

import numpy as np

from harness.laws import LAWS, Objective, fit
from harness.laws.procedures import Settings
from harness.laws.procedures.hyperparameters import Hyperparameters
from tests.bench.fits import BOOTSTRAPS, DATA, OBJECTIVE, points
from tests.bench.measure import Section, Target
from tests.bench.setup import Setup
from tests.laws import published, test_isoflop, test_published_schedules, test_revisiting_nsl

_BESIROGLU = {  # parameter: published value, its standard error, the bootstrap standard error to be met
    "A": (477.83, 124.52, 116.0),
    "B": (2143.4, 1293.28, 1426.0),
    "E": (1.8172, 0.0257, 0.0261),
    "alpha": (0.3473, 0.0154, 0.0146),
    "beta": (0.3672, 0.0206, 0.0208),
}


def measure(setup: Setup) -> Section:
    """Every gate is one line; deterministic, so one repeat."""
    section = Section("published", "the fitting stage on published tables")
    if not DATA.is_dir():
        section.notes.append("skipped: the published tables are not beside this checkout")
        return section
    for add in (_chinchilla, _gemstones, _porian, _schedules, _steplaw, _learning_curves):
        add(section)
    return section


def _at_most(section: Section, name: str, unit: str, value: float, bound: float) -> None:
    section.add(name, unit, [value], Target("at most", bound))


def _chinchilla(section: Section) -> None:
    inputs, loss = points()
    found = fit(LAWS["chinchilla"](), inputs, loss, objective=OBJECTIVE, bootstrap=BOOTSTRAPS, kind="points")
    off = max(abs(found.params[k] - value) / stderr for k, (value, stderr, _) in _BESIROGLU.items())
    spread = max(abs(found.bootstrap_stderr[k] / stderr - 1) for k, (_, _, stderr) in _BESIROGLU.items())
    _at_most(section, "chinchilla: objective", "sum", found.objective, 0.00101828)
    _at_most(section, "chinchilla: parameters off by, at worst", "published SE", off, 0.1)
    _at_most(section, "chinchilla: bootstrap SE off by, at worst", "relative", spread, 0.25)


def _gemstones(section: Section) -> None:
    records = published.rows("gemstones", "wandb_df_for_fitting_hot.jsonl")
    columns = published.numbers(records, N="params_active_precise", D="tokens", loss="final_loss")
    found = fit(LAWS["chinchilla"](), columns, columns["loss"], objective=Objective(delta=1e-3), bootstrap=100)
    off = max(abs(found.params["alpha"] - 0.2929), abs(found.params["beta"] - 0.7129))
    _at_most(section, "gemstones hot: objective", "sum", found.objective, 0.0019816129)
    _at_most(section, "gemstones hot: exponents off by, at worst", "absolute", off, 1e-3)


def _porian(section: Section) -> None:
    off = []
    for columns, results, _ in test_isoflop.porian().values():
        found = test_isoflop.run(columns).values["akima"]["N"]["unweighted"]["exponent"]
        off.append(abs(found - float(results["basic"]["n_exponent"])) / float(results["bootstrap:n_exponent"]["sd"]))
    _at_most(section, f"porian: {len(off)} exponents off by, at worst", "published SD", max(off), 0.5)


def _schedules(section: Section) -> None:
    for size in (25, 100):
        full, simple = (test_published_schedules.errors(size, law) for law in ("multi_power", "annealing"))
        recommended = test_published_schedules.estimate(size).values["backtest"]["recommended"]
        _at_most(section, f"multipowerlaw {size}M: mean test RMSE", "nats", float(full.mean()), 0.010)
        _at_most(section, f"multipowerlaw {size}M: worst curve", "nats", float(full.max()), 0.021)
        _at_most(
            section, f"multipowerlaw {size}M: of the 4-parameter law's", "x", float(full.mean() / simple.mean()), 1.3
        )
        section.notes.append(f"multipowerlaw {size}M: recommended on left-out training curves: {recommended}")


def _steplaw(section: Section) -> None:
    columns = published.numbers(
        published.rows("steplaw", "dense_lr_bs_loss.csv"), N="N", D="D", lr="lr", B="bs", loss="smooth loss"
    )
    found = Hyperparameters(tokens_per_sequence=2048).run(columns, Settings())
    chosen = found.values["laws"][found.values["recommended"]["law"]]["regret"]
    _at_most(section, "steplaw: refit regret, mean over cells", "%", 100 * chosen["in_sample"]["mean"], 0.11)
    left_out = found.values["recommended"]["regret"]["mean"]
    _at_most(section, "steplaw: leave-one-cell-out regret", "%", 100 * left_out, 0.13)
    section.notes += [f"steplaw: {warning}" for warning in found.warnings if "do not support" in warning]


def _learning_curves(section: Section) -> None:
    module, errors = test_revisiting_nsl, []
    for size, loss, fitted in module.tasks().values():
        forecast = module.recommended(size, loss, fitted).forecast({"N": size[~fitted]})
        errors.append(module.rms(forecast, loss[~fitted]))
    m4 = float(np.mean(list(module.published("M4").values())))
    name = f"revisiting_nsl: recommended extrapolator on {len(errors)} tasks (M4's published mean is the bound)"
    _at_most(section, name, "rms log", float(np.mean(errors)), m4)
