"""What a flag is made of: how its text becomes a value, and what else there is to know of it. Imports no torch."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from fl.errors import FlagError, RunnerError
from fl.flags.entry import Flags, Table

T = TypeVar("T")


class Kind(NamedTuple):
    """How a flag's text becomes a value: `parse` raises ValueError for what `accepts` does not describe.

    metavar: what stands for the value in --help.
    table: the names that the flag takes as values, if it takes names. fault: the class of errors that are due to
    user-supplied code, FILE.py:NAME, in place of such a name.
    """

    parse: Callable[[str], Any]
    accepts: str
    metavar: str
    table: Table | None = None
    fault: type[RunnerError] = FlagError


def integer(low: int, note: str = "", high: int = 2**63 - 1) -> Kind:
    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return Kind(parse, f"an integer >= {low}{note}" if high == 2**63 - 1 else f"an integer from {low} to {high:,}", "N")


def number(low: float, high: float, interval: str) -> Kind:
    """A finite float in `interval`, whose brackets say which ends belong to it."""

    def parse(text: str) -> float:
        value = float(text)
        above = value > low or (value == low and interval[0] == "[")
        below = value < high or (value == high and interval[-1] == "]")
        if not (math.isfinite(value) and above and below):
            raise ValueError
        return value

    return Kind(parse, f"a number in {interval}", "X")


def choice(names: Sequence[str] | Table) -> Kind:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError
        return text

    return Kind(parse, "one of " + ", ".join(names), "NAME", None if isinstance(names, Sequence) else names)


def named(table: Table, fault: type[RunnerError] = FlagError) -> Kind:
    """A name of the table, or FILE.py:NAME in a file of the user's own. Raises FileNotFoundError if there is none."""

    def parse(text: str) -> str:
        if text not in table and not os.path.isfile(file_and_name(text)[0]):
            raise FileNotFoundError(file_and_name(text)[0])
        return text

    accepts = ("one of " + ", ".join(table) + ", or " if table else "") + "FILE.py:NAME"
    return Kind(parse, accepts, "NAME", table, fault)


def file_and_name(text: str) -> tuple[str, str]:
    """FILE.py and NAME of FILE.py:NAME. Raises ValueError for any other text."""
    file, _, name = text.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise ValueError
    return file, name


def pair(text: str) -> tuple[float, float]:
    """Two probabilities: "0.9,0.2". Raises ValueError."""
    first, second = map(float, text.split(","))
    if not (0 <= first <= 1 and 0 <= second <= 1):
        raise ValueError
    return first, second


def _pair(text: str) -> str:
    first, second = pair(text)
    return f"{first!r},{second!r}".replace(".0,", ",").removesuffix(".0")


def floor(text: str) -> tuple[float, int]:
    """An accuracy, and the round from which on it is asked for: "0.2@50". Raises ValueError."""
    accuracy, _, t = text.partition("@")
    if not (0 <= float(accuracy) <= 1 and 0 <= int(t) < 2**63):
        raise ValueError
    return float(accuracy), int(t)


def _floor(text: str) -> str:
    accuracy, t = floor(text)
    return f"{accuracy!r}@{t}"


def _device(text: str) -> str:
    kind, _, index = text.partition(":")
    if text in ("auto", "cpu", "mps") or (kind == "cuda" and (text == "cuda" or index.isdecimal())):
        return text
    raise ValueError


def _text(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError
    return text


def _word(text: str) -> str:
    if not text or not text.isascii() or not all(c.isalnum() or c in "._-" for c in text) or len(text) > 100:
        raise ValueError
    return text


def _units(text: str) -> str:
    widths = [int(word) for word in text.split(",")]
    if not all(0 < width <= 10**6 for width in widths):
        raise ValueError
    return ",".join(map(str, widths))


def sets(text: str) -> list[list[int]]:
    """Sets of numbers: "0,7;1,6". Raises ValueError."""
    found = [sorted(int(word) for word in one.split(",")) for one in text.split(";")]
    if not all(one[0] >= 0 and len(set(one)) == len(one) for one in found):
        raise ValueError
    return found


def _sets(text: str) -> str:
    return ";".join(",".join(map(str, one)) for one in sets(text))


MOST = 3.4e38  # above it a rate or a scale has no float32
SWITCH = Kind(lambda text: True, "no value", "")
PATH = Kind(_text, "a path", "DIR")
COLUMN = Kind(_text, "a column's name", "COLUMN")
UNITS = Kind(_units, "integers from 1 to 1,000,000 with commas between them", "N,N")
SETS = Kind(_sets, "sets of different integers >= 0, with ';' between sets and ',' within, such as '0,7;1,6'", "SETS")
FILE = Kind(_text, "a file", "FILE")
DEVICE = Kind(_device, "auto, cpu, cuda, cuda:INDEX or mps", "DEVICE")
NIGHT_AND_DAY = Kind(_pair, "two probabilities with a comma between them, such as 0.9,0.2", "P,P")
FLOOR = Kind(_floor, "an accuracy in [0, 1], @ and a round, such as 0.2@50", "X@N")
WORD = Kind(_word, "letters, digits, '.', '_' and '-', at most 100", "WORD")

FEDERATED, BASELINE = ("federated",), ("baseline",)  # the scripts that a flag does something in
BOTH = FEDERATED + BASELINE
SAME, FREE, ANEW = "same", "free", "anew"  # what a resumed run makes of a flag, see below


class Need(NamedTuple):
    """What a flag asks of the others. words: what to say when it does not hold; {config.FLAG} is a flag's value."""

    words: str
    holds: Callable[[Flags], bool]


def only_with(name: str, *values: str) -> Need:
    """Another flag must have one of these values."""
    return Need(f"needs --{name} {listed(values)}", lambda c: getattr(c, name) in values)


def listed(words: Sequence[str], last: str = "or") -> str:
    """ "a, b or c"; or with another word than "or"."""
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def ascending(values: Sequence[Any]) -> tuple[Any, ...]:
    """The values in ascending order, each once."""
    return tuple(sorted(set(values)))


def flag(
    default: T,
    group: str,
    kind: Kind,
    help: str,
    *,
    many: Callable[[Sequence[Any]], tuple[Any, ...]] | None = None,
    reads: Sequence[str] = BOTH,
    needs: Sequence[Need] = (),
    resume: str = SAME,
    matched: bool = False,
    experiment: bool | str = True,
    rate: bool = False,
) -> T:
    """A dataclass field that is also a command-line flag.

    many: for a repeatable flag, the function that turns its list of values into one value.
    reads: the scripts in which the flag does something. needs: conditions without which it would do nothing.
    resume: what a resumed run may do. SAME: keep the recorded value. FREE: also take another value, because the flag
    changes no round that is done. ANEW: ignore the recorded value and use the new command line.
    matched: whether a baseline with --match takes the flag from the federated run.
    experiment: whether runs that differ only in this flag are different experiments. The name of a switch means: only
    if that switch is on.
    rate: whether a smaller value may help when training diverges.
    """
    metadata = {
        "group": group, "kind": kind, "help": help, "many": many, "reads": reads, "needs": needs, "resume": resume,
        "matched": matched, "experiment": experiment, "rate": rate,
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)
