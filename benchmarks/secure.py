"""What secure aggregation costs in time and bytes, against the plain mean.

    python3 -m benchmarks.secure

Both train the same rounds on MNIST dealt at random to 100 clients (E = 1, B = 10, SGD), by turns, on one thread. The
first round of each is left out. Seconds are medians over rounds, evaluation excluded. In some lines a share of the
clients drops out; their masks are then still in the sum, and the server has to generate them again.
"""

from __future__ import annotations

import argparse
import os
import platform
from statistics import median
from typing import Any

import torch

from fl.command_line import parse
from fl.engines import make_engine
from fl.experiment import federated
from fl.recorded import federated_rounds

COMMON = "--optimizer sgd --local_epoch 1 --batch_size 10 --num_clients 100 --device cpu --eval_every 1000"
WORKLOADS = {
    "2NN, m = 10": "--model 2nn --init_lr 0.1 --num_select_clients 10",
    "2NN, m = 10, 20 % vanish": "--model 2nn --init_lr 0.1 --num_select_clients 10 --dropout_rate 0.2",
    "2NN, m = 50": "--model 2nn --init_lr 0.1 --num_select_clients 50",
    "2NN, m = 50, 20 % vanish": "--model 2nn --init_lr 0.1 --num_select_clients 50 --dropout_rate 0.2",
    "paper CNN, m = 10": "--model cnn --init_lr 0.1 --num_select_clients 10",
}


def measure(words: str, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """The records of the rounds after the first, plain and secure, without those that the secure run abandoned."""
    runs = {}
    for name, more in (("plain", ""), ("secure", " --secure_aggregation")):
        config = parse(f"{COMMON} {words} --global_epoch {rounds + 1}{more}".split(), "federated", "")
        x = federated(config)
        runs[name] = federated_rounds(x, make_engine("stacked", x))
    found = [{name: next(run).record for name, run in runs.items()} for _ in range(rounds + 2)][2:]
    kept = [turn for turn in found if "abandoned" not in turn["secure"]]
    return {name: [turn[name] for turn in kept] for name in runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", choices=list(WORKLOADS))
    words = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}, one thread of {os.cpu_count()} cores")
    print("| | rounds | seconds a round, plain | secure | of which protocol | bytes up, plain | secure | other bytes |")
    print("|---|---|---|---|---|---|---|---|")
    for name in [words.only] if words.only else WORKLOADS:
        runs = measure(WORKLOADS[name], words.rounds)
        plain, secure = (
            {key: median(record[key] for record in records) for key in records[0] if key.endswith(("seconds", "bytes"))}
            for records in runs.values()
        )
        print(
            f"| {name} | {len(runs['secure'])} | {plain['round_seconds']:.3f} | {secure['round_seconds']:.3f} "
            f"| {secure['secure_seconds']:.3f} | {plain['uplink_bytes']:,.0f} | {secure['uplink_bytes']:,.0f} "
            f"| {secure['secure_bytes']:,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
