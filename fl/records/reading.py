"""What a run folder holds, and its records read back: checked line by line, then summed up. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from reprlib import repr as short
from typing import Any, NamedTuple

from fl.errors import RunFolderError, reason
from fl.flags.flag import floor
from fl.records.strict_json import loads, read_regular

DIVERGED = "diverged.txt"  # a sweep leaves the run's last words there, because the run is not to be started again
OURS = (
    "config.json", "environment.json", "metrics.jsonl", "summary.json",
    "curves.png", "partition.png", "drift.png", "devices.png", "clients.png", "personalised.png",
    "client_accuracy.json", DIVERGED, "model.pt", "checkpoint.pt",
)  # fmt: skip


def newest_runs(folder: Path) -> list[Path]:
    """The run folders in `folder`, the one that was recorded last first."""
    recorded = {path.parent: path.stat().st_mtime_ns for path in folder.glob("*/metrics.jsonl") if path.is_file()}
    runs = [run for run in recorded if (run / "config.json").exists()]
    return sorted(runs, key=lambda run: (-recorded[run], run.name))


EXPLODED = 10  # a loss so many times the untrained model's, which is near ln(classes), is no training any more


class Field(NamedTuple):
    """What a key of a record holds: how to tell, and how to say it."""

    holds: Callable[[Any], bool]
    accepts: str


# `type` and not `isinstance`, because to the latter True is an int. No loss in float32 is above 3.4e38, and sums and
# spreads of numbers up to 1e100 are finite.
COUNT = Field(lambda value: type(value) is int and value >= 0, "an integer >= 0")
NUMBER = Field(lambda value: type(value) in (int, float) and abs(value) <= 1e100, "a number up to 1e+100")
SECONDS = Field(lambda value: NUMBER.holds(value) and value >= 0, "a number in [0, 1e+100]")
ACCURACY = Field(lambda value: value is None or (NUMBER.holds(value) and 0 <= value <= 1), "a number in [0, 1] or null")
LOSS = Field(lambda value: value is None or NUMBER.holds(value), f"{NUMBER.accepts} or null")
OF_CLIENTS = ("mean", "std", "worst_decile")
SPREAD = Field(
    lambda value: (
        isinstance(value, dict)
        and value.keys() == set(OF_CLIENTS)
        and all(NUMBER.holds(one) and 0 <= one <= 1 for one in value.values())
    ),
    "mean, std and worst_decile in [0, 1]",
)
CLIENTS = Field(lambda value: isinstance(value, list) and all(map(COUNT.holds, value)), "a list of integers >= 0")

FIELDS = {
    "round": COUNT, "test_accuracy": ACCURACY, "test_loss": LOSS, "train_loss": LOSS, "clients": CLIENTS,
    "examples": COUNT, "local_steps": COUNT, "downlink_bytes": COUNT, "uplink_bytes": COUNT,
    "round_seconds": SECONDS, "evaluate_seconds": SECONDS,
}  # fmt: skip
OPTIONAL = {
    "simulated_seconds": SECONDS, "compressed_bytes": COUNT, "secure_bytes": COUNT, "secure_seconds": SECONDS,
    "client_accuracy": SPREAD,
    "abandoned": Field(lambda value: value is True, "true"),
}  # fmt: skip
# Keys that user-supplied transforms may not add to a record, because the runner itself reads or writes them.
TAKEN = {*FIELDS, *OPTIONAL, "rejected", "called", "declined", "dropped", "late", "lost", "exploded", "epsilon"}
RECORD_KEYS = set(FIELDS)  # features add keys, of which a reader need not know


class Metrics(NamedTuple):
    """The records of rounds 0, 1, 2, ..., and whether another line follows that was not written to its end."""

    records: list[dict[str, Any]]
    cut: bool


def read_metrics(folder: Path) -> Metrics:
    """The complete records of a run folder. Raises RunFolderError when there are none or they are damaged.

    Only the last line can be cut off: by a full disk, by a copy that stopped, or because it is being written just now.
    """
    path = folder / "metrics.jsonl"
    try:
        *lines, rest = read_regular(path).split(b"\n")
        records = [parse_record(line, t) for t, line in enumerate(lines)]
        cut = False
        if rest:
            try:
                records.append(parse_record(rest, len(lines)))  # only its line end is missing
            except ValueError:
                cut = True
        if not records:
            raise ValueError("its first line is cut off" if cut else "no round is recorded yet")
        if records[0]["test_accuracy"] is None:
            raise ValueError("its first record is not that of an initial model")
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path}: cannot be read ({reason(error)}); expected the folder of a run") from None
    return Metrics(records, cut)


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The records of a run folder. Raises RunFolderError when there are none, or any of them is damaged or cut."""
    records, cut = read_metrics(folder)
    if cut:
        raise RunFolderError(
            f"{folder / 'metrics.jsonl'}: cannot be read (line {len(records) + 1} is cut off); "
            "--resume the run to write it again"
        )
    return records


