"""A final accuracy: of several settings the one that is best with seed 0, then that setting with every seed."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any, NamedTuple

from fl.comparing.tables import spread
from fl.published.cells import CHANCE, POINTS, Final
from fl.published.trials import Bench, Outcome, Trial
from fl.records.reading import COUNT, NUMBER

HEADING = ["cell", "accuracy %, theirs", "accuracy %, ours", "n", "rounds", "setting", "points", "verdict"]


def search(target: Final, seeds: int, run: Bench) -> dict[str, Any]:
    """The cell's result. Of equally good settings the first is taken; one that diverges is the worst."""
    tried: list[Outcome] = []
    if len(target.settings) > 1:
        tried = run([trial(target, setting, 0) for setting in target.settings])
    accuracies = [final_accuracy(one) for one in tried]
    order = [-math.inf if one is None else one for one in accuracies]
    setting = target.settings[order.index(max(order)) if order else 0]
    final = run([trial(target, setting, k) for k in range(seeds)])
    return {
        "cell": target.name,
        "setting": setting,
        "settings_tried": [
            {"setting": one, "accuracy": found} for one, found in zip(target.settings, accuracies, strict=False)
        ],
        "rounds": [one.rounds for one in final],
        "accuracy": [final_accuracy(one) for one in final],
    }


def trial(target: Final, setting: dict[str, str], seed: int) -> Trial:
    folder = ",".join(f"{flag}={value}" for flag, value in setting.items())
    return Trial(folder, target.words(setting), seed)


def final_accuracy(run: Outcome) -> float | None:
    """In per cent, of the last round; None if the run diverged."""
    return None if run.diverged else 100 * run.accuracies[-1]


class Line(NamedTuple):
    """Our result beside the published one, with a value for each seed. setting: None if the cell was not run.

    rounds: on record. accuracy: in per cent; None if the run diverged in the round after these.
    """

    target: Final
    setting: dict[str, str] | None
    rounds: list[int]
    accuracy: list[float | None]

    @property
    def n(self) -> int:
        return len(self.accuracy)

    @property
    def extent(self) -> tuple[int, int]:
        """Rounds and seeds; more rounds count before more seeds."""
        return (self.had if self.setting else 0), self.n

    @property
    def known(self) -> list[float]:
        return [one for one in self.accuracy if one is not None]

    @property
    def had(self) -> int:
        """The rounds of the shortest run that did not diverge; as many as theirs had if all diverged."""
        full = [t for t, one in zip(self.rounds, self.accuracy, strict=True) if one is not None]
        return min(full, default=self.target.rounds)

    @property
    def points(self) -> float | None:
        """Our mean less theirs; None if a seed diverged, or if the runs were not as long as theirs."""
        if not self.known or len(self.known) < len(self.accuracy) or self.had != self.target.rounds:
            return None
        return round(fmean(self.known) - self.target.accuracy, 6)

    @property
    def verdict(self) -> str:
        """A published accuracy at chance is no bound, because an untrained model would be within the band."""
        if self.setting is None:
            return "not run"
        if self.had != self.target.rounds:
            return "no verdict"
        if self.target.collapsed:
            ours = fmean([CHANCE if one is None else one for one in self.accuracy])
            return "chance in both" if ours <= CHANCE + POINTS else "chance there only"
        return "within" if self.points is not None and self.points >= -POINTS else "out"

    @property
    def best(self) -> list[str] | None:
        """All flags with the setting that was found; None if the runs that found it were not as long as theirs."""
        if self.setting is None or self.had != self.target.rounds:
            return None
        return self.target.words(self.setting)

    @property
    def ours(self) -> str:
        """The mean and the spread of what did not diverge, and where the others did."""
        lost = sorted({t + 1 for t, one in zip(self.rounds, self.accuracy, strict=True) if one is None})
        said = [] if lost and not self.known else [spread(self.accuracy, ".2f")]
        if lost:
            word = "round" if len(lost) == 1 else "rounds"
            said.append(f"diverged at {word} {' and '.join(map(str, lost))}")
        return ", ".join(said)

    def cells(self) -> list[str]:
        rounds = f"{self.had}" if self.had == self.target.rounds else f"{self.had} of {self.target.rounds}"
        rounds = "-" if self.setting is None else rounds
        setting = ", ".join(f"{flag} {value}" for flag, value in (self.setting or {}).items())
        points = "-" if self.points is None else f"{self.points:+.2f}"
        theirs, n = f"{self.target.accuracy:g}", str(self.n)
        return [self.target.name, theirs, self.ours, n, rounds, setting or "-", points, self.verdict]

    def told(self) -> dict[str, Any]:
        """The line in full precision."""
        return {"cell": self.target.name, "theirs": self.target.accuracy, "ours": self.accuracy,
                "rounds": self.rounds, "rounds_theirs": self.target.rounds, "setting": self.setting,
                "points": self.points, "verdict": self.verdict}  # fmt: skip


def read(target: Final, result: dict[str, Any] | None) -> Line:
    """The line of a result. Raises KeyError, TypeError or ValueError for what is none."""
    if result is None:
        return Line(target, None, [], [])
    setting = {str(flag): str(value) for flag, value in dict(result["setting"]).items()}
    by_seed = list(zip(result["rounds"], result["accuracy"], strict=True))
    if not by_seed:
        raise ValueError("it has no seeds")
    known = [a for _, a in by_seed if a is not None]
    if not all(COUNT.holds(t) for t, _ in by_seed) or not all(NUMBER.holds(a) and 0 <= a <= 100 for a in known):
        raise ValueError("rounds or an accuracy that cannot be")
    return Line(target, setting, [t for t, _ in by_seed], [None if a is None else float(a) for _, a in by_seed])
