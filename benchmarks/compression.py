r"""What each way of compressing updates costs in accuracy, against the bytes that the clients send.

    python3 -m benchmarks.compression
    python3 compare.py 'runs/compression/*' --axes uplink --metric test_accuracy \
        --target_accuracy 0.95 --out docs/compression.png

MNIST over 100 IID clients, 10 a round, E = 1, B = 10, SGD with rate 0.1, the 2NN, 50 rounds. Runs that are there
already are not run again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.runs import records_of

SETTING = "--model 2nn --num_clients 100 --num_select_clients 10 --local_epoch 1 --batch_size 10 --optimizer sgd " \
          "--init_lr 0.1 --global_epoch 50 --quiet --overwrite"  # fmt: skip
WAYS = {
    "none": "--compress none",
    "quantise8": "--compress quantise --compress_bits 8",
    "quantise2": "--compress quantise --compress_bits 2",
    "top_k10": "--compress top_k --compress_density 0.1",
    "top_k1": "--compress top_k --compress_density 0.01",
    "random_mask50": "--compress random_mask --compress_density 0.5",
    "random_mask10": "--compress random_mask --compress_density 0.1",
    "sign": "--compress sign",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out_dir", default="runs/compression", help="folder of the runs (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    words = parser.parse_args()
    for name, flags in WAYS.items():
        accuracies, sent = [], 0
        for seed in range(words.seeds):
            folder = Path(words.out_dir) / f"{name}-seed{seed}"
            records = records_of(folder, f"{SETTING} {flags} --seed {seed}")
            accuracies.append(records[-1]["test_accuracy"])
            sent = records[-1]["uplink_bytes"] // len(records[-1]["clients"])
        shown = ", ".join(f"{value:.2%}" for value in accuracies)
        print(f"{name:14s} {sent:9,} bytes an update   {shown}", flush=True)


if __name__ == "__main__":
    main()
