#!/usr/bin/env python3
"""Lay runs over each other: one table with its differences, one picture of accuracy and loss."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fl.comparing.compared import Experiment, distinct, find, newest, read
from fl.comparing.differences import differences, differences_on_screen, is_telling
from fl.comparing.labels import labelled, shared_title
from fl.comparing.report import json_report, markdown_report
from fl.comparing.tables import as_csv, as_latex, measured, on_screen
from fl.config import DEFAULTS, check_value
from fl.errors import FlagError, reason
from fl.guard import guarded, leave
from fl.pictures.curves import AXES, BANDS, METRICS, Record, telling, value
from fl.records.files import write_atomic
from fl.records.reading import OURS
from fl.words import Words

ENDINGS = {
    "--out": (".pdf", ".png", ".svg"), "--csv": (".csv",), "--latex": (".tex",), "--markdown": (".md",),
    "--json": (".json",),
}  # fmt: skip
WRITERS = {"--csv": as_csv, "--latex": as_latex, "--markdown": markdown_report, "--json": json_report}
NEWEST = 8  # runs that are compared where none is named
PLACE = DEFAULTS["out_dir"]


def target(flag: str, text: str, endings: Sequence[str]) -> Path:
    """The file of a flag. Raises FlagError for a name that ends otherwise, and for what must not be replaced."""
    out = Path(text)
    if out.suffix.lower() not in endings:
        kind = "table" if flag in WRITERS else "picture"
        raise FlagError(f"{flag} {text}: expected the name of a {kind} that ends in {', '.join(endings)}")
    if os.path.lexists(out) and not os.path.isfile(out):
        raise FlagError(f"{flag} {text}: exists and is not a regular file; choose another name")
    real = Path(os.path.realpath(out))
    if real.name.lower() in OURS and os.path.isfile(real.with_name("config.json")):
        raise FlagError(f"{flag} {text}: belongs to the run in {real.parent}; choose another name")
    return out


def check_apart(flag: str, out: Path, folders: Sequence[Path]) -> None:
    """Raise FlagError if the file would go onto what a run has written, by whatever name."""
    for folder in folders:
        for own in (folder / name for name in OURS):
            if os.path.exists(out) and os.path.exists(own) and os.path.samefile(out, own):
                raise FlagError(f"{flag} {out}: is {own}, which belongs to that run; choose another name")


@contextmanager
def writing(flag: str, out: Path) -> Iterator[None]:
    """Raise FlagError in place of OSError."""
    try:
        yield
    except OSError as error:
        raise FlagError(f"{flag} {out}: cannot be written ({reason(error)})") from None


def group(folders: Sequence[Path], labels: Sequence[str] = ()) -> dict[str, Experiment]:
    """The experiments of these folders, by their labels, with one run per seed.

    Raises RunFolderError if no folder can be used, and FlagError for labels that do not fit.
    """
    return labelled(distinct(read(folders)), labels)


def parser() -> Words:
    made = Words(prog="compare.py", description=__doc__, allow_abbrev=False)
    made.add_argument(
        "runs", nargs="*", metavar="RUN",
        help="run folders, or globs of them; those that cannot be used are passed over, "
             "and a seed that several of them hold counts once, from the first "
             f"(default: the newest {NEWEST} in {PLACE}/, the newest first)",
    )  # fmt: skip
    files = made.add_argument_group("what is written")
    files.add_argument(
        "--out", metavar="PICTURE", default="comparison.png",
        help="the picture, whose name ends in .pdf, .png or .svg (default: %(default)s)",
    )  # fmt: skip
    files.add_argument("--csv", metavar="FILE", help="the table in full precision, in a file that ends in .csv")
    files.add_argument("--latex", metavar="FILE", help="the table for LaTeX with booktabs, in a file that ends in .tex")
    files.add_argument("--markdown", metavar="FILE", help="the table and the differences, in a file that ends in .md")
    files.add_argument("--json", metavar="FILE", help="the same in full precision, in a file that ends in .json")
    words = made.add_argument_group("what it says")
    words.add_argument(
        "--target_accuracy", action="append", metavar="ACCURACY",
        help="report the rounds until this accuracy; repeatable (default: the targets of the runs)",
    )  # fmt: skip
    words.add_argument(
        "--label", action="append", metavar="TEXT",
        help="the name of an experiment, in place of the flags that tell it apart; "
             "repeatable, one for each in the order of the table",
    )  # fmt: skip
    words.add_argument("--title", metavar="TEXT", help="the title, in place of what all runs share; '' for none")
    look = made.add_argument_group("the picture")
    look.add_argument(
        "--axes", action="append", choices=list(AXES),
        help="against what to draw; repeatable (default: all that say something different)",
    )  # fmt: skip
    look.add_argument(
        "--metric", action="append", choices=METRICS, help="what to draw; repeatable (default: test accuracy and loss)"
    )
    look.add_argument(
        "--size", choices=("column", "page"),
        help="the width of a column (3.3 inches) or of the page (6.9) of a two-column paper, with letters of 8 points "
             "(default: for the screen)",
    )  # fmt: skip
    look.add_argument(
        "--band", choices=BANDS, default="std",
        help="around the mean over seeds: a sample standard deviation, or the range from the lowest to the highest "
             "(default: %(default)s)",
    )  # fmt: skip
    return made


def compare(argv: Sequence[str] | None) -> None:
    words = parser().parse_args(argv)
    outs = {flag: target(flag, text, endings) for flag, endings in ENDINGS.items()
            if (text := getattr(words, flag.lstrip("-"))) is not None}  # fmt: skip
    if words.title is not None and not (words.title + " ").isprintable():
        raise FlagError(f"--title {words.title!a}: expected text on one line, or '' for none")
    folders = find(words.runs) if words.runs else newest(Path(PLACE), NEWEST)
    if not words.runs:
        print(f"the newest runs in {PLACE}/: {', '.join(folder.name for folder in folders)}")
    for flag, out in outs.items():
        check_apart(flag, out, folders)
    experiments = group(folders, words.label or ())
    targets = check_value("target_accuracy", words.target_accuracy or []) or sorted(
        {target for _, runs in experiments.values() for run in runs for target in run.flags["target_accuracy"]}
    )
    records = {label: [run.records for run in runs] for label, (_, runs) in experiments.items()}
    axes, metrics = axes_of(words.axes, records), metrics_of(words.metric, records)
    rows = measured(experiments, targets)
    print(on_screen(rows), flush=True)
    if is_telling(differences(rows)):
        print(f"\n{differences_on_screen(rows)}", flush=True)
    for flag, written in WRITERS.items():
        if flag in outs:
            with writing(flag, outs[flag]):
                write_atomic(outs[flag], written(rows).encode())
            print(f"table in {outs[flag]}")

    from fl.pictures.comparison import Sheet, save_comparison

    sheet = Sheet(
        axes=axes,
        metrics=metrics,
        size=words.size or "sheet",
        band=words.band,
        title=shared_title(list(experiments.values())) if words.title is None else words.title,
        targets=tuple(targets),
    )
    with writing("--out", outs["--out"]):
        save_comparison(outs["--out"], records, sheet)
    same = [axis for axis in AXES if axis not in axes and is_spent(axis, records)]
    print(f"curves in {outs['--out']}" + ("" if words.axes or not same else f" (without {', '.join(same)}: the same)"))


def axes_of(asked: Sequence[str] | None, records: dict[str, list[list[Record]]]) -> tuple[str, ...]:
    """The axes of the picture. Raises FlagError for one on which there is nothing to draw."""
    if not asked:
        return tuple(telling(list(records.values())))
    for axis, nothing in (("bytes", "sent anything"), ("uplink", "sent anything"), ("simulated", "has simulated time")):
        if axis in asked and not is_spent(axis, records):
            others = ", ".join(other for other in AXES if is_spent(other, records))
            raise FlagError(f"--axes {axis}: none of these runs {nothing}; expected {others}")
    return tuple(dict.fromkeys(asked))


def metrics_of(asked: Sequence[str] | None, records: dict[str, list[list[Record]]]) -> tuple[str, ...]:
    """The metrics of the picture. Raises FlagError for one that none of the runs has measured."""
    for metric in asked or ():
        if not any(value(record, metric) is not None for runs in records.values() for run in runs for record in run):
            raise FlagError(f"--metric {metric}: none of these runs has measured it")
    return tuple(dict.fromkeys(asked or METRICS[:2]))


def is_spent(axis: str, records: dict[str, list[list[Record]]]) -> bool:
    """Whether any of the runs gets anywhere on the axis."""
    return any(AXES[axis](run)[-1] > 0 for runs in records.values() for run in runs)


def run(argv: Sequence[str] | None = None) -> int:
    """The exit code of the command line `argv` (default: this process's)."""
    return guarded("compare.py", lambda: compare(argv))


if __name__ == "__main__":
    leave(run())
