"""What a judgement says to a reader."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import product

import numpy as np
from scipy import stats

from harness.judging.charged import Charged
from harness.judging.findings import EXTRAPOLATED, MOMENTS, Findings, Verdict, expected_best
from harness.judging.fixed import Untuned
from harness.judging.rates import OCTAVES
from harness.laws.plots import Layer, Plot
from harness.laws.procedures.base import Table
from harness.report.document import Section
from harness.report.scored import left_out_section, pairs_section, ratio_section, score_section
from harness.tuning import Space

CONDITIONAL = (
    "Verdicts are conditional on these workloads, sizes and durations, and on tuning with as many points as here. Intervals "
    "are over studies, each of which draws its points anew, so they know of the luck of tuning. Speed-ups are in training "
    "steps (of equal batches), at the end of fully decayed runs; what a step costs stands apart, because a proxy's step-time "
    "overhead does not carry over to large models."
)


def sections_of(found: Findings) -> list[Section]:
    """The page, from the verdict to the tuning."""
    parts = [_verdict(found), *(_workload(found, one) for one in found.verdicts)]
    scored = score_section(found.scores)
    parts += [scored, _to_target(found), pairs_section(found.scores)]
    if len(found.scores.base) > 1:
        parts.append(left_out_section(found.scores))
    parts += [ratio_section(found.scores), _costs(found)]
    if found.target is not None:
        parts.insert(1, _at_target(found))
    if found.rates:
        parts.append(_rates(found))
    if found.untuned is not None:
        parts.append(_untuned(found, found.untuned))
    return [*parts, _along_the_way(found), _charged(found), _tuning(found)]


def _verdict(found: Findings) -> Section:
    facts = [
        ("verdict", found.overall.verdict),
        ("speed-up in steps", f"{found.overall.value:.3f}" if math.isfinite(found.overall.value) else "not measured"),
        ("why", found.overall.reason),
        *((f"with size, {one.workload}", f"{one.scale[0]}: {one.scale[1]}") for one in found.verdicts),
        ("score, in time", _score(found, steps=False)),
        ("score, in steps", _score(found, steps=True)),
        *(
            (
                f"target, {name}",
                f"validation loss {goal.loss:.4g}, set by other runs of {goal.baseline}, "
                f"{100 * goal.hit_probability:.0f}% of whose scored ones reach it",
            )
            for name, goal in found.targets.items()
        ),
    ]  # fmt: skip
    warnings = []
    edges = [one for one in found.tuned if "learning_rate" in one.edges]
    others = sorted({f"{name} of {o.method.name}" for o in found.tuned for name in o.edges if name != "learning_rate"})
    if edges:
        names = ", ".join(f"{one.method.name} at {one.setting.name}" for one in edges[:4])
        warnings.append(
            f"{len(edges)} best learning rates lie at the end of the search space even after it was extended ({names}): widen "
            "it with space=FILE; a baseline's is that of a FILE.py:FUNCTION with a SPACE of its own."
        )
    if others:
        warnings.append(f"Also at the end of an axis after it was extended: {', '.join(others)}. Tuning says where.")
    return Section(f"{found.judged} against {found.methods[0]}", CONDITIONAL, tuple(facts), warnings=tuple(warnings))


def _score(found: Findings, steps: bool) -> str:
    scores = found.step_scores if steps else found.scores
    return ", ".join(
        f"{scores.submissions[i]} {scores.scores[i]:.3f} [{scores.ci95[i, 0]:.3f}, {scores.ci95[i, 1]:.3f}]"
        for i in scores.order
    )


def _to_target(found: Findings) -> Section:
    """Steps and time to every workload's target."""
    first = found.methods[0]
    rows = []
    for name, method in product(found.targets, found.methods):
        (steps, seconds), base = found.to_target[method, name], found.to_target[first, name]
        over = [
            own / other if math.isfinite(own / other) else math.nan
            for own, other in zip((steps, seconds), base, strict=True)
        ]
        rows.append((name, method, steps, over[0], seconds, over[1]))
    header = ("workload", "method", "steps", f"over {first}", "seconds", f"over {first}")
    text = (
        "Medians over the studies at each workload's largest size and longest horizon; a study that misses the target takes "
        "forever. Steps are of the workload's batch size."
    )
    return Section("To the target", text, (), (Table("Steps and time to target", header, tuple(rows)),))


