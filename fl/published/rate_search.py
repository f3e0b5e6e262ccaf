"""The search for a learning rate on a multiplicative grid, as in McMahan et al. 2017, section 3. Imports no torch.

A rate is start * 10^(i/6). At first only even i are tried, so that rates differ by a factor of 10^(1/3), until the best
rate is neither the smallest nor the largest that was tried. Then its neighbours at a factor of 10^(1/6) are tried.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

COARSE, FINE = 2, 1
FARTHEST = 24  # sixths of a power of ten, so four powers to either side


class Score(NamedTuple):
    """How good a rate is. rounds: to the target; None if it was not reached. accuracy: the best there was."""

    rounds: float | None
    accuracy: float

    @property
    def order(self) -> tuple[float, float]:
        """Smaller is better: rounds first, and of those without any the accuracy."""
        return (math.inf if self.rounds is None else self.rounds, -self.accuracy)


def rate_of(start: float, i: int) -> float:
    """To three digits, so that the rate in a folder's name is the rate that was used."""
    return float(f"{start * 10 ** (i / 6):.3g}")


def best_of(scores: Mapping[int, Score]) -> int:
    """The best rate that was tried; of equal ones the nearest to the start."""
    return min(scores, key=lambda i: (*scores[i].order, abs(i), i))


def to_try(scores: Mapping[int, Score]) -> list[int]:
    """The rates to try next; none once the best one has both neighbours at 10^(1/6), and so lies strictly inside."""
    if not scores:
        return [0, -COARSE, COARSE]
    best = best_of(scores)
    coarse = best_of({i: score for i, score in scores.items() if i % COARSE == 0})
    missing = [i for i in (coarse - COARSE, coarse + COARSE) if i not in scores]
    if not missing:
        missing = [i for i in (best - FINE, best + FINE) if i not in scores]
    return [i for i in missing if abs(i) <= FARTHEST]
