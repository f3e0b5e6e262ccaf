"""Two jobs by which other simulators report their speed: our seconds on this machine, and Flower's beside them.

    BENCHMARK_CIFAR=FOLDER python3 -m benchmarks.rivals

blazefl   LeNet on CIFAR-10, all of 100 clients, five rounds of E = 5 and B = 50 at a rate of 0.1. BlazeFL
          (arXiv 2604.03606) reports about 30 s, and 93 s for Flower, on 32 cores and four GPUs.
flute     logistic regression on MNIST, 10 of 1,000 clients, 100 rounds of B = 10 at a rate of 0.03, evaluated every 20.
          FLUTE (arXiv 2203.13789) reports 95 s on a GPU and 200 s on CPUs.

Ours are run_federated.py's command lines with its own choice of engine, each evaluated and recorded as any run is.
Flower trains without evaluation, and its first round is left out, because its processes load their data then. Its
seconds for the whole job are scaled from the rounds that were run. Without BENCHMARK_CIFAR the pixels are made up.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.contenders import IMAGES, WORKLOADS
from benchmarks.rounds import HERE, Contender

ROUNDS = {"blazefl": 5, "flute": 100}
REPORTED = {
    "blazefl": {"blazefl": 30, "flower": 93, "on": "32 cores and four GPUs", "source": "arXiv 2604.03606"},
    "flute": {"flute, GPU": 95, "flute, CPUs": 200, "source": "arXiv 2203.13789"},
}


def flags_of(job: str, rounds: int) -> list[str]:
    flags = {"local_epoch": 1, "optimizer": "sgd"} | WORKLOADS[job] | {"global_epoch": rounds}
    if job == "flute":
        flags["eval_every"] = 20
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def ours(job: str, rounds: int) -> dict[str, Any]:
    """A run in a process of its own. seconds: from its start to its end; of its rounds, and of its evaluations."""
    with tempfile.TemporaryDirectory() as place:
        words = flags_of(job, rounds)
        command = [sys.executable, "run_federated.py", *words, "--quiet", "--run_dir", f"{place}/run"]
        began = time.perf_counter()
        done = subprocess.run(command, cwd=HERE, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
        if done.returncode:
            raise SystemExit(f"run_federated.py {' '.join(words)}: exit code {done.returncode}")
        records = [json.loads(line) for line in (Path(place) / "run" / "metrics.jsonl").read_text().splitlines()]
    return {
        "command": "python3 run_federated.py " + " ".join(words),
        "rounds": rounds,
        "seconds": seconds,
        "round_seconds": [record["round_seconds"] for record in records if record["round"]],
        "evaluate_seconds": sum(record.get("evaluate_seconds") or 0 for record in records),
        "test_accuracy": records[-1]["test_accuracy"],
    }


def flower(job: str, rounds: int) -> dict[str, Any]:
    """Seconds of some of Flower's rounds after its first."""
    contender = Contender("flower, 2 actors", job)
    contender.turn(1 + rounds)
    contender.close()
    if contender.trouble:
        return {"left_out": contender.trouble}
    return {"rounds": rounds, "round_seconds": contender.seconds[1:], "first_round": contender.seconds[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", action="append", choices=list(ROUNDS), help="repeatable (default: both)")
    parser.add_argument("--rounds", type=int, default=0, help="of ours (default: all of the job)")
    parser.add_argument("--flower_rounds", type=int, default=1, help="of Flower's, 0 for none (default: %(default)s)")
    parser.add_argument("--out", default="benchmarks/results", help="folder of the JSON (default: %(default)s)")
    words = parser.parse_args()
    import torch

    folder = Path(words.out)
    folder.mkdir(parents=True, exist_ok=True)
    for job in words.job or ROUNDS:
        whole, own = ROUNDS[job], ours(job, words.rounds or ROUNDS[job])
        result = {"job": job, "rounds": whole, "images": IMAGES["dataset"] if job == "blazefl" else "mnist",
                  "ours": own, "reported": REPORTED[job], "torch": torch.__version__}  # fmt: skip
        trained = sum(own["round_seconds"])
        print(
            f"{job}: {own['seconds']:.1f} s in all for {own['rounds']} of {whole} rounds, of which {trained:.1f} s "
            f"training and {own['evaluate_seconds']:.1f} s evaluation; test accuracy {own['test_accuracy']:.2%}"
        )
        if words.flower_rounds:
            result["flower"] = peer = flower(job, words.flower_rounds)
            if "left_out" in peer:
                print(f"  Flower left out: {peer['left_out']}")
            else:
                each, mine = median(peer["round_seconds"]), trained / own["rounds"]
                print(f"  Flower: {each * whole:.1f} s for {whole} rounds at {each:.2f} s, the median of "
                      f"{peer['rounds']}; ours at {mine:.2f} s, {each / mine:.1f} times as fast")  # fmt: skip
        print(f"  they report: {REPORTED[job]}", flush=True)
        (folder / f"rivals-{job}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
