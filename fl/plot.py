"""The pictures: a run's curves, its partition, and several runs over each other."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fl.errors import FlagError
from fl.files import write_atomic

# Matplotlib reads the user's settings when it is imported: a backend that it does not know ends the import, and it
# complains of what it does not understand. The pictures use neither, so neither may stop or disturb a run.
os.environ["MPLBACKEND"] = "agg"
logging.getLogger("matplotlib").setLevel(logging.ERROR)
try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter
except (OSError, ValueError) as error:
    raise FlagError(
        f"matplotlib: cannot be loaded ({error}); mend or remove the matplotlibrc that it finds "
        "(in this folder, MATPLOTLIBRC or MPLCONFIGDIR)"
    ) from None

if TYPE_CHECKING:
    from torch import Tensor

# A picture is the same for everyone: the settings that matplotlib ships with, not those of a matplotlibrc.
as_shipped = matplotlib.rc_context({k: v for k, v in matplotlib.rcParamsDefault.items() if k != "backend"})

# Okabe and Ito (2008): told apart under every common colour blindness; markers and dashes do it without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))
MOST_CLIENTS_AS_BARS = 40
MOST_CLIENTS_SHOWN = 200

Record = dict[str, Any]
Axis = Callable[[Sequence[Record]], list[float]]


def _cumulative(*keys: str) -> Axis:
    return lambda records: list(accumulate(float(sum(record[key] for key in keys)) for record in records))


AXES: dict[str, Axis] = {
    "rounds": lambda records: [record["round"] for record in records],
    "examples processed": _cumulative("examples"),
    "megabytes sent": lambda records: [b / 1e6 for b in _cumulative("downlink_bytes", "uplink_bytes")(records)],
    "seconds of training": _cumulative("round_seconds"),
}


@as_shipped
def save_curves(path: Path, records: Sequence[Record], title: str, targets: Sequence[float] = ()) -> None:
    """Test accuracy and loss of one run against rounds, the training loss beside the test loss."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    evaluated = [record for record in records if record["test_accuracy"] is not None]
    trained = [record for record in records if record["train_loss"] is not None]
    marker = "o" if len(records) <= 40 else ""
    for axes, key in ((left, "test_accuracy"), (right, "test_loss")):
        x, y = [record["round"] for record in evaluated], [record[key] for record in evaluated]
        axes.plot(x, y, marker=marker, color=COLOURS[0], label=key.replace("_", " "))
        _dress(axes, key, "rounds")
    for target in targets:
        left.axhline(target, color="0.5", linewidth=1, linestyle=":")
    if trained:
        x, y = [record["round"] for record in trained], [record["train_loss"] for record in trained]
        right.plot(
            x, y, marker="s" if marker else "", linestyle=DASHES[1], color=COLOURS[1], label="train loss, as seen"
        )
    right.legend(frameon=False)
    figure.suptitle(title)
    _save(figure, path)


@as_shipped
def save_comparison(path: Path, runs: dict[str, Sequence[Sequence[Record]]]) -> None:
    """Accuracy and loss of several runs against rounds, examples, bytes and seconds.

    runs: label to the records of its seeds. Seeds are drawn as thin lines of one colour, labelled once.
    """
    figure = Figure(figsize=(4.2 * len(AXES), 7.4), layout="constrained")
    grid = figure.subplots(2, len(AXES), sharey="row")
    for row, key in zip(grid, ("test_accuracy", "test_loss"), strict=True):
        for axes, (axis_name, axis) in zip(row, AXES.items(), strict=True):
            for number, (label, seeds) in enumerate(runs.items()):
                for first, records in enumerate(seeds):
                    points = [
                        (x, record[key])
                        for x, record in zip(axis(records), records, strict=True)
                        if record[key] is not None
                    ]
                    if not points or (axis_name == "megabytes sent" and points[-1][0] == 0):
                        continue  # no loss was finite; centralised training sends nothing
                    axes.plot(
                        *zip(*points, strict=True),
                        color=COLOURS[number % len(COLOURS)],
                        linestyle=DASHES[number % len(DASHES)],
                        marker=MARKERS[number % len(MARKERS)] if len(points) <= 40 else "",
                        markersize=5,
                        linewidth=1.8 if len(seeds) == 1 else 1.0,
                        label=None if first else label,
                    )
            _dress(axes, key, axis_name)
            axes.label_outer()
    handles, labels = grid[0][0].get_legend_handles_labels()
    columns = max(1, 200 // (12 + max(map(len, labels))))  # about what the width holds
    figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)), frameon=False)
    _save(figure, path)


@as_shipped
def save_partition(path: Path, counts: Tensor, title: str) -> None:
    """counts (K, classes): how many examples of each label each client holds."""
    K, classes = counts.shape
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes = figure.subplots()
    if K <= MOST_CLIENTS_AS_BARS:
        colours = matplotlib.colormaps["viridis"].resampled(classes)
        bottom = counts.new_zeros(K)
        for label in range(classes):
            axes.bar(range(K), counts[:, label].tolist(), bottom=bottom.tolist(), width=0.85,
                     color=colours(label), edgecolor="white", linewidth=0.3, label=str(label))  # fmt: skip
            bottom = bottom + counts[:, label]
        axes.set_ylabel("examples")
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], loc="outside right upper", title="label", frameon=False)
        axes.set_xlabel("client")
    else:
        shown = min(K, MOST_CLIENTS_SHOWN)
        picked = [i * K // shown for i in range(shown)]
        image = axes.imshow(counts[picked].T.tolist(), aspect="auto", cmap="viridis", interpolation="nearest",
                            extent=(-0.5, shown - 0.5, classes - 0.5, -0.5))  # fmt: skip
        figure.colorbar(image, label="examples")
        axes.set_ylabel("label")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("client" if shown == K else f"{shown} of the {K:,} clients, evenly spaced")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(title)
    _save(figure, path)


def _dress(axes: Axes, key: str, axis_name: str) -> None:
    axes.set_xlabel(axis_name)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axis_name == "rounds":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        axes.ticklabel_format(axis="x", style="sci", scilimits=(-2, 4))
    if key == "test_accuracy":
        axes.set_ylabel("test accuracy")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        curves: list[Any] = [line.get_ydata() for line in axes.lines]
        trained = [float(value) for curve in curves if len(curve) > 2 for value in curve[1:]]
        if trained:
            # The untrained model is at chance; with it in view the rest would be one flat line at the top.
            low, high = min(trained), max(trained)
            axes.set_ylim(low - 0.08 * (high - low) - 1e-3, high + 0.08 * (high - low) + 1e-3)
    else:
        axes.set_ylabel("loss (nats)")
        if axes.dataLim.ymin > 0:
            axes.set_yscale("log")


def _save(figure: Figure, path: Path) -> None:
    """Write the picture in the format that its name ends in: pdf, png or svg."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:].lower(), dpi=120)
    write_atomic(path, buffer.getvalue())
