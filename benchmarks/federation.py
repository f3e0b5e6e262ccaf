"""What each feature of a federation adds to a round: devices, privacy, compression, data that change.

    python3 -m benchmarks.federation

MNIST over 100 IID clients of 600 examples, 10 a round, E = 1, B = 10, SGD, the 2NN, stacked engine, one thread. All
features live in this process and take turns round by round, in an order that changes, so that a change of the machine's
speed meets all of them. The figures are processor time, because other programs may take a core for a while, of whole
rounds with their records and without evaluation. A round in which clients were missing does less work and does not
count. A new feature is one line of FEATURES.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

SETTING = "--model 2nn --num_clients 100 --num_select_clients 10 --local_epoch 1 --batch_size 10 --optimizer sgd " \
          "--init_lr 0.05 --engine stacked --device cpu --global_epoch 1000000 --eval_every 1000000000"  # fmt: skip
EXAMPLES = 6000  # of ten clients
PLAIN = "nothing"
PHONES = "--charging 0.9,0.2 --unmetered 0.9,0.4 --idle 0.9,0.3 --decline_rate 0.1 --dropout_rate 0.08 " \
         "--straggler_rate 0.1 --over_select 1.3 --min_reports 7 --examples_per_second 20 --download_mbps 20 " \
         "--upload_mbps 4"  # fmt: skip
FEATURES = {
    PLAIN: "",
    "devices": PHONES,
    # A norm that every client exceeds, and noise so small that training goes on for as many rounds as one likes.
    "clipping": "--clip_norm 0.01",
    "clipping and noise": "--clip_norm 0.01 --noise_multiplier 1",
    "quantise, 8 bits": "--compress quantise --compress_bits 8",
    "quantise, 2 bits": "--compress quantise --compress_bits 2",
    "top_k, 0.1": "--compress top_k --compress_density 0.1",
    "top_k, 0.01": "--compress top_k --compress_density 0.01",
    "random_mask, 0.1": "--compress random_mask --compress_density 0.1",
    "sign": "--compress sign",
    "secure aggregation": "--secure_aggregation",
    # Each client holds all its examples at any time, so that a round does as much work as one without drift.
    "data drift": "--data_drift shift --drift_share 1",
}


def rounds_of(x: Any, flags: str) -> Iterator[dict[str, Any]]:
    """The records of the run's rounds, each with the processor time that it took. Round 0 is not among them."""
    from fl.command_line import parse
    from fl.engines import make_engine
    from fl.recorded import federated_rounds

    x = replace(x, config=parse([*SETTING.split(), *flags.split()], "federated", ""))
    rounds = federated_rounds(x, make_engine("stacked", x))
    next(rounds)
    while True:
        began = time.process_time()
        done = next(rounds)
        yield done.record | {"processor_seconds": time.process_time() - began}


def measure(names: list[str], turns: int) -> dict[str, list[float]]:
    """Processor seconds of the rounds that count, by feature, after two turns to warm up."""
    from fl.command_line import parse
    from fl.experiment import federated

    x = federated(parse(SETTING.split(), "federated", ""))
    running = {name: rounds_of(x, FEATURES[name]) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-2, turns):
        for i in range(len(names)):
            name = names[(turn + i) % len(names)]
            record = next(running[name])
            if turn >= 0 and record["examples"] == EXAMPLES:
                seconds[name].append(record["processor_seconds"])
        print(f"turn {turn + 1} of {turns}", file=sys.stderr)
    return seconds


def table(seconds: dict[str, list[float]]) -> str:
    """A row per feature: rounds, the median with its quartiles in milliseconds, and what it adds to the plain round."""
    plain = median(seconds[PLAIN])
    lines = ["| with | rounds | ms a round, median (quartiles) | more than without |", "|---|---|---|---|"]
    for name, values in seconds.items():
        low, middle, high = (1e3 * value for value in quantiles(values, n=4, method="inclusive"))
        more = "" if name == PLAIN else f"{middle / 1e3 / plain - 1:+.1%}"
        lines.append(f"| {name} | {len(values)} | {middle:.1f} ({low:.1f} to {high:.1f}) | {more} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=40, help="rounds of each feature (default: %(default)s)")
    parser.add_argument("--only", action="append", choices=list(FEATURES), help="this feature; repeatable")
    parser.add_argument("--out", default="benchmarks/results", help="folder of the JSON (default: %(default)s)")
    words = parser.parse_args()
    import torch

    from fl.device import device_name

    torch.set_num_threads(1)
    seconds = measure([PLAIN, *(name for name in words.only or FEATURES if name != PLAIN)], words.turns)
    result = {"processor_seconds": seconds, "torch": torch.__version__, "device": device_name(torch.device("cpu"))}
    folder = Path(words.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "federation.json").write_text(json.dumps(result, indent=1) + "\n")
    print(table(seconds))


if __name__ == "__main__":
    main()
