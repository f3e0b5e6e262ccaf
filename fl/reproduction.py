"""Cells of a published table, run here: the rate that is best with seed 0, then that rate with every seed.

Every run is an ordinary run folder, PLACE/<paper>/<cell>/lr<rate>/seed<k>, from which the next call goes on.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from fl.command_line import parse
from fl.errors import RunFolderError
from fl.files import write_atomic
from fl.grid import Cell
from fl.published import BAND, Target
from fl.rate_search import Score, best_of, rate_of, to_try
from fl.records import DIVERGED, read_metrics, rounds_to_target
from fl.strict_json import loads, read_regular
from fl.sweep import carry_out, plan_of
from fl.tables import aligned, as_markdown, spread

RESULT = "result.json"


class OutOfTimeError(Exception):
    """The --budget is spent; what was trained so far is kept."""


class Tried(NamedTuple):
    """What the folder of a run holds: its score, and how many rounds it has had."""

    score: Score
    rounds: int
    diverged: bool


def tried(folder: Path, accuracy: float) -> Tried | None:
    """What has come of a run; None before its first record."""
    if not (folder / "metrics.jsonl").exists():
        return None
    try:
        records = read_metrics(folder).records
    except RunFolderError:  # killed before its first record
        return None
    best = max(record["test_accuracy"] for record in records if record["test_accuracy"] is not None)
    score = Score(rounds_to_target(records, accuracy), best)
    return Tried(score, records[-1]["round"], (folder / DIVERGED).exists())


def tried_out(
    target: Target, wanted: Sequence[tuple[float, int]], limit: int, place: Path, jobs: int, look: Callable[[], None]
) -> list[Score]:
    """The scores of these rates and seeds, each after `limit` rounds, at its target, or where it diverged.

    A run that has had as many rounds already is not started. look: called all the while; what it raises ends the runs.
    """
    accuracy = target_accuracy(target)
    plans = []
    for rate, seed in wanted:
        words = [*target.words(rate), "--workers", "1"]
        config = parse([*words, "--global_epoch", str(limit)], "federated", "")
        plan = plan_of(Cell(target.name, f"lr{rate:g}", words, config), seed, place / target.name)
        had = tried(plan.job.folder, accuracy)
        is_over = had is not None and (had.diverged or had.score.rounds is not None or had.rounds >= limit)
        plans.append(plan._replace(is_over=is_over))
    carry_out(plans, jobs, look)
    found = [tried(plan.job.folder, accuracy) for plan in plans]
    return [Score(None, 0.0) if one is None or one.diverged else one.score for one in found]


def target_accuracy(target: Target) -> float:
    return float(target.flags[target.flags.index("--target_accuracy") + 1])


def reproduce(target: Target, seeds: int, place: Path, jobs: int, look: Callable[[], None]) -> dict[str, Any]:
    """The cell's result, which is written to its folder too.

    No rate is tried for longer than the best one has needed, because it could not win any more.
    """
    scores: dict[int, Score] = {}
    limit = target.limit
    while indices := to_try(scores):
        pairs = [(rate_of(target.start, i), 0) for i in indices]
        scores |= dict(zip(indices, tried_out(target, pairs, limit, place, jobs, look), strict=True))
        reached = scores[best_of(scores)].rounds
        limit = target.limit if reached is None else math.ceil(reached)
    best = best_of(scores)
    rate = rate_of(target.start, best)
    final = tried_out(target, [(rate, k) for k in range(seeds)], target.limit, place, jobs, look)
    result = {
        "cell": target.name,
        "rate": rate,
        "rates_tried": {f"{rate_of(target.start, i):g}": scores[i]._asdict() for i in sorted(scores)},
        "rounds": [score.rounds for score in final],
        "best_accuracy": [score.accuracy for score in final],
    }
    write_atomic(place / target.name / RESULT, (json.dumps(result, indent=2) + "\n").encode())
    return result


def within(budget_minutes: float | None) -> Callable[[], None]:
    """What raises OutOfTimeError once so many minutes have passed."""
    end = math.inf if budget_minutes is None else time.monotonic() + 60 * budget_minutes

    def look() -> None:
        if time.monotonic() > end:
            raise OutOfTimeError(f"--budget {budget_minutes:g}: is spent")

    return look


class Line(NamedTuple):
    """Ours beside theirs. rounds: of each seed, None where the target was not reached; rate is None if not run."""

    target: Target
    rate: float | None
    rounds: list[float | None]

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

    def cells(self) -> list[str]:
        ratio = "-" if self.ratio is None else f"{self.ratio:.2f}"
        rate = "-" if self.rate is None else f"{self.rate:g}"
        theirs, n = f"{self.target.rounds:g}", str(len(self.rounds))
        return [self.target.name, theirs, spread(self.rounds, ".1f"), n, rate, ratio, self.verdict]


HEADING = ["cell", "rounds, theirs", "rounds, ours", "n", "rate", "ratio", "verdict"]


def lines_of(targets: Sequence[Target], place: Path) -> list[Line]:
    """One line a cell, from what is on the disk. Raises RunFolderError for a result that is not ours."""
    return [line_of(target, place / target.name / RESULT) for target in targets]


def line_of(target: Target, path: Path) -> Line:
    if not path.exists():
        return Line(target, None, [])
    try:
        result = loads(read_regular(path))
        rate, rounds = float(result["rate"]), [None if one is None else float(one) for one in result["rounds"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{path}: cannot be read ({error}); delete it and run the cell again") from None
    return Line(target, rate, rounds)


def on_screen(lines: Sequence[Line]) -> str:
    return aligned([HEADING, *(line.cells() for line in lines)])


def publish(lines: Sequence[Line], place: Path) -> None:
    """Write all lines, those of cells that were not run too, as table.md and table.json. Raises OSError."""
    place.mkdir(parents=True, exist_ok=True)
    table = as_markdown([HEADING, *(line.cells() for line in lines)])
    told = [
        {"cell": line.target.name, "theirs": line.target.rounds, "ours": line.rounds, "rate": line.rate,
         "ratio": line.ratio, "verdict": line.verdict}
        for line in lines
    ]  # fmt: skip
    write_atomic(place / "table.md", table.encode())
    write_atomic(place / "table.json", (json.dumps(told, indent=2) + "\n").encode())


def preset(line: Line, paper: str) -> str:
    """The cell's flags with the rate that was found, as a preset."""
    assert line.rate is not None
    words = line.target.words(line.rate)
    flags = " ".join(f"\n{word}" if word.startswith("--") else word for word in words).replace(" \n", "\n").strip()
    theirs = f"{line.target.rounds:g} rounds there, {spread(line.rounds, '.1f')} here (n={len(line.rounds)})"
    return f"# {paper}, {line.target.name}: {theirs}. Written by reproduce.py.\n{flags}\n"
