"""The pictures of clients: how accurate models are on their examples, over the rounds and at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fl.pictures.curves import Record
from fl.pictures.style import COLOURS, Axes, Figure, MaxNLocator, as_shipped, save

NAMES = {"before": "the model of all", "after": "tuned by each client", "local_only": "each client alone"}
BINS = [5 * i for i in range(21)]  # per cent
Accuracies = Mapping[str, Sequence[float]]


@as_shipped
def save_clients(path: Path, records: Sequence[Record], accuracies: Sequence[float], title: str) -> None:
    """Left, mean, spread and worst tenth of the clients over the rounds; right, the clients after the last."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    tested = [record for record in records if "client_accuracy" in record]
    rounds = [record["round"] for record in tested]
    mean, std, worst = (
        [100 * record["client_accuracy"][key] for record in tested] for key in ("mean", "std", "worst_decile")
    )
    low, high = ([max(min(m + side * s, 100), 0) for m, s in zip(mean, std, strict=True)] for side in (-1, 1))
    left.fill_between(rounds, low, high, color=COLOURS[0], alpha=0.2, linewidth=0, label="± standard deviation")
    left.plot(rounds, mean, color=COLOURS[0], label="mean over clients")
    left.plot(rounds, worst, color=COLOURS[1], linestyle="--", label="the worst tenth")
    left.set_xlabel("rounds")
    left.set_ylabel("accuracy on clients' own test examples, %")
    left.set_ylim(0, 102)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize="small")
    histogram(right, accuracies, COLOURS[0])
    right.set_xlabel("accuracy after the last round, %")
    save(figure, path, title)


@as_shipped
def save_personalised(path: Path, accuracies: Accuracies, title: str) -> None:
    """A histogram over the clients of each kind of model, one under the other, with the mean and the worst tenth."""
    figure = Figure(figsize=(7, 1.2 + 1.7 * len(accuracies)), layout="constrained")
    panels = figure.subplots(len(accuracies), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for number, (axes, (name, values)) in enumerate(zip(panels, accuracies.items(), strict=True)):
        histogram(axes, values, COLOURS[number])
        mean = 100 * sum(values) / len(values)
        axes.axvline(mean, color="black", linewidth=1)
        axes.set_title(f"{NAMES[name]}: mean {mean:.1f} %", loc="left", fontsize="medium")
    panels[-1].set_xlabel("accuracy on the client's own test examples, %")
    save(figure, path, title, width=80)


def histogram(axes: Axes, accuracies: Sequence[float], colour: str) -> None:
    """How many clients have which accuracy, in steps of five per cent."""
    axes.hist([100 * value for value in accuracies], bins=BINS, color=colour, edgecolor="white", linewidth=0.5)
    axes.set_ylabel("clients")
    axes.set_xlim(0, 100)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
