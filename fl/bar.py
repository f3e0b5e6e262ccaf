"""The progress bar over the steps of a round, and how long the run still takes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm

    from fl.recorded import Round

SHOWN_EVERY_SECONDS = 0.2


class Bar:
    """One line on the terminal, such as "round 3/40  37%|###     |, 12:03 left"; silent if stderr is no terminal."""

    def __init__(self, quiet: bool):
        self.quiet = quiet or not sys.stderr.isatty()
        self.bar: tqdm[None] | None = None  # there is none before the first step
        # Steps of the whole run since the first, which takes long because it loads what it needs; None before it.
        self.steps_timed: int | None = None
        self.shown = 0.0

    def __call__(self, steps: int) -> None:
        """Count `steps` further steps as done."""
        if self.quiet:
            return
        now = time.monotonic()
        if self.steps_timed is None:
            self.steps_timed, self.began = 0, now
        else:
            self.steps_timed += steps
        self.steps += steps
        if now - self.shown >= SHOWN_EVERY_SECONDS:
            self.shown = now
            self.show(now - self.began)

    def over(self, rounds: Generator[Round], steps: Callable[[int], int], first: int, last: int) -> Generator[Round]:
        """Yield the same rounds, `first` to `last`; the bar is cleared before each, so that lines can be printed.

        steps(t): the number of steps of round t. It is not called for round 0, which has none.
        """
        self.last, self.steps_of = last, steps
        try:
            with closing(rounds):
                self.begin(first)
                for done in rounds:
                    if self.bar is not None:
                        self.bar.clear()
                    yield done
                    self.begin(done.t + 1)
        finally:
            if self.bar is not None:
                self.bar.close()
            self.quiet = True  # what is trained after the rounds belongs to none of them

    def begin(self, t: int) -> None:
        self.t, self.steps = t, 0
        self.total = self.steps_of(t) if 1 <= t <= self.last and not self.quiet else 0

    def show(self, seconds: float) -> None:
        """Draw the bar as it is `seconds` after the first step."""
        words = f"round {self.t}/{self.last}"
        if self.bar is None:
            from tqdm import tqdm

            layout = "{desc} {percentage:3.0f}%|{bar:20}|{postfix}"
            # 20 rows, because to a terminal that does not know its size tqdm shows nothing.
            self.bar = tqdm(desc=words, total=self.total, leave=False, bar_format=layout, nrows=20)
        self.bar.total, self.bar.n = self.total, self.steps
        self.bar.set_description_str(words, refresh=False)
        if self.steps_timed and seconds >= 1:  # before that nobody knows
            self.bar.set_postfix_str(f"{clock(seconds * self.steps_left / self.steps_timed)} left", refresh=False)
        self.bar.refresh()

    @property
    def steps_left(self) -> int:
        """Steps until the end of the run, if all later rounds have as many steps as this one."""
        return self.total - self.steps + (self.last - self.t) * self.total


def clock(seconds: float) -> str:
    """1:02:03, or 2:03."""
    minutes, s = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{s:02d}" if hours else f"{minutes}:{s:02d}"
