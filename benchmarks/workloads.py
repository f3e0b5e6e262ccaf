"""Rows of the table in docs/data.md: each workload federated, and centralised on the same number of examples.

    python3 -m benchmarks.workloads --images my_cifar10 --text input.txt --table breast_cancer.csv

Each run has a folder of its own in --out_dir, which compare.py can read. A run whose folder has a summary already is
not run again. Each process has one thread, and --jobs of them run at once, so the seconds are those of one core. Rows
whose data is not given are shown as not run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.runs import spread

HERE = Path(__file__).resolve().parents[1]
CIFAR = "@configs/cifar_lenet.txt --dataset folder --data_dir {images}"
ROWS: dict[str, str] = {
    "MNIST, the default run": "",
    "CIFAR-10, LeNet, IID": CIFAR,
    "CIFAR-10, LeNet, Dirichlet 0.5": f"{CIFAR} --partition dirichlet_balanced",
    "CIFAR-10, LeNet, two labels a client": f"{CIFAR} --partition labels",
    "Shakespeare, balanced": "@configs/shakespeare_iid.txt --text {text}",
    "Shakespeare, roles": "@configs/shakespeare_roles.txt --text {text}",
    "a table, three sites": "@configs/table_sites.txt --data_dir {table}",
    "Synthetic(1, 1)": "@configs/synthetic.txt",
}
FILES = ("images", "text", "table")
SEEDS = {"Shakespeare, balanced": 1, "Shakespeare, roles": 1}  # where more would take hours


def run(script: str, flags: str, folder: Path) -> dict[str, Any]:
    """The summary of a run, from its folder if it is there."""
    summary = folder / "summary.json"
    if not summary.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, f"run_{script}.py", *flags.split(), "--quiet", "--resume", "--run_dir", str(folder)]
        one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=HERE, env=one_thread, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{folder}: exit code {done.returncode}: {done.stderr.strip()}")
    result: dict[str, Any] = json.loads(summary.read_text())
    return result


def both(name: str, flags: str, seed: int, out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The federated run and the centralised one that matches it."""
    folder = out.resolve() / "".join(c if c.isalnum() else "-" for c in name) / f"seed{seed}"
    federated = run("federated", f"{flags} --seed {seed}", folder / "federated")
    print(f"{name}, seed {seed}: federated {federated['test_accuracy']:.2%}", file=sys.stderr, flush=True)
    centralised = run("baseline", f"--match {folder / 'federated'}", folder / "baseline")
    print(f"{name}, seed {seed}: centralised {centralised['test_accuracy']:.2%}", file=sys.stderr, flush=True)
    return federated, centralised


def line(name: str, flags: str, results: list[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """A row of the table: accuracies in per cent, seconds a federated run."""
    accuracies = [[100 * run["test_accuracy"] for run in runs] for runs in zip(*results, strict=True)]
    seconds = [federated["wall_seconds"] for federated, _ in results]
    federated, centralised = (spread(values, "{:.2f}") for values in accuracies)
    return f"| {name} | {len(results)} | {federated} | {centralised} | {mean(seconds):.0f} | `{flags}` |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", help="folder of CIFAR-10 as images, train/<class>/ and test/<class>/")
    parser.add_argument("--text", help="the text of Shakespeare's plays")
    parser.add_argument("--table", help="the CSV file of docs/your_data.md")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each row (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at once (default: one per core)")
    parser.add_argument("--only", action="append", choices=list(ROWS), help="this row; repeatable")
    parser.add_argument("--out_dir", default="runs/workloads", help="folder of the runs (default: %(default)s)")
    parser.add_argument("--out", default="benchmarks/results", help="folder of the JSON (default: %(default)s)")
    words = parser.parse_args()
    given = {name: Path(path).resolve() for name in FILES if (path := getattr(words, name))}
    chosen, missing = {}, []
    for name in words.only or ROWS:
        if all(file in given for file in FILES if f"{{{file}}}" in ROWS[name]):
            chosen[name] = ROWS[name].format(**given)
        else:
            missing.append(name)
    with ThreadPoolExecutor(words.jobs) as pool:
        jobs = {
            name: [
                pool.submit(both, name, flags, seed, Path(words.out_dir))
                for seed in range(min(words.seeds, SEEDS.get(name, words.seeds)))
            ]
            for name, flags in chosen.items()
        }
        rows = {name: [job.result() for job in of_name] for name, of_name in jobs.items()}
    print("| workload | n | federated | centralised | seconds | flags |\n|---|---|---|---|---|---|")
    for name, results in rows.items():
        print(line(name, ROWS[name], results))
    for name in missing:
        print(f"| {name} | not run | | | | `{ROWS[name]}` |")
    path = Path(words.out) / "workloads.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = ("test_accuracy", "test_loss", "rounds", "wall_seconds", "model_sha256", "parameters")
    content = {
        name: [{"federated": {k: f[k] for k in kept}, "centralised": {k: c[k] for k in kept}} for f, c in results]
        for name, results in rows.items()
    }
    earlier = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(earlier | content, indent=1) + "\n")


if __name__ == "__main__":
    main()
