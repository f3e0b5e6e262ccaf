r"""What a fifth of the clients can do, and what the aggregation rules make of it.

    python3 -m benchmarks.attacks
    python3 compare.py 'runs/attacks/*' --axes rounds --out docs/attacks.png --label 'mean, no attack' \
        --label 'geometric median' --label Krum --label mean --label median --label multi-Krum --label 'trimmed mean'

20 clients with IID shares of MNIST, all in every round, E = 1, B = 10, SGD with rate 0.1, the 2NN. Four clients send
w - 10 (w_k - w) (--attack sign_flip). Runs that are there already are not run again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.runs import records_of

SETTING = "--model 2nn --num_clients 20 --num_select_clients 20 --local_epoch 1 --batch_size 10 --optimizer sgd " \
          "--init_lr 0.1 --global_epoch 20 --quiet --overwrite"  # fmt: skip
ATTACK = "--attack sign_flip --attackers 0.2 --attack_scale 10"
RULES = {
    "mean": "--aggregate mean",
    "median": "--aggregate median",
    "trimmed_mean": "--aggregate trimmed_mean --trim 0.25",
    "krum": "--aggregate krum --byzantine 4",
    "multi_krum": "--aggregate multi_krum --byzantine 4",
    "geometric_median": "--aggregate geometric_median",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out_dir", default="runs/attacks", help="folder of the runs (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    words = parser.parse_args()
    flags = {"clean": RULES["mean"]} | {name: f"{rule} {ATTACK}" for name, rule in RULES.items()}
    clean: list[float] = []
    for name, more in flags.items():
        accuracies = []
        for seed in range(words.seeds):
            folder = Path(words.out_dir) / f"{name}-seed{seed}"
            accuracies.append(records_of(folder, f"{SETTING} {more} --seed {seed}")[-1]["test_accuracy"])
        clean = clean or accuracies
        lost = [100 * (a - b) for a, b in zip(clean, accuracies, strict=True)]
        shown = ", ".join(f"{value:.2%}" for value in accuracies)
        print(f"{name:18s} {shown}   points below the clean run, at most: {max(lost):.2f}", flush=True)


if __name__ == "__main__":
    main()
