"""How much longer runs take beside one competing process, and how long the default run takes alone.

    python3 -m benchmarks.beside

Two threads that meet at every layer wait for each other whenever another program takes the core of one of them: on two
cores, 2NN rounds took fifty times as long. So every command line below is run alone and beside a process that computes
without end, in turns, and medians are compared. About eight minutes on two idle cores; exit code 1 if a bar is missed.

The competitor runs in a session of its own, as from another terminal. Linux shares the cores out between sessions, so
that it gets one whole core of two, and a run that uses both takes twice as long at best.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parents[1]
PAPER = "--num_clients 100 --client_fraction 0.1 --local_epoch 1 --batch_size 10 --optimizer sgd --init_lr 0.05"
RUNS = {
    "default": "",
    "2nn": f"--model 2nn {PAPER} --global_epoch 50",
    "logistic": f"--model logistic {PAPER} --num_clients 1000 --client_fraction 0.01 --global_epoch 500",
}
OLD = "--model gn_cnn --local_epoch 1 --global_epoch 1"  # a 25th of what was the default run
OLD_ROUNDS = 25
COMPETITOR = "x = 1.0\nwhile True: x = x * 0.5 + 1.0"


class Run(NamedTuple):
    """One command. seconds: from start to end; rounds: of its rounds alone; others: cores that other programs used."""

    seconds: float
    rounds: float
    others: float


def run(flags: str, data_dir: str, competitor: int = 0) -> Run:
    """Run a command line. competitor: the id of a process whose work does not count among that of others, or 0."""
    with tempfile.TemporaryDirectory() as place:
        words = [*flags.split(), "--quiet", "--data_dir", data_dir, "--run_dir", f"{place}/run"]
        words += ["--eval_every", "1000", "--checkpoint_every", "1000"] if flags else []
        busy, spent, began = machine_seconds(), seconds_of(competitor), time.perf_counter()
        process = subprocess.Popen([sys.executable, "run_federated.py", *words], cwd=HERE, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"run_federated.py {flags}: exit code {process.returncode}")
        own = usage.ru_utime + usage.ru_stime + seconds_of(competitor) - spent
        lines = (Path(place) / "run" / "metrics.jsonl").read_text().splitlines()
        rounds = sum(json.loads(line)["round_seconds"] for line in lines)
    return Run(seconds, rounds, max(machine_seconds() - busy - own, 0.0) / seconds)


@contextmanager
def competing() -> Iterator[int]:
    """One process that computes, single-threaded, until the end of the block; its id."""
    process = subprocess.Popen([sys.executable, "-S", "-c", COMPETITOR], start_new_session=True)
    try:
        time.sleep(0.2)
        yield process.pid
    finally:
        process.kill()
        process.wait()


def machine_seconds() -> float:
    """Core seconds that all programs together have used since the machine started; 0 elsewhere than on Linux."""
    try:
        user, nice, system = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:4])
    except OSError:
        return 0.0
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def seconds_of(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(turns: int, data_dir: str, names: list[str]) -> dict[str, list[Run]]:
    """Every command line alone and beside a competitor, in turns; and a part of what was the default run, alone."""
    runs: dict[str, list[Run]] = {}
    for turn in range(1, turns + 1):
        for name in names:
            runs.setdefault(name, []).append(run(RUNS[name], data_dir))
            with competing() as pid:
                runs.setdefault(f"{name}, beside", []).append(run(RUNS[name], data_dir, pid))
        if "default" in names:
            runs.setdefault("gn_cnn", []).append(run(OLD, data_dir))
        print(f"turn {turn} of {turns}", file=sys.stderr, flush=True)
    return runs


def verdicts(runs: dict[str, list[Run]]) -> list[dict[str, Any]]:
    """What was asked, what it was, and the most that it may be."""
    seconds = {name: median(one.seconds for one in many) for name, many in runs.items()}
    rounds = {name: median(one.rounds for one in many) for name, many in runs.items()}
    found: list[tuple[str, float, float]] = []
    if "default" in runs:
        old = seconds["gn_cnn"] + (OLD_ROUNDS - 1) * rounds["gn_cnn"]
        found += [
            ("seconds of the default run", seconds["default"], 45),
            ("default run, times that of gn_cnn", seconds["default"] / old, 0.25),
            ("default run beside, times alone", seconds["default, beside"] / seconds["default"], 2),
        ]
    for name in ("2nn", "logistic"):
        if name in runs:
            found.append((f"{name} rounds beside, times alone", rounds[f"{name}, beside"] / rounds[name], 3))
    return [{"what": what, "value": value, "at_most": most, "held": value <= most} for what, value, most in found]


def table(runs: dict[str, list[Run]], found: list[dict[str, Any]]) -> str:
    lines = ["run                  n   seconds in all       of its rounds     others' cores"]
    for name, many in runs.items():
        cells = [f"{name:18s} {len(many):3d}"]
        for values in zip(*many, strict=True):
            cells.append(f"{median(values):7.2f} ({min(values):.2f} to {max(values):.2f})")
        lines.append("  ".join(cells))
    for one in found:
        lines.append(
            f"{one['what']:36s} {one['value']:7.3f}  at most {one['at_most']}: " + ["missed", "held"][one["held"]]
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--only", action="append", choices=list(RUNS), help="this command line; repeatable")
    parser.add_argument("--data_dir", default=str(HERE / "data"), help="(default: %(default)s)")
    parser.add_argument("--out", default="benchmarks/results", help="folder of the JSON (default: %(default)s)")
    words = parser.parse_args()
    runs = measure(words.turns, words.data_dir, words.only or list(RUNS))
    found = verdicts(runs)
    print(table(runs, found), flush=True)

    import torch

    from fl.device import device_name

    result = {
        "runs": {name: [one._asdict() for one in many] for name, many in runs.items()}, "verdicts": found,
        "torch": torch.__version__, "device": device_name(torch.device("cpu")), "cores": os.cpu_count(),
    }  # fmt: skip
    folder = Path(words.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "beside.json").write_text(json.dumps(result, indent=1) + "\n")
    return int(not all(one["held"] for one in found))


if __name__ == "__main__":
    sys.exit(main())