def _workload(found: Findings, one: Verdict) -> Section:
    rows = []
    for entry in one.speed_ups:
        if math.isfinite(entry.value):
            shown = f"{entry.value:.3f}"
        else:
            shown = f"below {entry.high:.2f}" if entry.low == 0 else f"above {entry.low:.2f}"
        rows.append((int(entry.size), int(entry.horizon), entry.horizon / entry.size, shown, entry.ci90, entry.ci95))
    header = ("parameters", "tokens", "tokens per parameter", "speed-up", "90% interval", "95% interval")
    tables = [Table(f"Speed-up over {found.methods[0]}", header, tuple(rows))]
    if one.joint is not None:
        tables.append(_joint(found, one))
    losses = [o for o in found.tuned if o.setting.workload.name == one.workload]
    facts = [
        ("over all settings", f"{one.overall.verdict}: {one.overall.reason}"),
        ("with size", f"{one.scale[0]}: {one.scale[1]}"),
    ]
    warnings = [one.note] if one.note else []
    if one.joint is not None:
        warnings += [f"Extrapolated by the joint law: {doubt}." for doubt in one.joint.doubts]
    plots = [_speed_up_plot(one), _loss_plot(found, one.workload, losses)]
    return Section(one.workload, "", tuple(facts), tuple(tables), tuple(p for p in plots if p.layers), tuple(warnings))


def _joint(found: Findings, one: Verdict) -> Table:
    """What the joint law says beyond the largest size, at its tokens per parameter."""
    assert one.joint is not None
    largest, per_parameter = one.joint.largest, one.joint.per_parameter
    rows = []
    for times in EXTRAPOLATED:
        size = times * largest
        value, interval = one.joint.speed_up(found.judged, size, per_parameter * size)
        rows.append((int(size), int(per_parameter * size), value, interval))
    title = "Extrapolated by L = E + A / (a N)^alpha + B / (b D)^beta, shared exponents"
    return Table(title, ("parameters", "tokens", "speed-up", "95% interval"), tuple(rows))


def _speed_up_plot(one: Verdict) -> Plot:
    layers = []
    for horizon in sorted({entry.horizon for entry in one.speed_ups}):
        here = [e for e in one.speed_ups if e.horizon == horizon and e.inside]
        if here:
            size, value = np.array([e.size for e in here]), np.array([e.value for e in here])
            low, high = (np.array([e.ci95[k] for e in here]) for k in (0, 1))
            layers.append(Layer(f"{horizon:,.0f} tokens", size, value, low, high))
    caption = "Speed-up in steps with 95% intervals over studies; 1 is the baseline."
    return Plot(
        f"speed_up_{one.workload}",
        f"{one.workload}: speed-up by size",
        "parameters",
        "speed-up",
        tuple(layers),
        caption=caption,
        alt=caption,
    )


def _loss_plot(found: Findings, workload: str, tuned: list) -> Plot:  # type: ignore[type-arg]
    layers = []
    widths = {one.setting.workload.width for one in tuned}
    widest = [one for one in tuned if one.setting.workload.width == max(widths)]
    for method in found.methods:
        mine = sorted((one for one in widest if one.method.name == method), key=lambda one: one.setting.steps)
        values = np.stack([found.losses[method, one.setting.name] for one in mine])
        ok = np.isfinite(values).all(axis=1)
        steps = np.array([float(one.setting.steps) for one in mine])
        if ok.any():
            layers.append(Layer(method, steps[ok], values[ok].mean(1), values[ok].min(1), values[ok].max(1), "line"))
    caption = f"Final validation loss against the horizon at width {max(widths)}: mean and range of the studies."
    return Plot(
        f"loss_{workload}",
        f"{workload}: loss by horizon",
        "steps",
        "validation loss",
        tuple(layers),
        caption=caption,
        alt=caption,
    )


