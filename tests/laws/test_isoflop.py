"""IsoFLOP profiles: known optima, what is discarded, published exponents."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.laws.procedures.base import Settings
from harness.laws.procedures.isoflop import IsoFlop
from harness.laws.procedures.profiles import Profile, difference_noise
from tests.laws import published
from workloads.base import BadInput

E, A, B, ALPHA, BETA = 1.8, 480.0, 2100.0, 0.35, 0.37
EXPONENT = BETA / (ALPHA + BETA)
COMPUTE = np.geomspace(1e18, 1e21, 6)
SETTINGS = Settings(bootstrap=200)


def best_size(compute):
    return (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA)) * (compute / 6) ** EXPONENT


def profiles(noise=0.002, sizes=8, span=8.0, shift=1.0, compute=COMPUTE, seed=0):
    """Levels whose sizes lie around the optimum times `shift`, within a factor `span`, off centre at random."""
    rng = np.random.default_rng(seed)
    centre = best_size(compute) * shift * np.exp(rng.uniform(-0.3, 0.3, compute.size))
    size = (centre[:, None] * np.geomspace(1 / span, span, sizes)).ravel()
    c = np.repeat(compute, sizes)
    loss = E + A * size**-ALPHA + B * (c / 6 / size) ** -BETA
    return {"C": c, "N": size, "loss": loss * np.exp(noise * rng.normal(size=size.size))}


def run(columns, settings=SETTINGS, **options):
    return IsoFlop(**options).run(columns, settings)


@pytest.fixture(scope="module")
def noisy():
    return run(profiles())


def test_both_methods_find_the_exponents(noisy):
    for method, precision in {"akima": 0.06, "parabola": 0.02}.items():
        for quantity, truth in {"N": EXPONENT, "D": 1 - EXPONENT}.items():
            found = noisy.values[method][quantity]
            low, high = found["ci95"]
            assert low < truth < high
            assert abs(found["exponent"] - truth) < precision
            assert found["unweighted"]["exponent"] == pytest.approx(truth, abs=precision)


def test_noise_free_profiles_give_the_optima_to_the_interpolant_s_precision():
    found = run(profiles(noise=0.0, sizes=20))
    for level in found.values["akima"]["levels"]:
        assert level["N"] == pytest.approx(best_size(level["C"]), rel=0.01)
        assert level["D"] == pytest.approx(level["C"] / 6 / level["N"], rel=1e-9)
    assert found.values["akima"]["N"]["exponent"] == pytest.approx(EXPONENT, abs=0.002)


def test_intervals_hold_the_truth_as_often_as_they_say():
    covered = {"akima": 0, "parabola": 0}
    for seed in range(40):
        found = run(profiles(seed=seed), Settings(bootstrap=100, seed=seed))
        for method in covered:
            low, high = found.values[method]["N"]["ci95"]
            covered[method] += low <= EXPONENT <= high
    assert min(covered.values()) >= 34, "binomial(40, .95) is lower in one of 200 such tests"


def test_seed_noise_is_estimated_from_neighbours(noisy):
    assert noisy.values["noise"]["source"] == "differences of neighbouring sizes"
    assert noisy.values["noise"]["relative_sd"] == pytest.approx(0.002, rel=0.5)
    assert any("seed noise is estimated" in w for w in noisy.warnings)


def test_a_parabola_has_no_differences_and_noise_is_measured():
    rng = np.random.default_rng(0)
    size = np.geomspace(1e6, 1e9, 4000)
    curve = 1.0 + 0.1 * (np.log(size) - 17) ** 2

    def profile(log_loss):
        zero = np.zeros_like(size)
        return Profile.of(1e18, size, size, np.exp(log_loss), zero, "mean")

    assert difference_noise([profile(curve)]) < 1e-8
    noise = 0.003 * rng.normal(size=size.size)
    assert difference_noise([profile(curve + noise)]) == pytest.approx(0.003, rel=0.1)
    noise[::200] += 0.5
    assert difference_noise([profile(curve + noise)]) == pytest.approx(0.003, rel=0.25), "broken runs"


def test_repeated_rows_measure_the_noise():
    columns = [profiles(noise=0.002, seed=0), profiles(noise=0.0, seed=0)]
    rng = np.random.default_rng(5)
    seeds = [columns[1]["loss"] * np.exp(0.004 * rng.normal(size=columns[1]["loss"].size)) for _ in range(3)]
    table = {"C": np.tile(columns[1]["C"], 3), "N": np.tile(columns[1]["N"], 3), "loss": np.concatenate(seeds)}
    found = run(table)
    assert found.values["noise"]["source"] == "repeated rows"
    assert found.values["noise"]["relative_sd"] == pytest.approx(0.004 / np.sqrt(3), rel=0.15)
    assert found.n == 144


def test_the_lowest_of_a_sweep_is_taken_on_request():
    clean = profiles(noise=0.0)
    swept = {"C": np.tile(clean["C"], 3), "N": np.tile(clean["N"], 3)}
    swept["loss"] = np.concatenate([clean["loss"] * 1.2, clean["loss"], clean["loss"] * 1.05])
    lowest, alone = run(swept, repeats="min", noise=0.005), run(clean, noise=0.005)
    assert lowest.values["akima"]["N"] == alone.values["akima"]["N"]
    assert lowest.dropped == {"not the lowest of its size and level": 96}
    assert lowest.n == 48


def test_compute_follows_from_tokens():
    columns = profiles()
    tokens = {"N": columns["N"], "D": columns["C"] / 6 / columns["N"], "loss": columns["loss"]}
    assert run(tokens).values["akima"]["N"]["exponent"] == pytest.approx(run(columns).values["akima"]["N"]["exponent"])


def test_edge_minima_are_discarded_with_a_reason():
    columns = profiles()
    low = columns["C"] == COMPUTE[0]
    keep = ~low | (columns["N"] > 1.5 * best_size(COMPUTE[0]))
    found = run({name: column[keep] for name, column in columns.items()})
    assert found.values["akima"]["levels"][0]["discarded"] == "optimum on the edge: the smallest size is best"
    assert any("akima: 1 of 6 levels discarded" in w for w in found.warnings)
    assert sum(found.dropped.values()) == (keep & low).sum()
    assert found.n + sum(found.dropped.values()) == keep.sum()


def test_noise_that_hides_an_optimum_discards_the_level():
    found = run(profiles(noise=0.0), noise=1e-4)
    assert not any("draws" in str(level) for level in found.values["akima"]["levels"])
    with pytest.raises(BadInput, match="have an optimum inside their sizes"):
        run(profiles(noise=0.0, span=1.3, sizes=4), noise=1.0)


@pytest.mark.parametrize(("shift", "edge"), [(100.0, "smallest size in 6"), (0.01, "largest in 6")])
def test_an_optimum_on_the_edge_of_every_level_is_refused(shift, edge):
    with pytest.raises(BadInput, match=f"the edge of every IsoFLOP.*{edge}"):
        run(profiles(shift=shift))


def test_too_few_levels_or_sizes_are_refused():
    with pytest.raises(BadInput, match="only 2 of 2 IsoFLOP levels"):
        run(profiles(compute=COMPUTE[:2]))
    with pytest.raises(BadInput, match="no IsoFLOP level has three sizes"):
        run(profiles(sizes=2))
    with pytest.raises(BadInput, match="need compute"):
        run({name: profiles()[name] for name in ("N", "loss")})
    with pytest.raises(BadInput, match="give noise="):
        run(profiles(noise=0.0, sizes=3, compute=COMPUTE[:4]))


def test_computes_within_tolerance_are_one_level():
    columns = profiles()
    jitter = columns["C"] * np.exp(np.random.default_rng(1).uniform(-0.01, 0.01, columns["C"].size))
    assert len(run({**columns, "C": jitter}).values["akima"]["levels"]) == COMPUTE.size


def test_a_wide_asymmetric_profile_is_where_reach_helps():
    columns = profiles(noise=0.0, sizes=16, span=60.0, shift=3.0)
    all_sizes, near = run(columns, noise=1e-4), run(columns, noise=1e-4, reach=5.0)
    missed = [abs(np.log(r.values["parabola"]["levels"][3]["N"] / best_size(COMPUTE[3]))) for r in (all_sizes, near)]
    assert missed[1] < missed[0] / 3


def test_json_tables_and_plots_are_plain(noisy):
    json.dumps(noisy.values, allow_nan=False)
    assert [plot.name for plot in noisy.plots] == ["isoflop", "optimum"]
    assert all(len(row) == len(table.header) for table in noisy.tables for row in table.rows)


@pytest.mark.parametrize("bad", [{"repeats": "best"}, {"center": "mean"}, {"noise": -1.0}, {"per_interval": 1}])
def test_bad_options(bad):
    with pytest.raises(BadInput):
        IsoFlop(**bad)


CONFIGURATION = ("dataset", "hparams", "warmup", "decay", "param_count", "val")


def porian():
    """Configuration -> (columns, published results by kind, published spread of log N* by FLOPs)."""
    tables = {
        name: published.rows("porian", f"{name}.csv")
        for name in ("isoflop_points", "published_fit_results", "optimal_pairs")
    }
    found = {}
    for key in {tuple(record[name] for name in CONFIGURATION): None for record in tables["isoflop_points"]}:
        mine = {name: [r for r in table if tuple(r[c] for c in CONFIGURATION) == key] for name, table in tables.items()}
        columns = published.numbers(mine["isoflop_points"], N="n", D="t", C="flops", loss="loss")
        results = {record["kind"]: record for record in mine["published_fit_results"]}
        spread = {float(r["flops"]): float(r["n_star_std"]) for r in mine["optimal_pairs"] if r["n_star_std"]}
        found[key] = columns, results, spread
    return found


def test_every_published_exponent_is_met_within_half_its_standard_deviation():
    for key, (columns, results, _) in porian().items():
        found = run(columns).values["akima"]["N"]["unweighted"]["exponent"]
        allowed = 0.5 * float(results["bootstrap:n_exponent"]["sd"])
        assert abs(found - float(results["basic"]["n_exponent"])) < allowed, key


def test_the_published_protocol_gives_the_published_spreads():
    for key, (columns, results, spread) in porian().items():
        noise = 0.002 if key[0] == "rw" else 0.01
        found = run(columns, Settings(), noise=noise, center="median").values["akima"]
        sd = float(results["bootstrap:n_exponent"]["sd"])
        for kind, value in {"weighted": found["N"]["exponent"], "basic": found["N"]["unweighted"]["exponent"]}.items():
            assert abs(value - float(results[kind]["n_exponent"])) < 0.5 * sd, key
        assert found["N"]["unweighted"]["seed_sd"] == pytest.approx(sd, rel=0.15)
        levels = {level["C"]: level["weight_sd_log"] for level in found["levels"] if "discarded" not in level}
        assert set(levels) == set(spread)
        for compute, value in levels.items():
            assert value == pytest.approx(spread[compute], rel=0.15)
