"""Rounds to a target: the rate that is best with seed 0, then that rate with every seed."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any, NamedTuple

from fl.comparing.tables import spread
from fl.published.cells import BAND, Target
from fl.published.rate_search import Score, best_of, rate_of, to_try
from fl.published.trials import Bench, Outcome, Trial
from fl.records.reading import NUMBER, rounds_to_target

HEADING = ["cell", "rounds, theirs", "rounds, ours", "n", "rate", "ratio", "verdict"]


def search(target: Target, seeds: int, run: Bench) -> dict[str, Any]:
    """The cell's result.

    A rate runs for at most as many rounds as the best rate so far needed, because after that it can no longer win.
    Until some rate reaches the target, all rates that are tried together run for an eighth of the round limit, then a
    quarter, a half, and from there an eighth more each time. These steps are small, because when one rate reaches the
    target, the others still run to the end of the step.
    """
    accuracy = float(target.flags[target.flags.index("--target_accuracy") + 1])
    scores: dict[int, Score] = {}
    limits = [math.ceil(target.limit * eighths / 8) for eighths in (1, 2, 4, 5, 6, 7, 8)]
    while indices := to_try(scores):
        for limit in limits:
            found = run([trial(target, rate_of(target.start, i), 0, limit) for i in indices])
            tried = {i: score(one, accuracy) for i, one in zip(indices, found, strict=True)}
            if any(one.rounds is not None for one in tried.values()):
                break
        scores |= tried
        if (reached := scores[best_of(scores)].rounds) is not None:
            limits = [math.ceil(reached)]
    best = best_of(scores)
    rate = rate_of(target.start, best)
    ends = run([trial(target, rate, k, target.limit) for k in range(seeds)])
    final = [score(one, accuracy) for one in ends]
    return {
        "cell": target.name,
        "rate": rate,
        "rates_tried": {f"{rate_of(target.start, i):g}": scores[i]._asdict() for i in sorted(scores)},
        "rounds": [one.rounds for one in final],
        "best_accuracy": [one.accuracy for one in final],
        "diverged": [one.diverged for one in ends],
    }


def trial(target: Target, rate: float, seed: int, limit: int) -> Trial:
    return Trial(f"lr{rate:g}", [*target.words(rate), "--global_epoch", str(limit)], seed)


def score(run: Outcome, accuracy: float) -> Score:
    """A run that diverged is worse than any other."""
    if run.diverged:
        return Score(None, 0.0)
    return Score(rounds_to_target(run.records, accuracy), max(run.accuracies))


class Line(NamedTuple):
    """Ours beside theirs. rounds: of each seed, None where the target was not reached; rate is None if not run.

    diverged: how many of the seeds did.
    """

    target: Target
    rate: float | None
    rounds: list[float | None]
    diverged: int = 0

    @property
    def n(self) -> int:
        return len(self.rounds)

    @property
    def extent(self) -> tuple[int, int]:
        """As that of an accuracy: no cell has fewer rounds in one call than in another."""
        return self.target.limit, self.n

    @property
    def ratio(self) -> float | None:
        """Our mean over theirs; None unless every seed reached the target."""
        known = [one for one in self.rounds if one is not None]
        return fmean(known) / self.target.rounds if known and len(known) == len(self.rounds) else None

    @property
    def verdict(self) -> str:
        if self.rate is None:
            return "not run"
        return "within" if self.ratio is not None and self.ratio <= BAND else "out"

    @property
    def best(self) -> list[str] | None:
        """All flags with the rate that was found."""
        return None if self.rate is None else self.target.words(self.rate)

    @property
    def ours(self) -> str:
        lost = f", {self.diverged} diverged" if self.diverged else ""
        if self.rounds and not any(one is not None for one in self.rounds):
            return f"not in {self.target.limit}{lost}"
        return spread(self.rounds, ".1f") + lost

    def cells(self) -> list[str]:
        ratio = "-" if self.ratio is None else f"{self.ratio:.2f}"
        rate = "-" if self.rate is None else f"{self.rate:g}"
        theirs, n = f"{self.target.rounds:g}", str(self.n)
        return [self.target.name, theirs, self.ours, n, rate, ratio, self.verdict]

    def told(self) -> dict[str, Any]:
        """The line in full precision."""
        return {"cell": self.target.name, "theirs": self.target.rounds, "ours": self.rounds, "rate": self.rate,
                "diverged": self.diverged, "ratio": self.ratio, "verdict": self.verdict}  # fmt: skip


def read(target: Target, result: dict[str, Any] | None) -> Line:
    """The line of a result. Raises KeyError, TypeError or ValueError for what is none."""
    if result is None:
        return Line(target, None, [])
    rate, rounds = result["rate"], result["rounds"]
    if not rounds:
        raise ValueError("it has no seeds")
    known = [one for one in rounds if one is not None]
    if not all(map(NUMBER.holds, [rate, *known])) or not all(0 <= one <= target.limit for one in known) or rate <= 0:
        raise ValueError("a rate or rounds that cannot be")
    diverged = result.get("diverged", [])  # earlier versions did not say
    return Line(target, float(rate), [None if one is None else float(one) for one in rounds], sum(map(bool, diverged)))
