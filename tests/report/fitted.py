"""A document like that of a fit of L(N, D), from known coefficients."""

from __future__ import annotations

import numpy as np

from harness.laws.plots import Contour, Layer, Plot
from harness.laws.procedures.base import Table
from harness.report.document import Section

E, A, B, ALPHA, BETA = 1.817, 482.0, 2085.4, 0.3478, 0.3658
COMMAND = "python -m harness.fit runs=runs.csv law=chinchilla columns.N=params columns.D=tokens columns.L=loss"


def law(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    return E + A * n**-ALPHA + B * d**-BETA


def contour_plot(n: np.ndarray, d: np.ndarray) -> Plot:
    across, up = np.geomspace(3e7, 3e10, 60), np.geomspace(5e8, 2e12, 60)
    exponent = BETA / (ALPHA + BETA)
    flops = np.geomspace(3e17, 3e22, 40)
    best = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA)) * (flops / 6) ** exponent
    return Plot(
        name="surface",
        title="Fitted loss over parameters and tokens",
        x_label="parameters N",
        y_label="training tokens D",
        layers=(
            Layer("runs", n, d),
            Layer("compute-optimal", best, flops / 6 / best, kind="line"),
        ),
        contour=Contour(across, up, law(across[None, :], up[:, None]), "loss (nats/token)"),
        caption="Along the line, a given number of FLOPs (6 N D) reaches the lowest loss.",
        alt="Level lines of the fitted loss; the compute-optimal line has slope about 1.",
    )


def residual_plot(fitted: np.ndarray, residual: np.ndarray) -> Plot:
    held = np.arange(fitted.size) % 7 == 0
    layers = tuple(Layer(name, fitted[m], residual[m]) for name, m in (("fitted", ~held), ("held out", held)))
    layers += (Layer("zero", np.array([fitted.min(), fitted.max()]), np.zeros(2), kind="line"),)
    return Plot("residuals", "Residuals", "fitted loss", "log residual", layers, log_y=False)


def prediction_plot(n: np.ndarray, d: np.ndarray, loss: np.ndarray) -> Plot:
    line = np.geomspace(5e7, 2e11, 50)
    fitted = law(line, 20 * line)
    width = 0.003 + 0.006 * np.log10(line / 5e7)
    near = np.abs(np.log(d / n / 20)) < 1
    layers = (
        Layer("runs", n[near], loss[near], loss[near] * 0.995, loss[near] * 1.005),
        Layer("fit, 20 tokens a parameter", line, fitted, fitted * (1 - width), fitted * (1 + width), "line"),
        Layer("predicted", np.array([7e10]), law(np.array([7e10]), 1.4e12), np.array([1.9]), np.array([2.0])),
    )
    return Plot("prediction", "Predicted loss", "parameters", "loss (nats/token)", layers, caption="Band: 95 %.")


def isoflop_plot() -> Plot:
    layers: list[Layer] = []
    for flops in np.geomspace(6e18, 3e21, 10):
        n = np.geomspace(0.25, 4, 9) * (flops / 6 / 20) ** 0.5
        label = f"{flops:.1e} FLOPs"
        fine = np.geomspace(n[0], n[-1], 40)
        noise = np.random.default_rng(int(flops // 1e17)).normal(0, 0.002, n.size)
        layers += [
            Layer(label, n, law(n, flops / 6 / n) + noise),
            Layer(f"{label}, law", fine, law(fine, flops / 6 / fine), kind="line"),
            Layer(f"{label}, parabola", fine, law(fine, flops / 6 / fine) * 1.003, kind="line"),
        ]
    best = np.geomspace(6e18, 3e21, 10)
    layers.append(Layer("optimum", (best / 120) ** 0.5, law((best / 120) ** 0.5, (best / 6 * 20) ** 0.5)))
    return Plot("isoflop", "Loss against size at fixed compute", "parameters", "loss (nats/token)", tuple(layers))


def crowd_plot(points: int) -> Plot:
    random = np.random.default_rng(3)
    layers = []
    for i, name in enumerate(
        ("adamw", "nadamw", "lion", "sgd", "muon", "soap", "shampoo", "adan", "lamb", "adafactor")
    ):
        x = 10 ** random.uniform(6, 11, points // 10)
        layers.append(Layer(name, x, 1.6 + 0.1 * i + 400 * x**-0.34 * np.exp(random.normal(0, 0.02, x.size))))
    return Plot("crowd", "Every run", "parameters", "loss (nats/token)", tuple(layers))


def sections(points: int = 10_000) -> tuple[Section, ...]:
    random = np.random.default_rng(0)
    n = 10 ** random.uniform(7.7, 10.2, 240)
    d = n * 10 ** random.uniform(0.3, 2.5, n.size)
    residual = random.normal(0, 0.004, n.size)
    loss = law(n, d) * np.exp(residual)
    parameters = Table(
        "Parameters",
        ("parameter", "estimate", "standard error", "95 % interval", "identifiable"),
        (
            ("E", E, 0.025, (1.768, 1.866), True),
            ("A", A, 124.6, (260.1, 832.0), True),
            ("B", B, 1293.2, (711.4, 6110.0), True),
            ("alpha", ALPHA, 0.015, (0.318, 0.377), True),
            ("beta", BETA, 0.021, (0.325, 0.406), True),
            ("epsilon", 3.2e-6, None, (None, float("inf")), False),
        ),
    )
    backtest = Table(
        "Backtest: fitted on the smaller, error on the larger",
        ("law", "points", "mean absolute error", "worst"),
        (
            ("chinchilla", 190, "0.41 %", "1.9 %"),
            ("joint_power_law", 190, "0.98 %", "4.4 %"),
            ("straight line", 190, "2.3 %", "9.8 %"),
        ),
    )
    rows = Table(
        "Runs",
        ("run", "N", "D", "loss", "fitted", "log residual", "used"),
        tuple(
            (f"run-{i:03d}", int(n[i]), d[i], loss[i], law(n[i], d[i]), residual[i], i % 7 != 0) for i in range(n.size)
        ),
    )
    fit = Section(
        title="chinchilla",
        text="L(N, D) = E + A N^-alpha + B D^-beta.  Hoffmann et al. 2022, eq. 10.\n\n"
        "Fitted on log residuals, Huber loss with delta 0.001, sum-reduced; 4,500 starts.",
        facts=(
            ("rows used", "240 of 245"),
            ("dropped", "3 without a loss, 2 diverged"),
            ("objective", "0.0139"),
            ("interval", "bootstrap over runs, 1,000 draws"),
        ),
        tables=(parameters, backtest, rows),
        plots=(contour_plot(n, d), residual_plot(law(n, d), residual), prediction_plot(n, d, loss)),
        warnings=(
            "epsilon is not determined by these rows: its interval is unbounded. Predictions may be.",
            "B moves with beta (correlation 0.997): read them together, never alone.",
        ),
    )
    more = Section(
        title="isoFLOP",
        text="Optimum of each budget, then a law of the optima.",
        plots=(isoflop_plot(), crowd_plot(points)),
    )
    return fit, more
