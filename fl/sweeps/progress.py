"""One line for many runs: how many are done, how many rounds, and how long the rest takes."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from fl.bar import clock
from fl.sweeps.children import Job

SHOWN_EVERY_SECONDS = 0.5


class Progress:
    """On a terminal a line that stays in its place; elsewhere a line of its own for every run that ends.

    runs: each with the rounds that are on record already, and whether it is over.
    """

    def __init__(self, runs: Sequence[tuple[Job, int, bool]]):
        self.on_terminal = sys.stderr.isatty()
        self.done = sum(is_over for _, _, is_over in runs)
        self.total = len(runs)
        self.rounds = {job.folder: rounds for job, rounds, _ in runs}
        self.most = {job.folder: rounds if is_over else job.rounds for job, rounds, is_over in runs}
        self.began, self.before = time.monotonic(), sum(self.rounds.values())
        self.shown = 0.0

    def look(self, running: Sequence[Job]) -> None:
        """See how far the running ones are, twice a second."""
        now = time.monotonic()
        if not self.on_terminal or now - self.shown < SHOWN_EVERY_SECONDS:
            return
        self.shown = now
        for job in running:
            self.rounds[job.folder] = recorded(job)
        print(f"\r{filled(self.line())}", end="", file=sys.stderr, flush=True)

    def over(self, job: Job, word: str) -> None:
        """A run has ended; it may have had fewer rounds than it was allowed."""
        self.done += 1
        self.rounds[job.folder] = self.most[job.folder] = recorded(job)
        if not self.on_terminal:
            print(f"{self.line()}: {job.folder} {word}", flush=True)

    def line(self) -> str:
        """ "3/12 runs, 40/180 rounds, 1:23 left"."""
        rounds, most = sum(self.rounds.values()), sum(self.most.values())
        text = f"{self.done}/{self.total} runs, {rounds}/{most} rounds"
        if rounds > self.before and self.done < self.total:
            seconds = (time.monotonic() - self.began) / (rounds - self.before) * (most - rounds)
            text += f", {clock(seconds)} left"
        return text

    def close(self) -> None:
        """Leave the terminal's line to what is printed next."""
        if self.on_terminal and self.shown:
            print(f"\r{filled(self.line())}", file=sys.stderr, flush=True)


def filled(line: str) -> str:
    """The line as long as the terminal is wide, less one column, so that it covers an earlier one and does not wrap."""
    width = max(shutil.get_terminal_size().columns - 1, 1)
    return f"{line[:width]:<{width}}"


def recorded(job: Job) -> int:
    """The rounds on record, without reading what they say."""
    with suppress(OSError):
        return max((job.folder / "metrics.jsonl").read_bytes().count(b"\n") - 1, 0)
    return 0
