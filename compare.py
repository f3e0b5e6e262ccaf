#!/usr/bin/env python3
"""Lay runs over each other: one table on the screen, one picture of accuracy and loss."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import NoReturn

from fl.compared import Run, find, group
from fl.config import check_value
from fl.errors import FlagError, reason
from fl.guard import guarded, leave
from fl.records import OURS, summarise

PICTURES = (".pdf", ".png", ".svg")


def table(experiments: dict[str, list[Run]], targets: Sequence[float]) -> str:
    """One row an experiment; mean and sample standard deviation over its seeds."""
    header = ["run", "n", "accuracy %", "best %", "loss", "rounds", *(f"to {target!r}" for target in targets)]
    header += ["examples", "steps", "MB down", "MB up", "seconds"]
    rows = [header]
    for label, runs in experiments.items():
        ends = [summarise(run.records, targets) for run in runs]

        def total(key: str, scale: float = 1.0, runs: list[Run] = runs) -> list[float | None]:
            return [sum(record[key] for record in run.records) * scale for run in runs]

        rows.append(
            [
                label,
                str(len(runs)),
                spread([end["test_accuracy"] * 100 for end in ends], ".2f"),
                spread([end["best_test_accuracy"] * 100 for end in ends], ".2f"),
                spread([end["test_loss"] for end in ends], ".4f"),
                spread([end["rounds"] for end in ends], ".4g"),
                *(spread([end["rounds_to_target"][repr(target)] for end in ends], ".1f") for target in targets),
                spread(total("examples"), ",.0f"),
                spread(total("local_steps"), ",.0f"),
                spread(total("downlink_bytes", 1e-6), ".1f"),
                spread(total("uplink_bytes", 1e-6), ".1f"),
                spread(total("round_seconds"), ".1f"),
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(lines)


def spread(values: Sequence[float | None], spec: str) -> str:
    """ "mean ± sample standard deviation", without the latter for one value or equal ones; "-" for none."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    text = format(mean(known), spec)
    if len(known) > 1 and stdev(known) > 0:
        text += f" ± {format(stdev(known), spec)}"
    if len(known) < len(values):
        text += f" ({len(known)} of {len(values)})"
    return text


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise FlagError(message.removeprefix("argument "))


def picture(text: str) -> Path:
    """Where the picture goes. Raises FlagError for another format, and for what must not be replaced by a picture."""
    out = Path(text)
    if out.suffix.lower() not in PICTURES:
        raise FlagError(f"--out {text}: expected the name of a picture that ends in {', '.join(PICTURES)}")
    if os.path.lexists(out) and not os.path.isfile(out):
        raise FlagError(f"--out {text}: exists and is not a regular file; choose another name")
    real = Path(os.path.realpath(out))
    if real.name.lower() in OURS and os.path.isfile(real.with_name("config.json")):
        raise FlagError(f"--out {text}: belongs to the run in {real.parent}; choose another name")
    return out


def check_apart(out: Path, folders: Sequence[Path]) -> None:
    """Raise FlagError if the picture would go onto what a run has written, by whatever name."""
    for folder in folders:
        for own in (folder / name for name in OURS):
            if os.path.exists(out) and os.path.exists(own) and os.path.samefile(out, own):
                raise FlagError(f"--out {out}: is {own}, which belongs to that run; choose another name")


def compare(argv: Sequence[str] | None) -> None:
    parser = _Parser(prog="compare.py", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN",
        help="run folders, or globs of them; those that cannot be used are passed over, "
             "and a seed that several of them hold counts once, from the first",
    )  # fmt: skip
    parser.add_argument(
        "--out", metavar="PICTURE", default="comparison.png",
        help="the picture, whose name ends in .pdf, .png or .svg (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--target_accuracy", action="append", metavar="ACCURACY",
        help="report the rounds until this accuracy; repeatable (default: the targets of the runs)",
    )  # fmt: skip
    words = parser.parse_args(argv)
    out = picture(words.out)
    folders = find(words.runs)
    check_apart(out, folders)
    experiments = group(folders)
    targets = check_value("target_accuracy", words.target_accuracy or []) or sorted(
        {target for runs in experiments.values() for run in runs for target in run.flags["target_accuracy"]}
    )
    print(table(experiments, targets), flush=True)
    from fl.plot import save_comparison

    try:
        save_comparison(out, {label: [run.records for run in runs] for label, runs in experiments.items()})
    except OSError as error:
        raise FlagError(f"--out {words.out}: cannot be written ({reason(error)})") from None
    print(f"curves in {words.out}")


def run(argv: Sequence[str] | None = None) -> int:
    """The exit code of the command line `argv` (default: this process's)."""
    return guarded("compare.py", lambda: compare(argv))


if __name__ == "__main__":
    leave(run())
