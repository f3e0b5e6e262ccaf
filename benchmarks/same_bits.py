"""Whether two checkouts train the same models to the last bit: every engine, algorithm, rule and attack.

    python3 -m benchmarks.same_bits OLD NEW      # two checkouts, such as those of `git worktree add`

Each command line below is run in both, on one thread, and the `model_sha256` of their summaries is compared. Then runs
that OLD began are resumed with NEW. Exit code 1 if a line differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
SMALL = "--num_clients 200 --num_select_clients 5 --global_epoch 3 --local_epoch 2 --batch_size 20 --quiet --device cpu"
SGD = "--optimizer sgd --init_lr 0.05"
LINES = {
    "gn_cnn, sequential": "federated --engine sequential --model gn_cnn --global_epoch 1",
    "gn_cnn, stacked": "federated --engine stacked --model gn_cnn --global_epoch 1",
    "paper CNN, stacked": f"federated --engine stacked --model cnn {SGD} --global_epoch 1",
    "two stacked convolutions": f"federated --engine stacked --stack_size 2 --model small_cnn {SGD} --global_epoch 2",
    "two workers": "federated --engine distributed --workers 2 --model small_cnn",
    "2NN, sequential": f"federated --engine sequential --model 2nn {SGD}",
    "2NN, stacked, weight decay": f"federated --model 2nn {SGD} --weight_decay 1e-3",
    "momentum, ragged clients": f"federated --model 2nn {SGD} --momentum 0.9 --partition quantity",
    "Adam, Dirichlet": "federated --model 2nn --init_lr 1e-3 --partition dirichlet --alpha 0.3",
    "whole data set as minibatch": f"federated --model logistic {SGD} --batch_size 0",
    "rates that decay, shards": f"federated --model logistic {SGD} --lr_decay 0.9 --partition shards --seed 3",
    "kept optimizer state": f"federated --model logistic {SGD} --momentum 0.9 --keep_optimizer_state",
    "kept Adam state": "federated --model 2nn --init_lr 1e-3 --keep_optimizer_state --num_clients 8",
    "bf16": f"federated --model 2nn {SGD} --precision bf16 --engine stacked",
    "fedsgd": f"federated --algorithm fedsgd --model logistic {SGD} --local_epoch 1 --batch_size 0",
    "fedprox": f"federated --algorithm fedprox --proximal_mu 0.1 --model 2nn {SGD}",
    "fedprox with Adam": "federated --algorithm fedprox --proximal_mu 0.1 --model 2nn --init_lr 1e-3",
    "fedavgm": f"federated --algorithm fedavgm --model 2nn {SGD}",
    "fedadagrad": f"federated --algorithm fedadagrad --server_momentum 0.9 --model 2nn {SGD}",
    "fedadam": f"federated --algorithm fedadam --model 2nn {SGD}",
    "fedyogi": f"federated --algorithm fedyogi --model 2nn {SGD}",
    "scaffold": f"federated --algorithm scaffold --model 2nn {SGD} --num_clients 10",
    "scaffold, two workers": f"federated --algorithm scaffold --model 2nn {SGD} --num_clients 10 --workers 2",
    "fednova": f"federated --algorithm fednova --model 2nn {SGD} --partition quantity",
    "fsvrg": f"federated --algorithm fsvrg --model logistic {SGD} --init_lr 1",
    "median": f"federated --aggregate median --model logistic {SGD} --attack sign_flip",
    "trimmed mean": f"federated --aggregate trimmed_mean --model logistic {SGD} --attack gaussian --attack_scale 1",
    "Krum": f"federated --aggregate krum --model logistic {SGD} --attack scaled",
    "multi-Krum": f"federated --aggregate multi_krum --model logistic {SGD} --attack label_flip",
    "geometric median": f"federated --aggregate geometric_median --model logistic {SGD}",
    "baseline": "baseline --model 2nn --init_lr 1e-3 --epoch 1",
    "baseline with momentum": f"baseline --model logistic {SGD} --momentum 0.9 --epoch 2 --batch_size 100",
}
RESUMED = {  # begun by OLD with two rounds, ended by NEW with four
    "resumed": f"federated --model 2nn {SGD}",
    "resumed, kept optimizer state": f"federated --model logistic {SGD} --momentum 0.9 --keep_optimizer_state",
    "resumed, scaffold": f"federated --algorithm scaffold --model logistic {SGD} --num_clients 10",
    "resumed, fedadam": f"federated --algorithm fedadam --model logistic {SGD}",
    "resumed, baseline": f"baseline --model logistic {SGD} --momentum 0.9",
}

DRIVER = """
import json, sys, torch
torch.set_num_threads(1)
import run_baseline, run_federated
if __name__ == "__main__":
    codes = []
    for script, argv in json.load(sys.stdin):
        codes.append({"federated": run_federated, "baseline": run_baseline}[script].run(argv))
    print("\\n" + json.dumps(codes))
"""


def run(checkout: Path, jobs: list[tuple[str, list[str]]]) -> list[int]:
    """The exit codes of (script, flags) command lines, one after another in a process of that checkout."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout)}
    with tempfile.TemporaryDirectory() as folder:  # a file, so that workers can import it
        driver = Path(folder) / "driver.py"
        driver.write_text(DRIVER)
        done = subprocess.run([sys.executable, str(driver)], input=json.dumps(jobs), cwd=checkout, env=env,
                              stdout=subprocess.PIPE, text=True, check=True)  # fmt: skip
    codes: list[int] = json.loads(done.stdout.splitlines()[-1])
    return codes


def sha256(folder: Path) -> str:
    try:
        return str(json.loads((folder / "summary.json").read_text())["model_sha256"])
    except OSError:
        return "none"


def job(line: str, folder: Path, data_dir: str, *more: str) -> tuple[str, list[str]]:
    script, *flags = line.split()
    return script, [*SMALL.split(), *flags, "--data_dir", data_dir, "--run_dir", str(folder), *more]


def resumed(line: str, folder: Path) -> tuple[str, list[str]]:
    return line.split()[0], ["--resume", "--run_dir", str(folder), "--global_epoch", "4", "--epoch", "4", "--quiet"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--data_dir", default=str(HERE / "data"))
    words = parser.parse_args()
    sides = {"old": words.old.resolve(), "new": words.new.resolve()}
    with tempfile.TemporaryDirectory() as temporary:
        place, short = Path(temporary), ("--global_epoch", "2", "--epoch", "2")
        for side, checkout in sides.items():
            jobs = [job(line, place / side / name, words.data_dir) for name, line in LINES.items()]
            jobs += [job(line, place / side / name, words.data_dir, *short) for name, line in RESUMED.items()]
            run(checkout, jobs)
        # OLD ends its own runs, NEW ends copies of them.
        for name in RESUMED:
            subprocess.run(["cp", "-r", str(place / "old" / name), str(place / "new" / f"{name}, by new")], check=True)
        run(sides["old"], [resumed(line, place / "old" / name) for name, line in RESUMED.items()])
        run(sides["new"], [resumed(line, place / "new" / f"{name}, by new") for name, line in RESUMED.items()])
        differing = 0
        for name in (*LINES, *RESUMED):
            old = sha256(place / "old" / name)
            new = sha256(place / "new" / (name if name in LINES else f"{name}, by new"))
            differing += (same := old == new and old != "none") is False
            print(f"{'same     ' if same else 'DIFFERENT'}  {name:32s} {old[:16]}  {new[:16]}")
    print(f"{len(LINES) + len(RESUMED) - differing} of {len(LINES) + len(RESUMED)} command lines have the same bits")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
