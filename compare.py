#!/usr/bin/env python3
"""Lay runs over each other: one table on the screen, one picture of accuracy and loss."""

from __future__ import annotations

import argparse
import glob
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from fl.config import FLAGS, read_config
from fl.errors import FlagError, RunFolderError, RunnerError
from fl.run import one_line

# Runs that differ only in these are repetitions of one experiment.
NOT_THE_EXPERIMENT = {
    "seed", "name", "run_dir", "out_dir", "resume", "overwrite", "checkpoint_every", "dry_run", "quiet",
    "data_dir", "device", "target_accuracy", "match", "client_fraction",
}  # fmt: skip


class Run(NamedTuple):
    flags: dict[str, Any]
    records: list[dict[str, Any]]


def find(patterns: Sequence[str]) -> list[Path]:
    """The folders that the patterns name, each once. Raises RunFolderError for a pattern that names none."""
    folders: dict[Path, None] = {}
    for pattern in patterns:
        found = [Path(path) for path in sorted(glob.glob(pattern)) if Path(path).is_dir()]
        if not found:
            raise RunFolderError(f"{pattern}: no such run folder")
        folders |= dict.fromkeys(found)
    return list(folders)


def group(folders: Sequence[Path]) -> dict[str, list[Run]]:
    """The runs by experiment. The label names the script and the flags in which the experiments differ."""
    from fl.record import read_records

    experiments: dict[tuple[tuple[str, Any], ...], list[Run]] = {}
    for folder in folders:
        flags = read_config(folder)
        matched = flags.get("match") is not None
        key = tuple((name, flags.get(name)) for name in ("script", *FLAGS) if name not in NOT_THE_EXPERIMENT)
        experiments.setdefault((*key, ("matched", matched)), []).append(Run(flags, read_records(folder)))
    defaults = {name: field.default for name, field in FLAGS.items()}
    differing = [
        name
        for name in (FLAGS if len(experiments) > 1 else ())
        if name not in NOT_THE_EXPERIMENT and len({dict(key)[name] for key in experiments}) > 1
    ]
    labels: dict[str, list[Run]] = {}
    for key, runs in experiments.items():
        flags = dict(key)
        words = [flags["script"]] + (["matched"] if flags["matched"] else [])
        words += [f"{name}={flags[name]}" for name in differing if read_by(flags["script"], name, flags, defaults)]
        label = " ".join(words)
        while label in labels:  # differ only in what the label leaves out
            label += "'"
        labels[label] = runs
    return labels


def read_by(script: str, name: str, flags: dict[str, Any], defaults: dict[str, Any]) -> bool:
    """Whether the flag says something about a run of this script."""
    federated_only = FLAGS[name].metadata["group"] == "Federation" or name in (
        "partition",
        "alpha",
        "shards_per_client",
    )
    baseline_only = FLAGS[name].metadata["group"] == "Baseline only"
    return flags[name] is not None and not (baseline_only if script == "federated" else federated_only)


def table(experiments: dict[str, list[Run]], targets: Sequence[float]) -> str:
    """One row an experiment; mean and sample standard deviation over its seeds."""
    from fl.record import summarise

    header = ["run", "n", "accuracy %", "best %", "loss", "rounds", *(f"to {target:.4g}" for target in targets)]
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
                *(spread([end["rounds_to_target"][f"{target:g}"] for end in ends], ".1f") for target in targets),
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


def run(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="compare.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, or globs of them")
    parser.add_argument("--out", default="comparison.png", help="the picture (default: %(default)s)")
    parser.add_argument(
        "--target_accuracy", action="append", type=float, metavar="ACCURACY",
        help="report the rounds until this accuracy; repeatable (default: the targets of the runs)",
    )  # fmt: skip
    words = parser.parse_args(argv)
    try:
        experiments = group(find(words.runs))
        targets = sorted(
            words.target_accuracy
            or {target for runs in experiments.values() for run in runs for target in run.flags["target_accuracy"]}
        )
        if not all(0 < target <= 1 for target in targets):
            raise FlagError(f"--target_accuracy {targets[0]:g}: expected a number in (0, 1]")
        print(table(experiments, targets))
        from fl.plot import save_comparison

        try:
            save_comparison(
                Path(words.out), {label: [run.records for run in runs] for label, runs in experiments.items()}
            )
        except OSError as error:
            raise FlagError(f"--out {words.out}: cannot be written ({error.strerror})") from None
        print(f"curves in {words.out}")
    except RunnerError as error:
        print(f"compare.py: {one_line(error)}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(run())