def _costs(found: Findings) -> Section:
    base = {setting: cost.step.seconds for (method, setting), cost in found.costs.items() if method == found.methods[0]}
    rows = tuple(
        (
            method,
            setting,
            1e3 * cost.step.seconds,
            cost.step.seconds / base[setting],
            cost.step.rel_stderr,
            cost.flops_share,
            cost.state,
        )
        for (method, setting), cost in found.costs.items()
    )
    header = (
        "method",
        "setting",
        "ms per step",
        f"over {found.methods[0]}",
        "relative standard error",
        "own FLOPs / 6 N B",
        "state bytes / parameter bytes",
    )
    text = (
        "Isolated step times of this device, which scores in time use; they do not carry over to large models; the "
        "optimizer's own FLOPs over those of the model's matrix products, 6 N times the batch's tokens B, do: target_params= "
        "counts them in a large model of the family. Work that is done every k steps counts as if it were done in each."
    )
    return Section("What a step costs", text, (), (Table("Cost of a step", header, rows),))


def _at_target(found: Findings) -> Section:
    """What the proxies say about the run to be decided about."""
    target = found.target
    assert target is not None
    rows = tuple(
        (one.workload, one.method, one.speed_up, one.ci95, one.width, one.depth, one.flops_share, one.in_flops)
        for one in found.at_target
    )
    counted = ("counted at width", "depth", "own FLOPs / 6 N B")
    header = ("workload", "method", "speed-up in steps", "95% interval", *counted, "speed-up in FLOPs")
    facts = (
        ("parameters", f"{target.params:.3g}"),
        ("tokens", f"{target.tokens:.3g}"),
        ("tokens a step", f"{target.batch:.3g}"),
    )
    text = (
        f"The joint law's speed-up over {found.methods[0]} at this size and duration, far beyond the sizes it was fitted to: "
        "its interval knows the noise of studies and not whether the law holds there. In FLOPs: what is left when the "
        "optimizer's own work is paid."
    )
    doubts = [(one.workload, doubt) for one in found.verdicts if one.joint is not None for doubt in one.joint.doubts]
    warnings = tuple(f"{workload}: {doubt}." for workload, doubt in doubts)
    return Section(
        "At the target", text, facts, (Table("Extrapolated to the target", header, rows),), warnings=warnings
    )


def _rates(found: Findings) -> Section:
    rows, costs, plots = [], [], []
    for one in found.rates:
        moved = one.transfer
        drift, interval = (math.nan, (math.nan, math.nan)) if moved is None or moved.drift is None else (
            moved.drift.exponent, moved.drift.interval(0.95)
        )  # fmt: skip
        regret = math.nan if moved is None else float(moved.regret.value[-1])
        verdict = "undecided" if moved is None else moved.verdict
        why = one.note if moved is None else moved.reason
        rows.append((one.workload, one.method, one.parametrization, verdict, drift, interval, regret, why))
        for width, mean, ends in zip(
            one.sensitivity.widths, one.sensitivity.mean[0], one.sensitivity.intervals(0.95)[0], strict=True
        ):
            costs.append((one.workload, one.method, int(width), mean, tuple(ends.tolist())))
        if moved is not None:
            plots.append(_rate_plot(one.workload, one.method, one.parametrization, moved.mean_curves))
    header = ("workload", "method", "under", "verdict", "drift exponent", "95% interval", "regret at the widest", "why")
    transfer = Table("Does the smallest width's best learning rate carry over?", header, tuple(rows))
    sensitivity = Table(
        "Learning-rate sensitivity",
        ("workload", "method", "width", "mean excess loss", "95% interval"),
        tuple(costs),
    )
    text = (
        f"The best configuration of the smallest width at learning rates {2.0 ** OCTAVES[0]:g} to {2.0 ** OCTAVES[-1]:g} times "
        "its own, on seeds that chose nothing. Sensitivity: how far the loss lies above the best of these rates on average "
        "(Wortsman et al. 2023)."
    )
    return Section("Learning rates", text, (), (transfer, sensitivity), tuple(plots))


