"""The picture of a run with simulated devices: what became of those who were called, and what a round cost."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from fl.pictures.curves import AXES, Record
from fl.pictures.panel import unit
from fl.pictures.style import COLOURS, Axes, Figure, MaxNLocator, as_shipped, save

FATES = ("reported", "declined", "dropped", "late", "reported in vain")


def has_ledger(records: Sequence[Record]) -> bool:
    """Whether there is anything to draw."""
    return any(key in record for record in records for key in ("called", "simulated_seconds"))


@as_shipped
def save_ledger(path: Path, records: Sequence[Record], title: str) -> None:
    """Left, the clients called to each round by what became of them; right, the traffic against simulated time.

    Without simulated time, traffic is drawn against rounds.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_fates(left, records[1:])
    draw_traffic(right, records)
    save(figure, path, title)


def draw_fates(axes: Axes, records: Sequence[Record]) -> None:
    """Stacked steps, one for each round."""
    rounds = [record["round"] for record in records]
    bottom = [0] * len(records)
    for number, fate in enumerate(FATES):
        counts = [fates_of(record)[fate] for record in records]
        if not any(counts):
            continue
        top = [low + count for low, count in zip(bottom, counts, strict=True)]
        axes.fill_between(rounds, bottom, top, step="mid", color=COLOURS[number], linewidth=0, label=fate)
        bottom = top
    axes.set_xlabel("rounds")
    axes.set_ylabel("clients called")
    axes.set_ylim(0, max([*bottom, 1]) * 1.2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, loc="upper center", ncols=len(FATES), fontsize="small", columnspacing=1)


def fates_of(record: Record) -> dict[str, int]:
    """How many clients of the round came to which end."""
    lost = {key: len(record.get(key, ())) for key in ("declined", "dropped", "late")}
    reported = len(record["clients"])
    in_vain = len(record.get("called", ())) - sum(lost.values()) if record.get("abandoned") else 0
    return {"reported": reported, **lost, "reported in vain": in_vain}


def draw_traffic(axes: Axes, records: Sequence[Record]) -> None:
    """Cumulative, down to the clients and up from them."""
    axis = "simulated" if any("simulated_seconds" in record for record in records) else "rounds"
    x = AXES[axis](records)
    bytes_of = {key: list(accumulate(record[key] for record in records)) for key in ("downlink_bytes", "uplink_bytes")}
    across, name = unit(axis, x[-1])
    up, size = unit("bytes", max(total[-1] for total in bytes_of.values()))
    for number, (key, total) in enumerate(bytes_of.items()):
        label = "to clients" if key == "downlink_bytes" else "from clients"
        axes.step(
            [at / across for at in x], [sent / up for sent in total], where="post", color=COLOURS[number], label=label
        )
    axes.set_xlabel(name)
    axes.set_ylabel(size)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
