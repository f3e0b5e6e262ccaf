#!/usr/bin/env python3
"""Lay runs over each other: one table on the screen, one picture of accuracy and loss."""

from __future__ import annotations

import argparse
import glob
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple, NoReturn

from fl.config import FLAGS, check_value, read_config
from fl.errors import FlagError, RunFolderError
from fl.run import guarded

# Runs that differ only in these are repetitions of one experiment.
NOT_THE_EXPERIMENT = {
    "seed", "name", "run_dir", "out_dir", "resume", "overwrite", "checkpoint_every", "dry_run", "quiet",
    "data_dir", "device", "match", "client_fraction",
}  # fmt: skip


class Run(NamedTuple):
    flags: dict[str, Any]
    records: list[dict[str, Any]]


def find(patterns: Sequence[str]) -> list[Path]:
    """The folders that the patterns name, each once. Raises RunFolderError for a pattern that names none."""
    folders: dict[Path, None] = {}
    for pattern in patterns:
        literal = Path(pattern)
        found = [literal] if literal.is_dir() else [p for p in map(Path, sorted(glob.glob(pattern))) if p.is_dir()]
        if not found:
            raise RunFolderError(f"{pattern}: no such run folder")
        folders |= dict.fromkeys(found)
    return list(folders)


def group(folders: Sequence[Path]) -> dict[str, list[Run]]:
    """The runs by experiment. The label names the script and the flags in which the experiments differ.

    Raises RunFolderError for a folder that is no run's; a run without a record yet is passed over with a warning.
    """
    from fl.records import read_records

    experiments: dict[tuple[tuple[str, Any], ...], list[Run]] = {}
    for folder in folders:
        flags = read_config(folder)
        if (folder / "metrics.jsonl").exists() and not (folder / "metrics.jsonl").read_bytes():
            print(f"warning: {folder}: no round is recorded yet", file=sys.stderr)
            continue
        records = read_records(folder)
        finished = (folder / "summary.json").exists()
        experiments.setdefault(experiment(flags, records, finished), []).append(Run(flags, records))
    if not experiments:
        raise RunFolderError(f"{folders[0]}: no run with a recorded round")
    differing = [name for name in FLAGS if len({dict(key)[name] for key in experiments if name in dict(key)}) > 1]
    labels: dict[str, list[Run]] = {}
    for key, runs in experiments.items():
        flags = dict(key)
        words = [flags["script"], *(["matched"] if "matched" in flags else [])]
        words += [f"{name}={flags[name]}" for name in differing if flags.get(name) not in (None, ())]
        words += [] if flags["finished"] else [f"(unfinished, round {flags['round']})"]
        label = name = " ".join(words)
        for number in range(2, len(experiments) + 2):  # they differ in what no flag says, such as the run matched
            if label not in labels:
                break
            label = f"{name} #{number}"
        labels[label] = runs
    return labels


def experiment(flags: dict[str, Any], records: list[dict[str, Any]], finished: bool) -> tuple[tuple[str, Any], ...]:
    """What makes a run the experiment that it is: the flags that its script reads, and how far it got."""
    baseline = flags["script"] == "baseline"
    unread = {"Federation"} if baseline else {"Baseline only"}
    names = [name for name in FLAGS if name not in NOT_THE_EXPERIMENT and FLAGS[name].metadata["group"] not in unread]
    if baseline:
        names = [name for name in names if name not in ("partition", "alpha", "shards_per_client")]
    if not flags["stop_at_target"]:
        names.remove("target_accuracy")
    key = [("script", flags["script"]), *((name, flags[name]) for name in names), ("finished", finished)]
    if not finished:
        key.append(("round", records[-1]["round"]))
    if flags["match"] is not None:
        key = [(name, value) for name, value in key if name != "epoch"]
        key.append(("matched", tuple(record["examples"] for record in records)))
    return tuple(key)


def table(experiments: dict[str, list[Run]], targets: Sequence[float]) -> str:
    """One row an experiment; mean and sample standard deviation over its seeds."""
    from fl.records import summarise

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


def compare(argv: Sequence[str] | None) -> None:
    parser = _Parser(prog="compare.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, or globs of them")
    parser.add_argument("--out", default="comparison.png", help="the picture (default: %(default)s)")
    parser.add_argument(
        "--target_accuracy", action="append", metavar="ACCURACY",
        help="report the rounds until this accuracy; repeatable (default: the targets of the runs)",
    )  # fmt: skip
    words = parser.parse_args(argv)
    out = Path(words.out)
    if not out.name or out.is_dir():
        raise FlagError(f"--out {words.out}: expected the name of a picture")
    experiments = group(find(words.runs))
    targets = check_value("target_accuracy", words.target_accuracy or []) or sorted(
        {target for runs in experiments.values() for run in runs for target in run.flags["target_accuracy"]}
    )
    print(table(experiments, targets), flush=True)
    from fl.plot import save_comparison

    try:
        save_comparison(out, {label: [run.records for run in runs] for label, runs in experiments.items()})
    except OSError as error:
        raise FlagError(f"--out {words.out}: cannot be written ({error.strerror})") from None
    print(f"curves in {words.out}")


def run(argv: Sequence[str] | None = None) -> int:
    """The exit code of the command line `argv` (default: this process's)."""
    return guarded("compare.py", lambda: compare(argv))


if __name__ == "__main__":
    sys.exit(run())