def _rate_plot(workload: str, method: str, under: str, curves: Mapping[float, tuple[np.ndarray, np.ndarray]]) -> Plot:
    layers = tuple(Layer(f"width {width:g}", *curve, kind="line") for width, curve in curves.items())
    caption = (
        f"Validation loss of {method} under {under} by learning rate and width; mean of the seeds that did not diverge."
    )
    name = "".join(c if c.isalnum() else "_" for c in f"rates_{workload}_{method}")
    return Plot(name, f"{workload}, {method}", "learning rate", "validation loss", layers, caption=caption, alt=caption)


def _untuned(found: Findings, one: Untuned) -> Section:
    excess = tuple((c.method, c.kind, math.exp(c.mean) - 1, int(np.isnan(c.excess).sum())) for c in one.contestants)
    rows = tuple((c.first, c.second, c.ratio, c.ci95) for c in one.comparisons)
    chosen = tuple(
        (
            *(run.method, run.kind, run.workload),
            ", ".join(f"{key}={value:.3g}" for key, value in run.values.items()),
            run.source,
        )
        for run in one.runs
    )
    text = (
        "One configuration for all workloads. Default: the literature's. Calibrated: of points that are the same on all "
        "workloads the one that is best on the others. Excess: of the loss over that of "
        f"{found.methods[0]} tuned on each workload, geometric mean; a diverged run counts as e."
    )
    if one.without_default:
        text += f" No default: of {', '.join(one.without_default)} neither the literature nor its own file names one."
    tables = (
        Table("Without tuning", ("method", "configuration", "excess loss", "diverged runs"), excess),
        Table("Ratio of losses", ("first", "second", "ratio", "95% interval over seeds"), rows),
        Table("Configurations", ("method", "kind", "workload", "values", "source"), chosen),
    )
    return Section("Hyperparameter-free", text, (), tables)


def _along_the_way(found: Findings) -> Section:
    rows = []
    flips = 0
    for setting, losses in found.moments.items():
        means = losses.mean(axis=2)  # (moments, methods)
        for share, values in zip(MOMENTS, means, strict=True):
            order = np.argsort(values)  # diverged ones are last
            rows.append((setting, f"{100 * share:.0f}%", " < ".join(found.methods[k] for k in order), *values.tolist()))
        winner = int(np.argsort(means[-1])[0])
        flips += sum(_beaten(early, winner) for early in losses[:-1])
    header = ("setting", "of the horizon", "ranking", *found.methods)
    total = len(found.moments) * (len(MOMENTS) - 1)
    facts = (
        ("intermediate rankings in which another leads the final winner beyond noise (95%)", f"{flips} of {total}"),
    )
    return Section(
        "Ranking along the way",
        "Only the end of a decayed run counts.",
        facts,
        (Table("Validation loss", header, tuple(rows)),),
    )


def _beaten(losses: np.ndarray, winner: int) -> bool:
    """Whether the leader of losses (methods, K studies) has a lower mean than `winner`, by a one-sided paired t test at 95%."""
    leader = int(np.argsort(losses.mean(axis=1))[0])
    ahead = losses[winner] - losses[leader]
    ahead = ahead[np.isfinite(ahead)]
    if leader == winner or ahead.size < 2:
        return False
    return bool(ahead.mean() > stats.t.ppf(0.95, ahead.size - 1) * ahead.std(ddof=1) / math.sqrt(ahead.size))


