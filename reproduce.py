#!/usr/bin/env python3
"""Run cells of a paper's tables, and its figure, and lay our rounds or accuracies beside theirs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from fl.config import DEFAULTS
from fl.errors import FlagError
from fl.guard import guarded, leave
from fl.published import PAPERS, targets_of
from fl.published.cells import check_extra, with_flags
from fl.records.files import write_atomic
from fl.streams import complain
from fl.words import Words, count, destination

FIGURES = {"mcmahan2017": {"figure1": "the average of two models against both"}}  # cells that are not of a table


def parser() -> Words:
    made = Words(
        prog="reproduce.py", usage="%(prog)s PAPER [--cell NAME] [...] [-- flags of run_federated.py]",
        description=__doc__, allow_abbrev=False,
    )  # fmt: skip
    made.add_argument("paper", choices=PAPERS, help="whose tables")
    made.add_argument(
        "--cell", action="append", metavar="NAME",
        help="a cell, or a pattern such as 'table1/2nn/iid/*'; repeatable (default: all cells, which takes days)",
    )  # fmt: skip
    made.add_argument("--list", action="store_true", help="name the cells, with the published figures; run nothing")
    made.add_argument("--seeds", default="3", metavar="N", help="seeds with the best setting (default: %(default)s)")
    made.add_argument(
        "--jobs", metavar="N",
        help="processes at a time: one per run, or several if there are fewer runs "
             "(default: one per core; on a GPU one)",
    )  # fmt: skip
    made.add_argument("--budget", metavar="MINUTES", help="stop after so long; the next call goes on from there")
    made.add_argument(
        "--out", metavar="DIR", default=f"{DEFAULTS['out_dir']}/reproduce", help="where runs go (default: %(default)s)"
    )
    made.add_argument(
        "--write_presets", action="store_true", help="write the best settings into presets, configs/PAPER/CELL.txt"
    )
    return made


def chosen(names: Iterable[str], patterns: Sequence[str] | None) -> list[str]:
    """The cells that the patterns name. Raises FlagError for a pattern that names none."""
    names = list(names)
    for pattern in patterns or ():
        if not any(fnmatchcase(name, pattern) for name in names):
            raise FlagError(f"--cell {pattern}: no such cell; --list names them all")
    return [name for name in names if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)]


def minutes(text: str | None) -> float | None:
    """The number of --budget. Raises FlagError."""
    try:
        if text is None or 0 < float(text) < 1e6:
            return None if text is None else float(text)
    except ValueError:
        pass
    raise FlagError(f"--budget {text}: expected minutes in (0, 1e+06)")


def reproduce(argv: Sequence[str]) -> bool:
    """Whether no cell that was run is out of its band, and each figure bears out what the paper claims."""
    at = list(argv).index("--") if "--" in argv else len(argv)
    words = parser().parse_args(argv[:at])
    targets, figures = targets_of(words.paper), FIGURES.get(words.paper, {})
    names = chosen([*figures, *targets], words.cell)
    wanted = [with_flags(targets[name], argv[at + 1 :]) for name in names if name in targets]
    seeds, jobs = count("--seeds", words.seeds), count("--jobs", words.jobs) if words.jobs else None
    budget = minutes(words.budget)
    if "figure1" in names:
        check_extra(argv[at + 1 :])
    if words.list:
        told = figures | {target.name: target.theirs for target in wanted}
        print("\n".join(f"{name}  {told[name]}" for name in names))
        return True

    from fl.published import figure1, reproduction

    place, look, holds = destination("--out", words.out) / words.paper, reproduction.within(budget), True
    done: dict[str, reproduction.Line] = {}
    try:
        reproduction.lines_of(list(targets.values()), place)  # a damaged result is said before hours of training
        if "figure1" in names:
            holds = figure1.reproduce(seeds, argv[at + 1 :], place, look)
        for target in wanted:
            print(f"{target.name}: {target.theirs} published", flush=True)
            done[target.name] = reproduction.reproduce(target, seeds, place, jobs, look)
    except reproduction.OutOfTimeError as error:
        holds = "figure1" not in names or figure1.holds_so_far(place, argv[at + 1 :])
        complain(f"{error}; give the command again to go on")
    if not wanted:
        return holds
    lines = reproduction.lines_of(list(targets.values()), place)
    reproduction.publish(lines, place)
    kept = [line for line in lines if line.target.name in names]
    shown = [done.get(line.target.name, line) for line in kept]
    print(reproduction.on_screen(shown))
    print(f"table.md and table.json in {place}")
    if words.write_presets:
        folder = Path("configs") / words.paper
        folder.mkdir(parents=True, exist_ok=True)
        for line in kept:
            if preset := reproduction.preset(line, words.paper):
                path = folder / f"{line.target.name.replace('/', '-')}.txt"
                write_atomic(path, preset.encode())
                print(f"preset in {path}")
    return holds and not any(line.verdict == "out" for line in shown)


def run(argv: Sequence[str] | None = None) -> int:
    """The exit code of the command line `argv` (default: this process's): 1 if `reproduce` returns False."""
    within: list[bool] = []
    code = guarded("reproduce.py", lambda: within.append(reproduce(sys.argv[1:] if argv is None else argv)))
    return code or int(not within[0])


if __name__ == "__main__":
    leave(run())
