"""Which run folders count in a comparison, and which of them repeat one experiment."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from fl.check import is_read
from fl.config import FLAGS, Config
from fl.config_file import read_config
from fl.errors import RunFolderError
from fl.flags.flag import listed
from fl.names import entry_of, is_own
from fl.records.reading import client_tests, has_diverged, is_finished, newest_runs, read_metrics, read_told
from fl.streams import warn

Key: TypeAlias = tuple[tuple[str, Any], ...]


class Run(NamedTuple):
    """A run folder that can be used.

    finished: whether the records go to the run's own end. diverged: whether a sweep has found that it cannot go on.
    clients: how they do on their own tests, once the run is finished; see fl.records.reading.client_tests.
    """

    folder: Path
    flags: dict[str, Any]
    records: list[dict[str, Any]]
    finished: bool
    diverged: bool = False
    clients: dict[str, dict[str, float]] = {}  # noqa: RUF012  never changed


class Experiment(NamedTuple):
    """Runs that repeat each other with other seeds. key: what makes them so, as `experiment` has it."""

    key: dict[str, Any]
    runs: list[Run]


def newest(place: Path, most: int) -> list[Path]:
    """At most `most` run folders in `place`, the one that was recorded last first. Raises RunFolderError."""
    runs = newest_runs(place)[:most]
    if not runs:
        raise RunFolderError(f"{place}/: holds no runs; make one with python3 run_federated.py, or name run folders")
    return runs


def find(patterns: Sequence[str]) -> list[Path]:
    """The folders that the patterns name, each once, by the first path that leads to it.

    Raises RunFolderError for a pattern that names none.
    """
    folders: dict[tuple[int, int], Path] = {}
    for pattern in patterns:
        literal = Path(pattern)
        found = [literal] if literal.is_dir() else [p for p in map(Path, sorted(glob.glob(pattern))) if p.is_dir()]
        if not found:
            raise RunFolderError(f"{pattern}: no such run folder")
        for folder in found:
            status = folder.stat()
            first = folders.setdefault((status.st_dev, status.st_ino), folder)
            if first != folder:
                warn(f"{first} and {folder} are the same folder; it counts once")
    return list(folders.values())


def read(folders: Sequence[Path]) -> list[Run]:
    """The runs of those folders that can be used; the others are passed over with a warning.

    Raises RunFolderError if there is none.
    """
    runs: list[Run] = []
    unusable: list[RunFolderError] = []
    for folder in folders:
        try:
            flags, (records, cut) = read_config(folder), read_metrics(folder)
        except RunFolderError as reason:
            unusable.append(holding(folder) or reason)
            continue
        if cut:
            warn(f"{folder}: the last line of metrics.jsonl is cut off; the {len(records)} before it count")
        finished = not cut and is_finished(folder, records)
        diverged = has_diverged(folder, records, flags["global_epoch"])
        runs.append(Run(folder, flags, records, finished, diverged, client_tests(folder) if finished else {}))
    if not runs:
        others = f" (nor can any other of the {len(folders)} folders be used)" if len(folders) > 1 else ""
        raise RunFolderError(f"{unusable[0]}{others}")
    for error in unusable:
        warn(f"{error}; passed over")
    return runs


def holding(folder: Path) -> RunFolderError | None:
    """What to say of a folder that is no run but holds some, such as a sweep's; None for any other."""
    path = folder / "config.json"
    below = next((one for one in ("*", "*/*") if any(folder.glob(f"{one}/config.json"))), None)
    if path.exists() or below is None:
        return None
    return RunFolderError(f"{path}: there is none, but the folder holds runs; name them, as '{folder / below}'")


def distinct(runs: Sequence[Run]) -> list[Experiment]:
    """The experiments, each with one run per seed: the first counts, because a seed that is repeated says nothing new.

    A warning names the others.
    """
    experiments: dict[Key, dict[int, Run]] = {}
    alike: dict[tuple[Key, Key], Key] = {}  # baselines that match runs of one experiment
    for run in runs:
        seed, key = run.flags["seed"], experiment(run)
        if (others := matched(run)) is not None:
            key = alike.setdefault((tuple(pair for pair in key if pair[0] != "matched"), others), key)
        first = experiments.setdefault(key, {}).setdefault(seed, run)
        if first is not run:
            results = "the same" if curve(first) == curve(run) else "other"
            warn(
                f"{first.folder} and {run.folder} are the same experiment with the same seed, {seed}, "
                f"and have {results} results; only {first.folder} counts"
            )
    found = [Experiment(dict(key), list(seeds.values())) for key, seeds in experiments.items()]
    for one in found:
        check_code(one.runs)
    return found


def check_code(runs: Sequence[Run]) -> None:
    """Warn if the user changed a file between runs that count as one experiment."""
    codes = [read_told(run.folder, "environment.json").get("own_files") for run in runs]
    first, files = runs[0], codes[0]
    for run, others in zip(runs, codes, strict=True):
        if isinstance(files, dict) and isinstance(others, dict) and others != files:
            names = [name for name in files | others if files.get(name) != others.get(name)]
            warn(
                f"{first.folder} and {run.folder} count as one experiment, but {listed(names, 'and')} changed between "
                "them; make these runs again, in folders of their own, to compare the same code"
            )
            return


def curve(run: Run) -> list[tuple[float | None, float | None]]:
    return [(record["test_accuracy"], record["test_loss"]) for record in run.records]


def experiment(run: Run) -> Key:
    """The key of the run's experiment: runs with equal keys repeat the same experiment.

    It has the flags that change what the run computes, without the seed, and how far the run got. User-supplied code is
    compared by its name only, because the file may not exist any more.
    """
    key = [*telling(run.flags), ("finished", run.finished), ("diverged", run.diverged)]
    if not run.finished and not run.diverged:
        key.append(("round", run.records[-1]["round"]))
    if run.flags["match"] is not None:
        key.append(("matched", tuple(record["examples"] for record in run.records)))
    return tuple(key)


def telling(flags: dict[str, Any]) -> list[tuple[str, Any]]:
    """The script, and the flags with their values that do anything in a run of it."""
    config = Config(**{name: flags[name] for name in FLAGS})
    key = [("script", flags["script"])]
    key += [(name, flags[name]) for name in FLAGS if counts(name, flags) and is_read(name, config, flags["script"])]
    return [(name, os.path.normpath(value) if name == "data_dir" else value) for name, value in key]


def matched(run: Run) -> Key | None:
    """The flags of the run that a baseline matches; None without one, or if its folder is gone or holds another run.

    With some partitions the number of examples follows from the seed. Baselines that differ in it repeat one
    experiment all the same if the runs that they match do.
    """
    if run.flags["match"] is None:
        return None
    folder = Path(run.flags["match"])
    try:
        flags, records = read_config(folder), read_metrics(folder).records
    except RunFolderError:
        return None
    there = [record["examples"] for record in records[1:]]
    return tuple(telling(flags)) if there == read_told(run.folder, "environment.json").get("matched_examples") else None


def counts(name: str, flags: dict[str, Any]) -> bool:
    """Whether runs that differ only in this flag are different experiments rather than repetitions of one."""
    if name == "data_dir":
        return is_own("dataset", flags["dataset"]) or entry_of("dataset", flags["dataset"]).of_the_user
    differs = FLAGS[name].metadata["experiment"]
    return bool(flags[differs] if isinstance(differs, str) else differs)