def _charged(found: Findings) -> Section:
    """What a loss costs with its tuning."""
    rows, plots = [], []
    for workload in dict.fromkeys(one.workload for one in found.charged):
        mine = {one.method: one for one in found.charged if one.workload == workload}
        ours, baseline = mine[found.judged], mine[found.methods[0]]
        costs = np.concatenate([one.tokens for one in mine.values()])
        if not costs.size:  # all diverged
            continue
        for paid in costs.min() * 2.0 ** np.arange(math.floor(math.log2(costs.max() / costs.min())) + 1):
            losses = [mine[method].loss(paid) for method in found.methods]
            rows.append((workload, int(paid), *losses, _price(ours, baseline, paid)))
        layers = tuple(
            Layer(m, mine[m].tokens, mine[m].losses, kind="line") for m in found.methods if mine[m].tokens.size
        )
        caption = (
            f"{workload}: the loss that runs of any number and horizon reach together, by the tokens of all of them."
        )
        plots.append(
            Plot(
                "charged_" + workload,
                f"{workload}: loss when tuning is charged",
                "tokens of all runs",
                "validation loss",
                layers,
                caption=caption,
                alt=caption,
            )
        )
    text = (
        "At the largest width, on the tuning seeds: k runs of one horizon, their points drawn at random, cost k times its "
        "tokens, and half the time their best is at least as good as this. The longer run or the next point, whichever helps "
        "more. A method that tunes itself pays for one run, in which its search steps are counted."
    )
    pays = f"{found.methods[0]} pays, for {found.judged}'s loss, times"
    header = ("workload", "tokens, tuning included", *found.methods, pays)
    table = Table("Loss when the tokens of all runs are charged", header, tuple(rows))
    return Section("Tuning charged", text, (), (table,), tuple(plots))


def _price(ours: Charged, baseline: Charged, paid: float) -> str:
    """How many times as many tokens the baseline pays for the loss that ours has for these."""
    loss = ours.loss(paid)
    if math.isnan(loss):
        return ""
    own, price = ours.price(loss), baseline.price(loss)
    if math.isinf(price):
        return f"above {baseline.tokens[-1] / own:.3g}" if baseline.tokens.size else ""
    return f"{'below ' if loss > baseline.losses[0] else ''}{price / own:.3g}"


def _tuning(found: Findings) -> Section:
    rows = []
    for one in found.tuned:
        best = expected_best(one)
        few = best[min(len(best), 4) - 1]
        values = ", ".join(f"{key}={value:.3g}" for key, value in one.best.items())
        edges = ", ".join(f"{key} ({end})" for key, end in one.edges.items())
        axes = len(one.method.space.axes) if isinstance(one.method.space, Space) else 0
        row = (
            one.setting.name,
            one.method.name,
            axes,
            len(one.studies),
            len(best),
            best[0],
            few,
            best[-1],
            values,
            edges,
        )
        rows.append(row)
    header = (
        "setting", "method", "axes", "studies", "points in all", "expected best of 1", "of 4", "best of all", "its point",
        "most studies at an edge of",
    )  # fmt: skip
    text = (
        "Validation losses on the tuning seeds. All methods that are tuned had as many points, however many axes they have; "
        "edges were extended for all alike. Those that list their points had these."
    )
    return Section("Tuning", text, (), (Table("Equal tuning", header, tuple(rows)),), tuple(_best_plots(found)))


def _best_plots(found: Findings) -> Iterator[Plot]:
    """Expected best of k points against k, where each workload is scored."""
    scored = {one.setting.workload.name: one.setting for one in reversed(found.tuned)}
    for name, setting in reversed(scored.items()):
        layers = []
        for one in found.tuned:
            best = np.array(expected_best(one))
            known = np.isfinite(best)  # the best of few points is infinite on average where any diverged
            if one.setting == setting and known.any():
                layers.append(Layer(one.method.name, np.arange(1.0, best.size + 1)[known], best[known], kind="line"))
        if layers:
            caption = (
                f"{setting.name}: expected validation loss of the best of k points (Dodge et al. 2019), tuning seeds."
            )
            title = f"{name}: what tuning is worth"
            yield Plot(
                f"best_of_{name}", title, "points k", "validation loss", tuple(layers), caption=caption, alt=caption
            )
