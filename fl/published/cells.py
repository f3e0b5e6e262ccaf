"""The two kinds of cells that published tables have: rounds to a target accuracy, and a final accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from fl.errors import FlagError

BAND = 1.25  # times their rounds; a reproduction within it is as good as theirs
# Points below their accuracy; a reproduction within them is as good as theirs. FedNova is FedAvg where all clients have
# the same number of examples, so it is by luck that the two differ in NIID-Bench's IID cells, by up to 0.6 points. The
# band is about three times that. Where clients have few labels seeds differ by more than the band.
POINTS = 2.0
WHERE = ("data_dir", "device")  # flags of run_federated.py that say where a cell runs, and not what
CHANCE = 10.0  # per cent, of ten classes that are equally frequent


class Target(NamedTuple):
    """A cell with rounds to a target: its flags but for the rate and the rounds, and the rounds that the paper reports.

    start: the rate with which a search begins.
    """

    name: str
    flags: list[str]
    rounds: float
    start: float

    @property
    def theirs(self) -> str:
        return f"{self.rounds:g} rounds"

    @property
    def limit(self) -> int:
        """Rounds after which a run is out of the band, whatever comes."""
        return math.ceil(BAND * self.rounds)

    def words(self, rate: float) -> list[str]:
        """All flags of a run with this rate."""
        return [*self.flags, "--init_lr", f"{rate:g}", "--global_epoch", str(self.limit)]


class Final(NamedTuple):
    """A cell with the accuracy after `rounds` rounds, in per cent. flags: all of them but those of the settings.

    settings: sets of flags, as names and values, of which the best one counts; a single one if the publication has
    tuned nothing.
    """

    name: str
    flags: list[str]
    accuracy: float
    rounds: int
    settings: list[dict[str, str]]

    @property
    def theirs(self) -> str:
        return f"{self.accuracy:g} %"

    @property
    def collapsed(self) -> bool:
        """Whether theirs is so near to chance that a model without any training would lie within the band."""
        return self.accuracy <= CHANCE + POINTS

    def words(self, setting: dict[str, str]) -> list[str]:
        """All flags of a run with this setting."""
        return [*self.flags, *(word for flag, value in setting.items() for word in (f"--{flag}", value))]


PublishedCell: TypeAlias = Target | Final


def with_flags(cell: PublishedCell, extra: Sequence[str]) -> PublishedCell:
    """The cell with more flags of run_federated.py. Raises FlagError as `check_extra` does."""
    check_extra(extra, (*WHERE, "global_epoch") if isinstance(cell, Final) else WHERE)
    return cell._replace(flags=[*cell.flags, *extra])


def check_extra(extra: Sequence[str], allowed: Sequence[str] = WHERE) -> None:
    """Raise FlagError for words that would make another experiment of a published one, or that nothing would read."""
    for word in extra:
        if word.startswith(("@", "-")) and word.partition("=")[0] not in [f"--{name}" for name in allowed]:
            *most, last = (f"--{name}" for name in allowed)
            raise FlagError(
                f"{word}: does not go with a published cell; after -- it takes {', '.join(most)} and {last}"
            )
