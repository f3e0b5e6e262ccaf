"""Differences between experiments and a reference, paired by seed, with confidence intervals: compare.py and sweep.py.

With the same seed, experiments that share data, partition and batch size have the same clients and batches. So two runs
with the same seed share much of their randomness, and their difference varies less than their results do. If these
flags differ, pairing by seed has no such advantage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from fl.comparing.tables import CLIENTS, Quantity, Row, aligned, figure

LEVEL = 0.95
FEWEST = 3  # seeds; with two, the interval is 12.7 standard errors to either side, too wide to say anything
TOLD = {"test_accuracy", "test_loss", *(quantity.name for quantity in CLIENTS.values())}  # beside rounds to targets


class Difference(NamedTuple):
    """A mean over the seeds that both have, in the quantity's own unit; None where there is no such seed.

    half: half the width of the 95 % interval; None for fewer than three seeds.
    """

    mean: float | None
    half: float | None
    n: int

    @property
    def is_noise(self) -> bool:
        """Whether the interval includes zero."""
        return self.mean is not None and self.half is not None and abs(self.mean) <= self.half


def differences(rows: Sequence[Row]) -> dict[str, dict[Quantity, Difference]]:
    """For every row but the reference, by label: accuracies, loss and rounds to targets, less the reference's."""
    against = reference(rows)
    told = [q for q in against.values if q.name in TOLD or q.name.startswith("rounds_to_")]
    others = [row for row in rows if row is not against]
    return {row.label: {q: paired(by_seed(row, q), by_seed(against, q)) for q in told} for row in others}


def reference(rows: Sequence[Row]) -> Row:
    """The row that all others are compared with: the first with a run that did not diverge, or else the first."""
    known = [row for row in rows if any(value is not None for own in row.values.values() for value in own)]
    return known[0] if known else rows[0]


def by_seed(row: Row, quantity: Quantity) -> dict[int, float]:
    """What is known of the quantity."""
    values = zip(row.seeds, row.values[quantity], strict=True)
    return {seed: value for seed, value in values if value is not None}


def paired(ours: dict[int, float], theirs: dict[int, float]) -> Difference:
    """The mean of ours - theirs over the seeds that both have, with Student's interval."""
    gaps = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    n = len(gaps)
    if n < FEWEST:
        return Difference(fmean(gaps) if gaps else None, None, n)
    return Difference(fmean(gaps), t_quantile(n - 1) * stdev(gaps) / math.sqrt(n), n)


def t_quantile(freedom: int) -> float:
    """The t that Student's distribution with so many degrees of freedom exceeds in absolute value in 5 % of cases."""
    low, high = 0.0, 1.0
    while within(high, freedom) < LEVEL:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        if within(middle, freedom) < LEVEL:
            low = middle
        else:
            high = middle
    return high


def within(t: float, freedom: int) -> float:
    """The probability that Student's distribution gives to [-t, t], by its finite series.

    Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 26.7.3 for odd degrees of freedom and 26.7.4 for
    even ones.
    """
    theta, odd = math.atan(t / math.sqrt(freedom)), freedom % 2
    term, total = (math.cos(theta) if odd else 1.0), 0.0
    for j in range(1, freedom // 2 + 1):
        total += term
        term *= math.cos(theta) ** 2 * (2 * j - 1 + odd) / (2 * j + odd)
    return 2 / math.pi * (theta + math.sin(theta) * total) if odd else math.sin(theta) * total


def is_telling(found: dict[str, dict[Quantity, Difference]]) -> bool:
    """Whether any experiment has two seeds or more in common with the reference."""
    return any(one.n > 1 for row in found.values() for one in row.values())


def difference_cells(rows: Sequence[Row]) -> list[list[str]]:
    """The heading and a line for each row but the reference."""
    told = differences(rows)
    quantities = list(next(iter(told.values())))
    heading = ["difference", *(q.heading for q in quantities)]
    return [heading] + [[label, *(said(row[q], q) for q in quantities)] for label, row in told.items()]


def said(difference: Difference, quantity: Quantity) -> str:
    """ "+0.31 ± 0.12 (n=5)", "-0.02 ± 0.11 (n=5), within the noise", "+0.20 (n=2, too few)"."""
    mean, half, n = difference
    if mean is None:
        return "-"
    text = figure(mean * quantity.scale, f"+{quantity.spec}")
    if half is None:
        return f"{text} (n={n}, too few)"
    text += f" ± {figure(half * quantity.scale, quantity.spec)} (n={n})"
    return f"{text}, within the noise" if difference.is_noise else text


def about(rows: Sequence[Row]) -> str:
    """What the block of differences is."""
    return f"against {reference(rows).label}, paired by seed: mean difference ± half of its 95 % interval"


def differences_on_screen(rows: Sequence[Row]) -> str:
    return f"{about(rows)}\n{aligned(difference_cells(rows))}"
