"""The picture of several experiments over each other: a sheet of panels, and one legend."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl.pictures.curves import METRICS, PER_CENT, Record, averaged, telling, view_of
from fl.pictures.panel import TARGET, draw, out_of_view
from fl.pictures.style import SIZES, Figure, Line2D, Patch, Size, Style, as_shipped, encoded, matplotlib, style, wrapped
from fl.records.files import write_atomic

CUT = "seeds of different length: a line ends with its shortest"
EM = 0.56  # the mean width of a letter in its size; a legend has this to guess its own width by


@dataclass(frozen=True)
class Sheet:
    """What is drawn: the axes and metrics of its panels, how large, with which band, title and targets in [0, 1].

    No axes means those that say something; of the metrics, test accuracy and loss.
    """

    axes: tuple[str, ...] = ()
    metrics: tuple[str, ...] = METRICS[:2]
    size: str = "sheet"
    band: str = "std"
    title: str = ""
    targets: tuple[float, ...] = ()


@as_shipped
def save_comparison(path: Path, runs: Mapping[str, Sequence[Sequence[Record]]], sheet: Sheet = Sheet()) -> None:
    """Draw the experiments, which are labels with the records of their seeds; a line and a band each.

    Raises OSError if the path cannot be written.
    """
    size = SIZES[sheet.size]
    with matplotlib.rc_context(size.settings):
        write_atomic(path, encoded(_figure(runs, sheet, size), path, sheet.title))


def _figure(runs: Mapping[str, Sequence[Sequence[Record]]], sheet: Sheet, size: Size) -> Figure:
    axes_names = sheet.axes or tuple(telling(list(runs.values())))
    panels = [(metric, axis) for metric in sheet.metrics for axis in axes_names]
    # A single axis leaves room for the metrics side by side.
    beside = len(sheet.metrics) if len(axes_names) == 1 else len(axes_names)
    columns = beside if beside <= size.most_columns else min(2, size.most_columns)
    rows = -(-len(panels) // columns)
    styles = dict(zip(runs, map(style, range(len(runs))), strict=True))
    width = size.width if sheet.size != "sheet" else max(5.5, 4.4 * columns)
    figure = Figure(figsize=(width, 1.0), layout="constrained")
    grid: Any = figure.subplots(rows, columns, squeeze=False)
    notes: list[str] = []
    seen: set[str] = set()
    for place, (metric, axis) in zip(grid.flat, panels, strict=False):
        curves = [averaged(label, seeds, axis, metric, sheet.band) for label, seeds in runs.items()]
        targets = [100 * target for target in sheet.targets] if metric == "test_accuracy" else []
        view = view_of(curves, metric, targets)
        # What sends nothing has no place on an axis of bytes.
        drawn = [curve for curve in curves if curve.y and (axis == "rounds" or max(curve.x) > 0)]
        seen.update(curve.label for curve in drawn)
        draw(place, drawn, [styles[curve.label] for curve in drawn], axis, metric, view, targets)
        notes += [TARGET] if targets and TARGET not in notes else []
        unseen = out_of_view(drawn, view, metric in PER_CENT, place.get_xscale() == "log")
        notes += [note for note in unseen if note not in notes]
        notes += [CUT] if any(curve.cut for curve in drawn) and CUT not in notes else []
    for place in list(grid.flat)[len(panels) :]:
        place.set_visible(False)
    for row in grid:
        for place in row[1:]:
            if place.get_ylabel() == row[0].get_ylabel():
                place.set_ylabel("")
    absent = [label for label in runs if label not in seen]
    named = {label: seeds for label, seeds in runs.items() if label in seen}
    if absent and named:
        notes.append(f"nothing to draw on these axes: {'; '.join(absent)}")
    below = _legend(figure, named or runs, styles, notes, sheet.band, size, width)
    above = 0.0
    if sheet.title:
        lines = wrapped(sheet.title, int(width * 72 / (EM * size.font)))
        figure.suptitle("\n".join(lines), parse_math=False, x=0.01, ha="left")
        above = len(lines) * size.font * 1.3 / 72
    figure.set_size_inches(width, rows * size.panel_height + below + above)
    return figure


def _legend(
    figure: Figure, runs: Mapping[str, Sequence[Sequence[Record]]], styles: dict[str, Style], notes: Sequence[str],
    band: str, size: Size, width: float,
) -> float:  # fmt: skip
    """Draw the legend under the panels, with what there is to say of bands and of what is out of view.

    Gives its height in inches.
    """
    sizes = {len(seeds) for seeds in runs.values()}
    if sizes != {1}:
        words = {"std": "± 1 standard deviation", "range": "lowest to highest"}[band]
        n = "n" if len(sizes) > 1 else f"n={max(sizes)}"
        notes = [f"line: mean over {n} seeds; band: {words}", *notes]
    letter = EM * (size.font - 1) / 72  # inches
    widest = max(8, int((width - 0.5) / letter))
    labels = [f"{label} (n={len(seeds)})" if len(sizes) > 1 else label for label, seeds in runs.items()]
    texts = ["\n".join(textwrap.wrap(label, widest)) for label in labels]
    handles = [_handle(styles[label], len(seeds) > 1) for label, seeds in runs.items()]
    longest = max(len(line) for label in texts for line in label.splitlines())
    columns = min(len(labels), max(1, int(width / (0.55 + longest * letter))))
    said = [line for note in notes for line in textwrap.wrap(note, widest)]
    # The text is set afterwards: matplotlib would leave out a label that begins with "_", and read "$" as mathematics.
    legend = figure.legend(
        handles, [str(number) for number in range(len(labels))], loc="outside lower center", ncols=columns,
        frameon=False, title="\n".join(said) or None, alignment="left", handlelength=2.6, columnspacing=1.4,
    )  # fmt: skip
    for text, label in zip(legend.get_texts(), texts, strict=True):
        text.set_text(label)
        text.set_parse_math(False)
    legend.get_title().set_parse_math(False)
    lines = -(-len(labels) // columns) * max(label.count("\n") + 1 for label in texts)
    return (lines * 1.7 + len(said) * 1.25 + 1) * (size.font - 1) / 72


def _handle(look: Style, has_band: bool) -> Any:
    """What stands before the label: the line with its marker, on its band."""
    line = Line2D([], [], color=look.colour, linestyle=look.dashes, marker=look.marker)
    return (Patch(facecolor=look.colour, alpha=0.18, linewidth=0), line) if has_band else line
