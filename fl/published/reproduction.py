"""Cells of a published table, run here, and ours beside theirs.

There are two kinds of cells, and each is a file: reproduced_rounds.py and reproduced_accuracy.py beside this one. A
cell's runs are in PLACE/<cell>/<setting>/seed<k>, and its result is beside them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from fl.comparing.tables import aligned, as_markdown
from fl.errors import RunFolderError
from fl.published import reproduced_accuracy, reproduced_rounds
from fl.published.cells import Final, PublishedCell, Target
from fl.published.trials import Bench, bench
from fl.records.files import write_atomic
from fl.records.strict_json import loads, read_regular

RESULT = "result.json"
Line: TypeAlias = reproduced_rounds.Line | reproduced_accuracy.Line


class Kind(NamedTuple):
    """How one kind of cells is handled.

    heading: of its table. search(cell, seeds, bench): run the cell, return its result. read(cell, result): the table's
    line for a result; None means that the cell was not run.
    """

    heading: list[str]
    search: Callable[[Any, int, Bench], dict[str, Any]]
    read: Callable[[Any, dict[str, Any] | None], Line]


KINDS: dict[type[PublishedCell], Kind] = {
    Target: Kind(reproduced_rounds.HEADING, reproduced_rounds.search, reproduced_rounds.read),
    Final: Kind(reproduced_accuracy.HEADING, reproduced_accuracy.search, reproduced_accuracy.read),
}


class OutOfTimeError(Exception):
    """The --budget is spent; what was trained so far is kept."""


def within(budget_minutes: float | None) -> Callable[[], None]:
    """A function that raises OutOfTimeError once `budget_minutes` have passed; never if that is None."""
    end = math.inf if budget_minutes is None else time.monotonic() + 60 * budget_minutes

    def look() -> None:
        if time.monotonic() > end:
            raise OutOfTimeError(f"--budget {budget_minutes:g}: is spent")

    return look


def reproduce(target: PublishedCell, seeds: int, place: Path, jobs: int | None, look: Callable[[], None]) -> Line:
    """Run the cell, and write its result into its folder, unless an earlier call had more rounds or more seeds."""
    kind, path = KINDS[type(target)], place / target.name / RESULT
    result = kind.search(target, seeds, bench(target.name, place, jobs, look))
    line = kind.read(target, result)
    if line_of(target, path).extent > line.extent:
        print(f"{path} keeps the result of an earlier call, which had more rounds or more seeds")
    else:
        write_atomic(path, (json.dumps(result, indent=2) + "\n").encode())
    return line


def lines_of(targets: Sequence[PublishedCell], place: Path) -> list[Line]:
    """One line per cell, from what is on the disk. Raises RunFolderError for a result that is not ours."""
    return [line_of(target, place / target.name / RESULT) for target in targets]


def line_of(target: PublishedCell, path: Path) -> Line:
    read = KINDS[type(target)].read
    if not path.exists():
        return read(target, None)
    try:
        if not isinstance(result := loads(read_regular(path)), dict):
            raise ValueError("not a result")
        if result.get("cell", target.name) != target.name:
            raise ValueError("it is that of another cell")
        return read(target, result)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{path}: cannot be read ({error}); delete it and run the cell again") from None


def tables(lines: Sequence[Line]) -> list[list[list[str]]]:
    """For each kind of cells that there is its table, heading first."""
    found = []
    for cell, kind in KINDS.items():
        if rows := [line.cells() for line in lines if type(line.target) is cell]:
            found.append([kind.heading, *rows])
    return found


def on_screen(lines: Sequence[Line]) -> str:
    return "\n\n".join(aligned(table) for table in tables(lines))


def publish(lines: Sequence[Line], place: Path) -> None:
    """Write all lines, those of cells that were not run too, as table.md and table.json. Raises OSError."""
    place.mkdir(parents=True, exist_ok=True)
    write_atomic(place / "table.md", "\n".join(as_markdown(table) for table in tables(lines)).encode())
    write_atomic(place / "table.json", (json.dumps([line.told() for line in lines], indent=2) + "\n").encode())


def preset(line: Line, paper: str) -> str | None:
    """The cell's flags with the best setting, as a preset; None if that is not known."""
    if line.best is None:
        return None
    flags = " ".join(f"\n{word}" if word.startswith("--") else word for word in line.best).replace(" \n", "\n").strip()
    told = f"{line.target.theirs} there, {line.ours} here (n={line.n})"
    return f"# {paper}, {line.target.name}: {told}. Written by reproduce.py.\n{flags}\n"
