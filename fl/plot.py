"""A run's own pictures: its curves, and how its data are spread over the clients."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fl.curves import Record, averaged, view_of
from fl.files import write_atomic
from fl.panel import TARGET, draw, out_of_view
from fl.style import Figure, MaxNLocator, as_shipped, encoded, matplotlib, style

if TYPE_CHECKING:
    from torch import Tensor

MOST_CLIENTS_AS_BARS = 40
MOST_CLIENTS_SHOWN = 200


@as_shipped
def save_curves(path: Path, records: Sequence[Record], title: str, targets: Sequence[float] = ()) -> None:
    """Test accuracy and loss of one run against rounds, the training loss beside the test loss.

    targets: in [0, 1], always in view. What is out of view, such as the untrained model, is marked and said.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    accuracy, test, train = (
        averaged(label, [records], "rounds", metric)
        for label, metric in (
            ("accuracy", "test_accuracy"), ("test loss", "test_loss"), ("training loss", "train_loss")
        )
    )  # fmt: skip
    marks = [100 * target for target in targets]
    notes = [TARGET] if marks else []
    for axes, metric, curves in ((left, "test_accuracy", [accuracy]), (right, "loss", [test, train])):
        drawn = [curve for curve in curves if curve.y]
        view = view_of(drawn, metric, marks)
        styles = [style(number) for number in range(len(drawn))]
        lines = draw(axes, drawn, styles, "rounds", metric, view, marks if axes is left else ())
        notes += out_of_view(drawn, view, axes is left)
        if axes is right:
            axes.legend(lines, [curve.label for curve in drawn], frameon=False)
    figure.suptitle("\n".join(textwrap.wrap(title, 130)), parse_math=False)
    if notes:
        figure.supxlabel("\n".join(notes), x=0.01, ha="left", fontsize="small", parse_math=False)
    write_atomic(path, encoded(figure, path, title))


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
    axes.set_title(title, parse_math=False)
    write_atomic(path, encoded(figure, path, title))