def parse_record(line: bytes, t: int) -> dict[str, Any]:
    """The record of round t. Raises ValueError if the line is not one."""
    try:
        record = loads(line)
        if not isinstance(record, dict):
            raise ValueError("not a record")
        for key in FIELDS:
            if key not in record:
                raise ValueError(f"has no {key}")
        for key, field in (FIELDS | OPTIONAL).items():
            if key in record and not field.holds(record[key]):
                raise ValueError(f"{key} is {short(record[key])}, expected {field.accepts}")
        if record["round"] != t:
            raise ValueError(f"is of round {record['round']}, expected {t}")
    except ValueError as error:
        raise ValueError(f"line {t + 1}: {error}") from None
    return record


def parse_lines(path: Path, lines: bytes, t: int) -> list[dict[str, Any]]:
    """The records of the rounds 0 to t in these lines of `path`. Raises RunFolderError if they are not that."""
    try:
        records = [parse_record(line, number) for number, line in enumerate(lines.splitlines())]
        if len(records) != t + 1 or records[0]["test_accuracy"] is None:
            raise ValueError(f"expected the rounds 0 to {t}, the first of them evaluated")
    except ValueError as error:
        raise RunFolderError(f"{path}: cannot be read ({error}); restore it from a copy") from None
    return records


def read_told(folder: Path, name: str) -> dict[str, Any]:
    """What a JSON file of the run says; nothing if there is none that can be read."""
    try:
        told = loads(read_regular(folder / name))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def is_finished(folder: Path, records: Sequence[dict[str, Any]]) -> bool:
    """Whether the run's summary speaks of the last of these records."""
    return read_told(folder, "summary.json").get("rounds") == records[-1]["round"]


def client_tests(folder: Path) -> dict[str, dict[str, float]]:
    """How the clients of a finished run do on their own tests: OF_CLIENTS, by the model that they are tested with."""
    summary = read_told(folder, "summary.json")
    before = {"before": summary["client_accuracy"]} if "client_accuracy" in summary else {}
    found = summary.get("personalised", before)
    return {name: one for name, one in found.items() if SPREAD.holds(one)} if isinstance(found, dict) else {}


def has_diverged(folder: Path, records: Sequence[dict[str, Any]], rounds: int) -> bool:
    """Whether the run diverged within the first `rounds` rounds; if asked for more, it may have done so later."""
    return (folder / DIVERGED).exists() and len(records) <= rounds


def summarise(records: Sequence[dict[str, Any]], targets: Sequence[float]) -> dict[str, Any]:
    """Last and best results, the rounds to each target, and what was spent where that is simulated."""
    evaluated = [record for record in records if record["test_accuracy"] is not None]
    return (
        {
            "test_accuracy": evaluated[-1]["test_accuracy"],
            "test_loss": evaluated[-1]["test_loss"],
            "best_test_accuracy": max(record["test_accuracy"] for record in evaluated),
            "rounds": records[-1]["round"],
            "rounds_to_target": {repr(target): rounds_to_target(records, target) for target in targets},
        }
        | totals(records)
        | {key: records[-1][key] for key in ("epsilon",) if key in records[-1]}
    )


def totals(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Time, traffic and abandoned rounds of a run with simulated devices, or with compressed or masked updates."""
    telling = ("called", "simulated_seconds", "compressed_bytes", "secure_bytes")
    if not any(key in record for record in records for key in telling):
        return {}
    sums = {key: sum(record[key] for record in records) for key in ("downlink_bytes", "uplink_bytes")}
    for key in ("compressed_bytes", "secure_bytes"):
        if any(key in record for record in records):
            sums[key] = sum(record.get(key, 0) for record in records)
    if any("simulated_seconds" in record for record in records):
        sums["simulated_seconds"] = math.fsum(record.get("simulated_seconds", 0.0) for record in records)
    return sums | {"abandoned_rounds": sum("abandoned" in record for record in records)}


def fell_below(records: Sequence[dict[str, Any]], least: str | None) -> bool:
    """Whether a run with these records ends because of --stop_below `least`: at a round that was evaluated."""
    if least is None or not records or records[-1]["test_accuracy"] is None:
        return False
    accuracy, first = floor(least)
    best = max(record["test_accuracy"] for record in records if record["test_accuracy"] is not None)
    return bool(records[-1]["round"] >= first and best < accuracy)


def rounds_to_target(records: Sequence[dict[str, Any]], target: float) -> float | None:
    """Where the monotone accuracy curve crosses `target`, interpolated linearly between evaluated rounds.

    As in McMahan et al. 2017, section 3: the curve is the best accuracy so far. None if it stays below.
    """
    best, best_round = -math.inf, 0
    for record in records:
        accuracy = record["test_accuracy"]
        if accuracy is None:
            continue
        if accuracy >= target:
            if best == -math.inf:
                return float(record["round"])
            return best_round + (target - best) / (accuracy - best) * (record["round"] - best_round)
        best, best_round = max(best, accuracy), record["round"]
    return None
