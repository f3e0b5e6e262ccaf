"""Every algorithm at its tuned rates: rounds to 95 % and accuracy after 100 rounds on pathological shards.

    python3 -m benchmarks.algorithms

MNIST, the 2NN, K = 100 clients of two shards each, C = 0.1, E = 5, B = 10, SGD (McMahan et al. 2017, section 3). The
rates are tuned on seed 0, by the accuracy after 100 rounds (mean of the last five), then run with three seeds. Each
run has a folder of its own in --out_dir, for compare.py; if it has a summary already, it is not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.runs import records_of, spread
from fl.records.reading import rounds_to_target

SETTING = "--model 2nn --partition shards --num_clients 100 --client_fraction 0.1 --batch_size 10 --optimizer sgd"
TARGET = 0.95
# What is tuned: for each algorithm the flags, and the values that are tried in every combination.
SERVER = {"init_lr": (0.05, 0.1), "server_lr": (0.01, 0.03)}
GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    "fedavg": {"init_lr": (0.03, 0.05, 0.1, 0.2)},
    "fedsgd": {"init_lr": (0.1, 0.3, 0.5, 1.0)},
    "fedprox": {"init_lr": (0.05, 0.1), "proximal_mu": (0.001, 0.01, 0.1)},
    "fedavgm": {"init_lr": (0.02, 0.05), "server_momentum": (0.5, 0.7)},
    "fedadagrad": {"init_lr": (0.05, 0.1), "server_lr": (0.03, 0.1), "server_momentum": (0.9,)},
    "fedadam": SERVER,
    "fedyogi": SERVER,
    "scaffold": {"init_lr": (0.02, 0.05, 0.1)},
    "fednova": {"init_lr": (0.03, 0.05, 0.1, 0.2)},
    "fsvrg": {"init_lr": (0.3, 1.0, 5.0)},
}


def run(folder: Path, algorithm: str, flags: dict[str, float], rounds: int, seed: int) -> list[dict[str, Any]]:
    """The records of a run, from its folder if it is there."""
    words = f"{SETTING} --algorithm {algorithm} --global_epoch {rounds} --seed {seed} --quiet --overwrite"
    if algorithm != "fedsgd":
        words += " --local_epoch 5"
    else:
        words = words.replace("--batch_size 10 ", "")
    words += f" --checkpoint_every {rounds} --target_accuracy {TARGET}"
    return records_of(
        folder, " ".join([words, *(f"--{key}={value:g}" for key, value in flags.items())]), may_diverge=True
    )


def final(records: list[dict[str, Any]], rounds: int) -> float:
    """Mean accuracy of the last five rounds; 0 for a run that diverged."""
    return mean(record["test_accuracy"] for record in records[-5:]) if len(records) == rounds + 1 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100, help="rounds of every run (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the tuned runs (default: %(default)s)")
    parser.add_argument("--only", action="append", choices=list(GRIDS), help="this algorithm; repeatable")
    parser.add_argument("--out_dir", default="runs/algorithms", help="folder of the runs (default: %(default)s)")
    parser.add_argument("--out", default="benchmarks/results", help="folder of the JSON (default: %(default)s)")
    words = parser.parse_args()
    rows = {}
    for algorithm in words.only or GRIDS:
        grid = GRIDS[algorithm]
        tried = []
        for values in product(*grid.values()):
            flags = dict(zip(grid, values, strict=True))
            name = "-".join([algorithm, *(f"{key}={value:g}" for key, value in flags.items())])
            records = run(Path(words.out_dir) / f"{name}-seed0", algorithm, flags, words.rounds, 0)
            tried.append((final(records, words.rounds), name, flags))
            print(f"{name}: {tried[-1][0]:.2%}", file=sys.stderr, flush=True)
        _, name, flags = max(tried, key=lambda one: one[0])
        runs = [
            run(Path(words.out_dir) / f"{name}-seed{seed}", algorithm, flags, words.rounds, seed)
            for seed in range(words.seeds)
        ]
        rows[algorithm] = {
            "flags": flags,
            "tried": [{"flags": f, "accuracy": accuracy} for accuracy, _, f in tried],
            "rounds_to_target": [rounds_to_target(records, TARGET) for records in runs],
            "accuracy": [final(records, words.rounds) for records in runs],
        }
        print(line(algorithm, rows[algorithm], words.rounds), flush=True)
    folder = Path(words.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "algorithms.json").write_text(json.dumps(rows, indent=1) + "\n")


def line(algorithm: str, row: dict[str, Any], rounds: int) -> str:
    """A row of the table in docs/algorithms.md."""
    needed, accuracy = row["rounds_to_target"], row["accuracy"]
    reached = [value for value in needed if value is not None]
    if len(reached) == len(needed):
        to_target = spread(reached, "{:.0f}")
    else:
        to_target = f"over {rounds} in {len(needed) - len(reached)} of {len(needed)}"
    flags = ", ".join(f"{key} {value:g}" for key, value in row["flags"].items())
    return f"| {algorithm} | {flags} | {to_target} | {spread([100 * a for a in accuracy], '{:.2f}')} |"


if __name__ == "__main__":
    main()
