"""What a leaderboard says to a reader: sections of the page and of the terminal."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from harness.laws.procedures import Table
from harness.report.document import Section
from harness.scoring.pairs import EQUIVALENT, POWER
from harness.scoring.pictures import profile_plots, ratio_map
from harness.scoring.scores import Scores

MOST_PAIRS = 30  # submissions; beyond, the page compares only these with each other

CONDITIONAL = (
    "Intervals are conditional on these workloads: they say how far scores would move with other studies of the same "
    "workloads, not with other workloads (for that, see what leaving one out changes)."
)
OPTIMISTIC = (
    "With 3 to 5 studies the percentiles of resampled studies are too narrow (on simulated leaderboards 95% of them held the "
    "true score 51 to 76% of the time with 3 studies, 77 to 96% with 5). The intervals are the score ± t standard errors "
    "of the resampled studies instead, with (studies - 1) degrees of freedom (fewer where some are missing): these held it "
    "94 to 99% of the time. No interval knows of failures that no study happened to show."
)


def score_section(scores: Scores) -> Section:
    """The leaderboard, and its profiles."""
    base, held_out = scores.base, scores.times.workloads.held_out
    facts = (
        ("rules", f"{scores.rules.name}: {(type(scores.rules).__doc__ or '').splitlines()[0]}"),
        ("base workloads", ", ".join(base)),
        ("held-out variants", ", ".join(held_out) or "none"),
        ("studies", ", ".join(scores.times.studies)),
        ("speed-ups over", scores.submissions[scores.baseline]),
        ("minimum detectable speed-up", _detectable(scores)),
    )
    header = (
        "rank", "submission", "score", "95% interval", "ranks it may have", "counted", "speed-up", "95% interval",
        "on workloads",
    )  # fmt: skip
    rows = tuple(_row(scores, i) for i in scores.order)
    table = Table("Leaderboard", header, rows)
    return Section(
        "Scores", f"{CONDITIONAL}\n\n{OPTIMISTIC}", facts, (table,), profile_plots(scores), warnings_of(scores)
    )


def _row(scores: Scores, i: int) -> tuple[Any, ...]:
    ratio = scores.ratios[i]
    speedup = scores.speedup(i, scores.baseline)
    low, high = scores.rank_ci95[i].tolist()
    return (
        int(scores.ranks[i]),
        scores.submissions[i],
        round(float(scores.scores[i]), 4),
        _interval(scores.ci95[i], 3),
        f"{low} to {high}" if low < high else f"{low}",
        f"{int(np.isfinite(ratio).sum())} of {ratio.size}",
        _times(speedup["value"]) if i != scores.baseline else "1",
        _interval(speedup["ci95"], 3) if i != scores.baseline else "",
        int(speedup["workloads"]),
    )


def _interval(ends: Any, decimals: int) -> str:
    low, high = (float(end) for end in ends)
    return f"[{low:.{decimals}f}, {high:.{decimals}f}]" if np.isfinite([low, high]).all() else "unknown"


def _times(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "unknown"


def _detectable(scores: Scores) -> str:
    if not np.isfinite(scores.detectable):
        return "unknown: it takes two studies in which both of a pair met a target"
    return (
        f"{scores.detectable:.3f} x in the median pair: a smaller true speed-up is missed in more than "
        f"{100 * (1 - POWER):.0f}% of repetitions"
    )


def warnings_of(scores: Scores) -> tuple[str, ...]:
    """What a reader must know first."""
    found = []
    columns = scores.times.workloads.columns
    empty = [name for c, name in enumerate(columns) if np.isnan(scores.times.seconds[:, c]).all()]
    if empty:
        found.append(f"No submission has a trial on {', '.join(empty)}: not met by any, and still in the denominator.")
    if len(scores.submissions) == 1:
        found.append(
            "A score depends on who else entered: alone, it is the share of workloads met. Compare time ratios."
        )
    if len(scores.times.studies) == 1:
        found.append("There is one study, so nothing tells how far scores would move with another: no intervals.")
    if scores.uneven:
        found.append(
            f"Studies are missing: {'; '.join(scores.uneven)}. Medians are over those present, which may flatter; none is not "
            "met; one leaves intervals unknown. Add the missing studies, with inf where they did not finish."
        )
    return tuple(found)


def ratio_section(scores: Scores) -> Section:
    """Who trained what, and how fast."""
    return Section("Time ratios", plots=(ratio_map(scores),))


def neighbours_section(scores: Scores) -> Section:
    """Each submission against the next in rank: for the terminal, where all pairs would be too many."""
    order = scores.order
    rows = tuple(_pair(scores, i, j) for i, j in pairwise(order))
    text = f"Time of the first over time of the second, geometric mean over the workloads that both met. {_VERDICT}"
    return Section("Neighbours in rank", text, tables=(Table("", _PAIR, rows),) if rows else ())


_PAIR = (
    "first", "second", "time ratio", "95% interval", "90% interval", "verdict", "workloads", "studies", "detectable speed-up",
)  # fmt: skip
_VERDICT = (
    f"Equivalent: the 90% interval lies inside [{EQUIVALENT[0]:g}, {EQUIVALENT[1]:g}]; otherwise faster or slower if the 95% "
    "interval excludes 1."
)


def _pair(scores: Scores, i: int, j: int) -> tuple[Any, ...]:
    pairs = scores.pairs
    return (
        scores.submissions[i],
        scores.submissions[j],
        _times(pairs.ratio[i, j]),
        _interval(pairs.ci95[i, j], 3),
        _interval(pairs.ci90[i, j], 3),
        str(pairs.verdict[i, j]),
        int(pairs.workloads[i, j]),
        int(pairs.studies[i, j]),
        _times(pairs.detectable[i, j]),
    )


def pairs_section(scores: Scores) -> Section:
    """Every submission against every other."""
    shown = scores.order[:MOST_PAIRS]
    rows = tuple(_pair(scores, i, j) for place, i in enumerate(shown) for j in shown[place + 1 :])
    text = (
        "Time of the first over time of the second (below 1: the first is faster), geometric mean over studies and over the "
        "workloads that both met. Unlike scores, ratios do not depend on who else entered; they say nothing about workloads "
        "that one of the two did not meet. Intervals are Student's t from the variation between studies, and from the error "
        f"of step times where it is known. {_VERDICT} Detectable: the smallest true speed-up that such an interval would tell "
        f"from 1 in {100 * POWER:.0f}% of repetitions."
    )
    more = len(scores.order) - len(shown)
    note = (f"The {len(shown)} highest scores; {more} more submissions are in scores.json.",) if more else ()
    return Section("Pairs", text, tables=(Table("Time ratios", _PAIR, rows),) if rows else (), warnings=note)


def left_out_section(scores: Scores) -> Section:
    """What each base workload does to the scores."""
    if len(scores.base) == 1:
        return Section("Workloads left out", "There is one base workload.")
    change = scores.without - scores.scores
    rows = tuple(
        (scores.submissions[i], round(float(scores.scores[i]), 4), *(f"{value:+.3f}" for value in change[:, i]))
        for i in scores.order
    )
    moved = np.abs(change).max(axis=0)
    text = (
        "Change of the score when a base workload, with its held-out variants, is left out. The largest for any submission "
        f"is {moved.max():.3f}, for {scores.submissions[int(moved.argmax())]}."
    )
    return Section("Workloads left out", text, tables=(Table("", ("submission", "score", *scores.base), rows),))
