"""Pictures of the law: loss against size with the fit, its band, the prediction, and what came out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from harness.report.canvas import Picture, axes, dress, legend
from harness.report.inputs import mapping
from harness.report.palette import MARKERS, Palette
from harness.report.scaling import Scaling
from harness.report.text import key_name, number, quantity, short
from harness.report.text import loss as loss_text
from harness.report.trials import Series

SIZES = {
    "params": "parameters",
    "tokens": "training tokens",
    "flops": "training FLOPs",
    "steps": "training steps",
}
_TALL = (5.2, 4.6)
ToHeight = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (size, loss) -> the axes' y


def law_picture(index: int, one: Series, law: Scaling, unit: str) -> Picture:
    """Loss against size above, the difference from the fit below (where the band can be seen)."""
    column = str(one.fit.get("x") or one.prediction.get("x") or "params")
    said = [f"{law.size.size} sizes from {quantity(law.size.min())} to {quantity(law.size.max())}"]
    low, high = number(one.prediction.get("low")), number(one.prediction.get("high"))
    if low is not None and high is not None:
        said.append(
            f"predicted {loss_text(one.prediction.get('loss'))}, 95% interval {loss_text(low)} to {loss_text(high)}"
        )
    if law.observed.size:
        said.append(f"trained afterwards: {loss_text(law.observed.mean())}")
    parts = [
        f"Points: mean loss at each size's best learning rate{_seeds(one)}, bars 2 standard errors.",
        "Band: 95 % prediction interval of a newly trained mean." if law.recorded else "",
        "Dashed: the straight line through the last two points." if one.prediction else "",
        "Star: trained after the prediction was written down." if law.observed.size else "",
        "Below: the same, relative to the fit." if law.recorded else "No law is fitted.",
    ]
    return Picture(
        name=f"loss_vs_size_{index}",
        title=f"{one.name}: loss against {SIZES.get(column, key_name(column))}",
        alt=f"Loss at the best learning rate against {SIZES.get(column, short(column))} for {short(one.name)}: "
        f"{'; '.join(said)}.",
        caption=" ".join(part for part in parts if part),
        draw=lambda figure, palette: _draw_law(
            figure, palette, index, one, law, unit, SIZES.get(column, key_name(column))
        ),
        size=_TALL,
    )


def _seeds(one: Series) -> str:
    seeds = mapping(one.fit.get("points")).get("seeds")
    return f" over {len(seeds)} seeds" if isinstance(seeds, list) and len(seeds) > 1 else ""


def _draw_law(
    figure: Figure, palette: Palette, index: int, one: Series, law: Scaling, unit: str, size_name: str
) -> None:
    colour, marker = palette.series(index), MARKERS[index % len(MARKERS)]
    sizes = np.geomspace(law.size.min() / 1.15, max(law.size.max(), law.predicted_size or 0.0) * 1.15, 60)
    top, bottom = _panels(figure, palette, law.recorded is not None)
    curve, band = law.curve(sizes), law.band(sizes)
    top.set_xscale("log")
    top.set_yscale("log")
    if curve is not None:
        top.plot(sizes, curve, color=colour, linewidth=1.5, zorder=3)
    if band is not None:
        top.fill_between(sizes, band.low, band.high, color=colour, alpha=0.18, linewidth=0, zorder=1)
    _draw_points(top, palette, colour, marker, one, law, lambda size, loss: loss)
    _size_axis(top, sizes)
    plain_log(top)
    top.set_ylabel(f"validation loss{unit}")
    lowest = bottom or top
    lowest.set_xlabel(f"{size_name} (log scale)")
    if bottom is not None and curve is not None:
        _draw_differences(bottom, palette, colour, marker, one, law, sizes)
        top.tick_params(labelbottom=False)
    legend(top, palette, _law_key(palette, colour, marker, one, law), columns=3)


def _panels(figure: Figure, palette: Palette, two: bool) -> tuple[Axes, Axes | None]:
    if not two:
        return axes(figure, palette), None
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(1.7, 1))
    for ax in (top, bottom):
        dress(ax, palette)
    return top, bottom


def _draw_differences(
    ax: Axes, palette: Palette, colour: str, marker: str, one: Series, law: Scaling, sizes: np.ndarray
) -> None:
    def relative(size: np.ndarray, loss: np.ndarray) -> np.ndarray:
        fitted = law.curve(np.atleast_1d(np.asarray(size, np.float64)))
        return 100 * (np.asarray(loss) / fitted - 1)

    band = law.band(sizes)
    ax.axhline(0, color=colour, linewidth=1.2, zorder=2)
    if band is not None:
        ax.fill_between(
            sizes,
            relative(sizes, band.low),
            relative(sizes, band.high),
            color=colour,
            alpha=0.18,
            linewidth=0,
        )
    _draw_points(ax, palette, colour, marker, one, law, relative)
    ax.set_ylabel("difference from fit (%)")
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def _draw_points(
    ax: Axes, palette: Palette, colour: str, marker: str, one: Series, law: Scaling, show: ToHeight
) -> None:
    """Fitted points, the straight line, the prediction and what came out."""
    error = np.where(np.isfinite(law.stderr), 2 * law.stderr, 0.0)
    middle, above = show(law.size, law.loss), show(law.size, law.loss + error)
    ax.errorbar(law.size, middle, above - middle, fmt=marker, color=colour, markersize=4.5, elinewidth=1.1, zorder=4)
    target = law.predicted_size
    if target is None:
        return
    ends = np.geomspace(np.sort(law.size)[-2], target, 30)
    ax.plot(
        ends,
        show(ends, law.line(ends)),
        color=palette["muted"],
        linewidth=1.1,
        linestyle=(0, (4, 2.5)),
        zorder=2,
    )
    at = np.array([target])
    low, middle_, high = (number(one.prediction.get(key)) for key in ("low", "loss", "high"))
    if low is not None and high is not None and middle_ is not None:
        low_, mid_, high_ = (show(at, np.array([v]))[0] for v in (low, middle_, high))
        ends_ = [[max(mid_ - low_, 0)], [max(high_ - mid_, 0)]]
        ink = palette["ink"]
        ax.errorbar([target], [mid_], ends_, fmt="none", ecolor=ink, elinewidth=1.6, capsize=4, capthick=1.6, zorder=5)
    if law.observed.size:
        seeds = show(np.full(law.observed.size, target), law.observed)
        ax.plot(
            np.full(law.observed.size, target),
            seeds,
            ".",
            color=palette["ink"],
            markersize=3.5,
            alpha=0.7,
            zorder=6,
        )
        ax.plot(
            [target],
            show(at, np.array([law.observed.mean()])),
            "*",
            color=palette["bad"],
            markersize=11,
            markeredgecolor=palette["ink"],
            markeredgewidth=0.5,
            zorder=7,
        )


def _size_axis(ax: Axes, sizes: np.ndarray) -> None:
    low, high = sizes[0], sizes[-1]
    candidates = [m * 10.0**e for e in range(-3, 25) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    ax.xaxis.set_major_locator(
        FixedLocator(candidates if len(candidates) <= 8 else candidates[:: len(candidates) // 6])
    )
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: magnitude(value)))
    ax.set_xlim(low, high)


def magnitude(value: float) -> str:
    """20000 -> 20 k."""
    for power, suffix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= power and value < 1e15:
            return f"{value / power:g}{suffix}"
    return quantity(value)


def plain_log(ax: Axes) -> None:
    """Numbers such as 1.9 at the ticks of a log axis that may span less than a decade."""
    low, high = ax.get_ylim()
    if low > 0 and high / low < 12:
        ticks = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        ax.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
        ax.yaxis.set_minor_locator(NullLocator())
    else:
        ax.yaxis.set_major_locator(LogLocator(numticks=8))
        ax.yaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:.1f}" if value in range(1, 10) else quantity(value))
    )
    ax.set_ylim(low, high)


def _law_key(palette: Palette, colour: str, marker: str, one: Series, law: Scaling) -> list[Artist]:
    handles: list[Artist] = [Line2D([], [], color=colour, marker=marker, markersize=4.5, label="fit and fitted points")]
    if law.recorded is not None:
        handles.append(Patch(color=colour, alpha=0.25, linewidth=0, label="95 % prediction"))
    if law.predicted_size is not None:
        dashes = (0, (4, 2.5))
        handles.append(Line2D([], [], color=palette["muted"], linestyle=dashes, label="line through last two"))
        handles.append(
            Line2D([], [], color=palette["ink"], marker="_", markersize=8, label="written down", linestyle="none")
        )
    if law.observed.size:
        handles.append(
            Line2D(
                [],
                [],
                color=palette["bad"],
                marker="*",
                markersize=9,
                label="trained afterwards",
                linestyle="none",
            )
        )
    return handles
