"""A run's own pictures: its curves, how its data are spread over the clients, and how that changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data.heterogeneity import heterogeneity, in_words
from fl.pictures.curves import Record, averaged, view_of
from fl.pictures.panel import TARGET, draw, out_of_view
from fl.pictures.style import COLOURS, LABEL_COLOURS, Axes, Figure, MaxNLocator, as_shipped, matplotlib, save, style

if TYPE_CHECKING:
    from torch import Tensor

MOST_CLIENTS_AS_BARS = 40
MOST_CLIENTS_IN_A_PANEL = 20  # of several side by side
MOST_LABELS_AS_BARS = 20  # as many as there are colours
MOST_CLIENTS_IN_ORDER = 300  # of their numbers; more look like noise
MOST_CLIENTS_SHOWN = 1000


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
    if notes:
        figure.supxlabel("\n".join(notes), x=0.01, ha="left", fontsize="small", parse_math=False)
    save(figure, path, title)


@as_shipped
def save_partition(path: Path, counts: Tensor, title: str) -> None:
    """counts (K, classes): how many examples of each label each client holds.

    Few clients and labels are stacked bars. Others are a map of shares under the clients' sizes.
    """
    K, classes = counts.shape
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    if K <= MOST_CLIENTS_AS_BARS and classes <= MOST_LABELS_AS_BARS:
        _bars(figure, counts)
    else:
        _map(figure, counts)
    save(figure, path, title, below=in_words(heterogeneity(counts)))


@as_shipped
def save_drift(path: Path, counts: dict[int, Tensor], title: str) -> None:
    """counts, by round, (K, classes): how many examples of each label each client holds. A panel for each round.

    If there are many clients, the first are shown. If there are more labels than colours, bars do not tell them apart.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
    for axes, (t, of_all) in zip(panels, counts.items(), strict=True):
        shown = of_all[:MOST_CLIENTS_IN_A_PANEL]
        _stacked(axes, shown if shown.shape[1] <= MOST_LABELS_AS_BARS else shown.sum(1, keepdim=True))
        axes.set_title(f"round {t:,}")
        axes.set_xlabel("client" if len(shown) == len(of_all) else f"first {len(shown)} of {len(of_all):,} clients")
    panels[0].set_ylabel("examples")
    if next(iter(counts.values())).shape[1] <= MOST_LABELS_AS_BARS:
        _legend_of_labels(figure, panels[0])
    save(figure, path, title)


def _bars(figure: Figure, counts: Tensor) -> None:
    """A bar for each client."""
    axes = figure.subplots()
    _stacked(axes, counts)
    axes.set_xlabel("client")
    axes.set_ylabel("examples")
    _legend_of_labels(figure, axes)


def _stacked(axes: Axes, counts: Tensor) -> None:
    """A bar for each client, and in it a piece for each label, in colours that say no more than which label it is."""
    K, classes = counts.shape
    colours = LABEL_COLOURS if classes <= len(LABEL_COLOURS) else matplotlib.color_sequences["tab20"]
    bottom = counts.new_zeros(K)
    for label in range(classes):
        axes.bar(range(K), counts[:, label].tolist(), bottom=bottom.tolist(), width=0.85,
                 color=colours[label], edgecolor="white", linewidth=0.3, label=str(label))  # fmt: skip
        bottom = bottom + counts[:, label]
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _legend_of_labels(figure: Figure, axes: Axes) -> None:
    """The label on top of the bars stands on top of the legend."""
    handles, labels = axes.get_legend_handles_labels()
    small = "small" if len(labels) > 10 else "medium"
    figure.legend(handles[::-1], labels[::-1], loc="outside right upper", title="label", frameon=False, fontsize=small)


def _map(figure: Figure, counts: Tensor) -> None:
    """Above n_k; below a column for each client, and in it the share of each label in its examples."""
    K, classes = counts.shape
    order, name = list(range(K)), "client"
    if K > MOST_CLIENTS_IN_ORDER:
        order.sort(key=counts.argmax(1).tolist().__getitem__)
        name = f"the {K:,} clients, in the order of their commonest label"
    if K > MOST_CLIENTS_SHOWN:
        order = [order[i * K // MOST_CLIENTS_SHOWN] for i in range(MOST_CLIENTS_SHOWN)]
        name = f"{MOST_CLIENTS_SHOWN:,} of {name}"
    shown, sizes = len(order), counts.sum(1)[order]
    shares = (counts[order] / sizes[:, None]).T  # (classes, shown)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 3))
    above.fill_between([i + side for i in range(shown) for side in (-0.5, 0.5)],
                       sizes.repeat_interleave(2).tolist(), color=COLOURS[0], linewidth=0)  # fmt: skip
    above.set_ylabel("examples")
    above.set_ylim(bottom=0)
    colours = matplotlib.colormaps["viridis_r"].with_extremes(under="w")
    image = below.imshow(shares.tolist(), aspect="auto", cmap=colours, interpolation="nearest",
                         vmin=1e-9, vmax=float(shares.max()),
                         extent=(-0.5, shown - 0.5, classes - 0.5, -0.5))  # fmt: skip
    figure.colorbar(image, ax=below, label="share (white: none)")
    below.set_ylabel("label")
    below.set_xlabel(name)
    for axis in (below.xaxis, below.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
