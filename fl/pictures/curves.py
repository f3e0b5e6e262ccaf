"""What is drawn, in numbers: the mean and the band of an experiment, what lies in view, which panels say something."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean, stdev
from typing import Any, NamedTuple

from fl.records.reading import EXPLODED

Record = dict[str, Any]


@dataclass(frozen=True)
class Curve:
    """A line of a panel: points (x, y), a band from low to high around y, of n seeds; and the round of each point.

    Accuracy is in per cent. A loss that is not finite is infinite here. cut: whether some seeds went on for longer.
    """

    label: str
    rounds: list[int]
    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]
    n: int
    cut: bool = False


def _cumulative(*keys: str) -> Callable[[Sequence[Record]], list[float]]:
    return lambda records: list(accumulate(float(sum(record.get(key, 0) for key in keys)) for record in records))


# By the words of --axes: what has been spent by the end of each round.
AXES: dict[str, Callable[[Sequence[Record]], list[float]]] = {
    "rounds": lambda records: [float(record["round"]) for record in records],
    "examples": _cumulative("examples"),
    "bytes": _cumulative("downlink_bytes", "uplink_bytes"),
    "uplink": _cumulative("uplink_bytes"),
    "seconds": _cumulative("round_seconds"),
    "simulated": _cumulative("simulated_seconds"),
}
METRICS = ("test_accuracy", "test_loss", "train_loss", "client_accuracy")
PER_CENT = ("test_accuracy", "client_accuracy")
BANDS = ("std", "range")
SAME = 1.02  # factors that are closer than this are the same; examples of a round differ a little


def value(record: Record, metric: str) -> float | None:
    """What the record says of the metric; None where nothing was measured."""
    if metric == "client_accuracy":
        return 100 * float(record[metric]["mean"]) if metric in record else None
    measured = record[metric]
    if metric == "test_accuracy":
        return None if measured is None else 100 * float(measured)
    if metric == "test_loss":
        was_measured = record["test_accuracy"] is not None
    else:
        was_measured = record["round"] > 0 and record["examples"] > 0
    if measured is None:
        return math.inf if was_measured else None
    return float(measured)


def averaged(label: str, seeds: Sequence[Sequence[Record]], axis: str, metric: str, band: str = "std") -> Curve:
    """The mean over the seeds, round by round, and their sample standard deviation or their range.

    A point is a round that was evaluated in every seed: both its x and its y are means over the seeds. Nothing is
    interpolated, so each point stands for n measurements; where seeds differ in x, such as in seconds, x says when
    they reached the round on average. The curve ends with the shortest seed, because a mean over fewer seeds would
    jump where one leaves.
    """
    spent = [AXES[axis](records) for records in seeds]
    last = min(map(len, seeds))
    curve = Curve(label, [], [], [], [], [], len(seeds), cut=any(len(records) > last for records in seeds))
    for t in range(last):
        ys = [y for records in seeds if (y := value(records[t], metric)) is not None]
        if len(ys) < len(seeds):
            continue
        mean, low, high = fmean(ys), min(ys), max(ys)
        if band == "std":
            deviation = stdev(ys) if len(ys) > 1 and math.isfinite(mean) else 0.0
            low, high = mean - deviation, mean + deviation
        curve.rounds.append(t)
        curve.x.append(fmean(x[t] for x in spent))
        curve.y.append(mean)
        curve.low.append(low)
        curve.high.append(high)
    return curve


def telling(experiments: Sequence[Sequence[Sequence[Record]]]) -> list[str]:
    """The axes that say something, of experiments as seeds of records.

    An axis says nothing new where it is proportional to another one, with the same factor in all experiments; nor
    where nothing was spent. The axes of a single experiment say the same, but for their unit.
    """
    kept = ["rounds"]
    if len(experiments) == 1:
        return kept
    for axis in list(AXES)[1:]:
        ends = [(AXES[axis](seeds[0]), seeds) for seeds in experiments]
        spent = [seeds for x, seeds in ends if x[-1] > 0]
        if spent and not any(proportional(spent, other, axis) for other in kept):
            kept.append(axis)
    return kept


def proportional(experiments: Sequence[Sequence[Sequence[Record]]], one: str, other: str) -> bool:
    """Whether the axes have the same ratio at every round of every experiment, each a mean over its seeds."""
    ratios = []
    for seeds in experiments:
        for x, y in zip(since_start(seeds, one), since_start(seeds, other), strict=True):
            if x > 0 or y > 0:
                ratios.append(y / x if x > 0 else math.inf)
    return not ratios or max(ratios) <= SAME * min(ratios) < math.inf


def since_start(seeds: Sequence[Sequence[Record]], axis: str) -> list[float]:
    """What was spent since round 0, the mean over the seeds, of every round that all of them have."""
    means = [fmean(column) for column in zip(*(AXES[axis](records) for records in seeds), strict=False)]
    return [x - means[0] for x in means]


class View(NamedTuple):
    """What a panel shows of y. log: whether its scale is logarithmic."""

    low: float
    high: float
    log: bool

    def holds(self, y: float) -> bool:
        return self.low <= y <= self.high


LEAST = 1e-9  # of the largest loss in view; what is below is as good as zero
WORTH = 2.5  # round 0 is shown where the range need not grow by more than this factor
MARGIN = 0.06


def view_of(curves: Sequence[Curve], metric: str, targets: Sequence[float] = ()) -> View:
    """The range of y in which the curves can be told apart.

    Accuracy: the trained rounds of all that learned, and the targets (in per cent). Round 0 is at chance, and so is
    what never learned: where these would make one flat line of the rest, they are left out, to be marked at the edge.
    Loss: up to ten times that of the untrained model. What exploded is left out in the same way.
    """
    if metric in PER_CENT:
        return _accuracy_view(curves, targets)
    return _loss_view(curves)


def _accuracy_view(curves: Sequence[Curve], targets: Sequence[float]) -> View:
    trained = [ends for curve in curves if (ends := _ends(curve, first=1))]
    begun = [ends for curve in curves if (ends := _ends(curve, first=0, last=0))]
    if not trained:
        trained = begun
    best = max((low for low, _ in trained), default=0.0)
    shown = [(low, high) for low, high in trained if high >= best / 2]
    low = min([low for low, _ in shown] + list(targets), default=0.0)
    high = max([high for _, high in shown] + list(targets), default=100.0)
    whole = min([low] + [low for low, _ in begun]), max([high] + [high for _, high in begun])
    if whole[1] - whole[0] <= WORTH * (high - low):
        low, high = whole
    low, high = max(low, 0.0), min(high, 100.0)
    pad = MARGIN * (high - low) or 1.0
    return View(low - pad, high + pad, log=False)


def _loss_view(curves: Sequence[Curve]) -> View:
    begun = [curve.y[0] for curve in curves if curve.rounds[:1] == [0] and math.isfinite(curve.y[0])]
    finite = [y for curve in curves for y in curve.y if math.isfinite(y)]
    if not finite:
        return View(0.0, 1.0, log=False)
    # The training loss has no round 0; there the best first round stands in for it.
    first = max(begun) if begun else min(curve.y[0] for curve in curves if curve.y)
    limit = EXPLODED * first if first > 0 else math.inf
    calm = [curve for curve in curves if curve.y and max(curve.y) <= limit] or curves
    points = [row for curve in calm for row in zip(curve.y, curve.low, curve.high, strict=True)]
    shown = [row for row in points if row[0] <= limit and row[0] < math.inf] or [(min(finite),) * 3]
    low, high = min(y for y, _, _ in shown), max(y for y, _, _ in shown)
    if low <= 0:
        pad = MARGIN * (high - low) or 1.0
        return View(low - pad, high + pad, log=False)
    # A band may reach to zero and below, which a logarithm cannot; it ends at the edge of the view.
    low = max(min(bottom for _, bottom, _ in shown), low / 2)
    high = min(max(top for _, _, top in shown), 2 * high)
    low = max(low, high * LEAST)
    pad = max((high / low) ** MARGIN, 1.05)
    return View(low / pad, high * pad, log=True)


def _ends(curve: Curve, first: int, last: float = math.inf) -> tuple[float, float] | None:
    """The lowest and highest point of the band in these rounds."""
    within = [at for at, t in enumerate(curve.rounds) if first <= t <= last]
    return (min(curve.low[at] for at in within), max(curve.high[at] for at in within)) if within else None
