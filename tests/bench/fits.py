"""fit: the published Chinchilla protocol by `harness.fit`, against scipy's L-BFGS-B doing as many fits."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from harness.laws import LAWS, Objective
from harness.laws.fitting.backtest import fit_all
from harness.laws.fitting.resampling import Fitted
from harness.laws.fitting.uncertainty import Noise
from harness.records.files import read_json
from harness.records.importers import read_table
from tests.bench.measure import Section, Target, ratios
from tests.bench.setup import ROOT, Setup

DATA = ROOT.parent / "shared" / "data"
CHINCHILLA = DATA / "chinchilla_besiroglu" / "svg_extracted_data.csv"
STARTS, BOOTSTRAPS = 4500, 4000
OBJECTIVE = Objective("huber", delta=1e-3)
_SAMPLE = 48  # scipy's fits that are timed: half from starts of the grid, half from resamples


def measure(setup: Setup) -> Section:
    section = Section("fit", f"Chinchilla: {STARTS} starts and {BOOTSTRAPS} resamples of 240 points")
    if not CHINCHILLA.is_file():
        section.notes.append(f"skipped: there is no {CHINCHILLA.name} beside this checkout")
        return section
    section.add("the whole command, empty compilation cache", "s", [_command(setup)], Target("at most", 15.0))
    inputs, loss = points()
    law = LAWS["chinchilla"]()
    weights = np.random.default_rng(0).multinomial(loss.size, np.full(loss.size, 1 / loss.size), size=BOOTSTRAPS)
    mine, theirs, excess = [], [], []
    _ours(law, inputs, loss, weights)  # compiles
    for turn in range(setup.rounds):
        started = time.perf_counter()
        found = _ours(law, inputs, loss, weights)
        mine.append((time.perf_counter() - started) / (STARTS + BOOTSTRAPS))
        each, lowest = _scipy(law, inputs, loss, weights, found.best()[0], turn)
        theirs.append(each)
        excess.append(float(found.objective.min()) / lowest - 1)
    section.add(
        "fits compiled, against L-BFGS-B with analytic gradients", "x", ratios(theirs, mine), Target("at least", 25.0)
    )
    section.add("one fit of ours", "ms", [1e3 * value for value in mine])
    section.add("one fit of scipy's", "ms", [1e3 * value for value in theirs])
    section.add("objective above scipy's lowest", "relative", excess, Target("at most", 1e-9))
    return section


def points() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """N, D and loss of the 240 points that the protocol keeps."""
    columns = read_table(CHINCHILLA).columns
    kept = np.sort(np.argsort(columns["loss"])[:-5])
    size, flops = columns["Model Size"][kept], columns["Training FLOP"][kept]
    return {"N": size, "D": flops / (6 * size)}, columns["loss"][kept]


def _ours(law, inputs, loss, weights):  # type: ignore[no-untyped-def]
    """The protocol's fits alone: every start on all points, every resample. Returns the first solution."""
    features, target = law.features(inputs), np.log(loss)
    found = fit_all(law, OBJECTIVE, features, loss, np.ones_like(loss))
    base = Fitted(law, OBJECTIVE, features, target, np.ones_like(loss), found.best()[0], Noise(loss, 0.0, 1.0, False))
    base.refit(np.broadcast_to(target, weights.shape), weights.astype(float))
    return found


def _command(setup: Setup) -> float:
    """Seconds of `python -m harness.fit` from start to end: imports, compilation, fits, backtest, JSON and report."""
    out = setup.folder / "chinchilla"
    words = [
        "law=chinchilla", f"runs={CHINCHILLA}", "columns.N=Model Size", "columns.D=`Training FLOP` / (6 * `Model Size`)",
        "outliers.drop_highest=5", "objective.delta=1e-3", "resample=points", f"bootstrap={BOOTSTRAPS}", f"out={out}",
    ]  # fmt: skip
    environment = {**setup.environment, "JAX_COMPILATION_CACHE_DIR": str(setup.folder / "empty_cache")}
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "harness.fit", *words], cwd=ROOT, env=environment, check=True, capture_output=True
    )
    seconds = time.perf_counter() - started
    entry = read_json(Path(out) / "fit.json")
    if entry["starts"]["count"] != STARTS or entry["bootstrap"]["draws"] != BOOTSTRAPS:
        raise RuntimeError(f"the command did not run the protocol: {entry['starts']}, {entry['bootstrap']}")
    return seconds


def _scipy(law, inputs, loss, weights, best, turn):  # type: ignore[no-untyped-def]
    """Seconds a fit, and the lowest objective on all points, of a sample of the protocol's fits."""
    log_n, log_d, y = np.log(inputs["N"]), np.log(inputs["D"]), np.log(loss)
    rng = np.random.default_rng(turn)
    grid = law.start_points(inputs, loss)
    starts = [*grid[rng.choice(len(grid), _SAMPLE // 2, replace=False)], *[best] * (_SAMPLE // 2)]
    drawn = [np.ones_like(y)] * (_SAMPLE // 2) + list(weights[rng.choice(len(weights), _SAMPLE // 2)].astype(float))

    def value_and_gradient(theta: np.ndarray, weight: np.ndarray) -> tuple[float, np.ndarray]:
        log_e, log_a, log_b, alpha, beta = theta
        terms = np.stack([np.full_like(y, log_e), log_a - alpha * log_n, log_b - beta * log_d])
        top = terms.max(axis=0)
        share = np.exp(terms - top)
        total = share.sum(axis=0)
        residual = top + np.log(total) - y
        e, a, b = share / total
        inside = np.minimum(np.abs(residual), OBJECTIVE.delta)
        value = float(np.sum(weight * inside * (np.abs(residual) - inside / 2)))
        psi = weight * np.sign(residual) * inside
        return value, np.array([psi @ e, psi @ a, psi @ b, -psi @ (a * log_n), -psi @ (b * log_d)])

    lowest = np.inf
    started = time.perf_counter()
    for k, (start, weight) in enumerate(zip(starts, drawn, strict=True)):
        # tight, as the published code needs with a sum: at scipy's defaults it stops well above the minimum
        options = {"maxiter": 15000, "maxfun": 15000, "ftol": 1e-15, "gtol": 1e-10}
        found = minimize(value_and_gradient, start, (weight,), "L-BFGS-B", jac=True, options=options)
        if k < _SAMPLE // 2:
            lowest = min(lowest, float(found.fun))
    return (time.perf_counter() - started) / _SAMPLE, lowest
