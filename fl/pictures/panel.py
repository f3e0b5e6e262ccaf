"""One panel: curves with their bands, what lies out of view marked at the edge, axes in plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fl.pictures.curves import Curve, View
from fl.pictures.style import MOST_MARKERS, Axes, FuncFormatter, Line2D, LogLocator, MaxNLocator, NullFormatter, Style

TARGET = "dotted: target accuracy"
YLABELS = {
    "test_accuracy": "test accuracy (%)", "test_loss": "test loss (nats)", "train_loss": "training loss (nats)",
    "loss": "loss (nats)", "client_accuracy": "clients' own test accuracy (%)",
}  # fmt: skip
BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "bytes"))
FAR_APART = 10  # if uplink bytes at the curves' ends differ by more than this factor, their axis is logarithmic
UNITS = {
    "rounds": ("rounds", ()),
    "examples": ("examples processed", ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands"))),
    "bytes": ("sent", BYTES),
    "uplink": ("sent by the clients", BYTES),
    "seconds": ("training time", ((3600, "hours"), (60, "minutes"), (1, "seconds"))),
    "simulated": ("simulated time", ((86400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))),
}


def draw(
    axes: Axes, curves: Sequence[Curve], styles: Sequence[Style], axis: str, metric: str, view: View,
    targets: Sequence[float] = (),
) -> list[Line2D]:  # fmt: skip
    """Draw the curves against what has been spent; targets (in per cent) are dotted lines with their value.

    Gives the lines.
    """
    lines = []
    end = max((x for curve in curves for x in curve.x), default=0.0)
    factor, label = unit(axis, end)
    log = axis == "uplink" and end > FAR_APART * min((curve.x[-1] for curve in curves), default=end)
    for curve, look in zip(curves, styles, strict=True):
        # The line begins at round 1 if round 0 is out of view, so that it does not come out of nowhere, and on a
        # logarithmic axis, because the 0 bytes sent by round 0 have no logarithm.
        first = 1 if curve.rounds[:1] == [0] and len(curve.y) > 1 and (log or not view.holds(curve.y[0])) else 0
        x = [value / factor for value in curve.x[first:]]
        y = [value if math.isfinite(value) else math.nan for value in curve.y[first:]]
        if curve.n > 1:
            low, high = ([min(max(v, view.low), view.high) for v in band[first:]] for band in (curve.low, curve.high))
            seen = [view.holds(v) for v in y]
            axes.fill_between(x, low, high, where=seen, color=look.colour, alpha=0.18, linewidth=0, zorder=1.5)
        markers = [at for at in range(*marked(len(x), look)) if view.holds(y[at])]
        lines += axes.plot(x, y, color=look.colour, linestyle=look.dashes, marker=look.marker, markevery=markers)
        _mark_out_of_view(axes, curve, look, view, factor, log)
    for target in targets:
        axes.axhline(target, color="0.35", linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
        axes.annotate(
            f"{target:g}\N{NO-BREAK SPACE}%", (1, target), xycoords=("axes fraction", "data"), xytext=(2, 0),
            textcoords="offset points", ha="left", va="center", color="0.35", fontsize="small", annotation_clip=False,
        )  # fmt: skip
    axes.set_xlabel(label)
    axes.set_ylabel(YLABELS[metric])
    _dress(axes, axis, view)
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.10g}"))
    else:
        axes.set_xlim(-0.02 * end / factor if end else -0.05, 1.02 * end / factor if end else 1.0)
    return lines


def unit(axis: str, end: float) -> tuple[float, str]:
    """What to divide the axis by so that its numbers are short, and its label. end: the largest of them."""
    name, units = UNITS[axis]
    for factor, word in units:
        if end >= 2 * factor or factor == 1:
            return factor, f"{name} ({word})"
    return 1, name


def marked(points: int, look: Style) -> tuple[int, int, int]:
    """The range of points with a marker: where there are many, lines have theirs at different points."""
    step = math.ceil(points / MOST_MARKERS) or 1
    return look.number * max(1, step // 3) % step, points, step


def _mark_out_of_view(axes: Axes, curve: Curve, look: Style, view: View, factor: float, log: bool) -> None:
    """Arrows at the edge for the points that are out of view, not too many; grey for round 0, which all have."""
    for symbol, edge, out in (
        ("^", 0.975, [y > view.high for y in curve.y]),
        ("v", 0.025, [y < view.low for y in curve.y]),
    ):
        gone = [at for at, is_out in enumerate(out) if is_out and (curve.x[at] > 0 or not log)]
        for at in gone[:: math.ceil(len(gone) / MOST_MARKERS) or 1]:
            colour = "0.35" if curve.rounds[at] == 0 else look.colour
            axes.plot(
                curve.x[at] / factor, edge, marker=symbol, color=colour, zorder=3,
                transform=axes.get_xaxis_transform(), clip_on=False,
            )  # fmt: skip


def out_of_view(curves: Sequence[Curve], view: View, per_cent: bool, log: bool = False) -> list[str]:
    """A line for what is above and one for what is below the view, with how far it goes.

    log: whether the other axis is logarithmic; round 0, which sends nothing, is not on it.
    """
    above, below = [], []
    begun = [c.y[0] for c in curves if c.rounds[0] == 0 and len(c.y) > 1 and c.y[0] < view.low and not log]
    if begun:
        below.append(f"round 0 (untrained): {interval(begun, per_cent)}")
    for curve in curves:
        under = [y for t, y in zip(curve.rounds, curve.y, strict=True) if t > 0 and y < view.low]
        if under:
            below.append(f"{curve.label}: {interval(under, per_cent)}")
        top = max(y for x, y in zip(curve.x, curve.y, strict=True) if x > 0 or not log)
        if top > view.high:
            above.append(f"{curve.label}: up to {interval([top], per_cent)}")
    lines = [f"▲ above the view: {'; '.join(above)}"] if above else []
    return lines + ([f"▼ below the view: {'; '.join(below)}"] if below else [])


def interval(values: Sequence[float], per_cent: bool) -> str:
    """ "7.5 to 14.2 %", "3.1e+08", "infinity"; a number stays with its unit where the line is broken."""
    if max(values) == math.inf:
        return "infinity"
    low, high = (f"{value:.1f}" if per_cent else f"{value:.2g}" for value in (min(values), max(values)))
    return (low if low == high else f"{low} to {high}") + ("\N{NO-BREAK SPACE}%" if per_cent else "")


def _dress(axes: Axes, axis: str, view: View) -> None:
    """Light grid, no box, and ticks in plain numbers."""
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=(1, 2, 2.5, 5, 10), integer=axis == "rounds"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.10g}"))
    if view.log:
        axes.set_yscale("log")
        decades = math.log10(view.high / view.low)
        if decades < 4:
            subs = (1, 2, 3, 5) if decades < 0.8 else (1, 2, 5) if decades < 1.6 else (1, 3)
            axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=20))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=(1, 2, 5, 10)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.10g}"))
    axes.set_ylim(view.low, view.high)
