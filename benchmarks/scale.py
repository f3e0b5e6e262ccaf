"""How a round's cost grows: with K at the same m, with m, and with the number of workers.

    python3 -m benchmarks.scale --out benchmarks/results

K runs from 100 to 1,000,000 clients of six examples each, shared between clients where MNIST has too few: the
partition grows, a client's work does not. Logistic regression, since the less a client computes the more any
cost that grows with K would show.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

PER_CLIENT = 6


def one(K: int, m: int, rounds: int) -> dict[str, Any]:
    """Median seconds of a round of `m` of `K` clients, and the memory of the process, in this process."""
    import torch

    from benchmarks.contenders import config_of
    from data.partition import Partition
    from fl.engines import make_engine
    from fl.experiment import federated
    from fl.recorded import federated_rounds

    torch.set_num_threads(1)
    c = config_of("logistic", num_clients=K, num_select_clients=m, global_epoch=rounds, engine="stacked")
    x = federated(replace(c, num_clients=m))
    # Clients share the pixels, and only indices of examples are many: client k holds PER_CLIENT of them, from anywhere.
    n = len(x.data.train)
    examples = (torch.arange(K * PER_CLIENT) * 7919) % n
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    partition = Partition(examples, torch.arange(K + 1) * PER_CLIENT)
    partition_bytes = partition.indices.nbytes + partition.offsets.nbytes
    x = replace(x, config=c, partition=partition)
    engine = make_engine("stacked", x)
    seconds = [r.record["round_seconds"] for r in federated_rounds(x, engine) if r.t > 5]
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"K": K, "m": m, "seconds": median(seconds), "partition_bytes": partition_bytes,
            "memory_bytes": after * 1024, "grown_bytes": (after - before) * 1024}  # fmt: skip


def child(*words: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.scale", "--one", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def workers(count: int) -> float:
    """Median seconds of a round of the paper's CNN in `count` processes, its first round left out."""
    from benchmarks.rounds import Contender

    contender = Contender(f"workers {count}", "cnn")
    contender.turn(4)
    contender.close()
    if contender.trouble:
        raise SystemExit(contender.trouble)
    return median(contender.seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=2, type=int, metavar=("K", "m"), help=argparse.SUPPRESS)
    parser.add_argument("--repeat", type=int, default=5, help="processes for each K, in turns (default: %(default)s)")
    parser.add_argument("--out", default="benchmarks/results", help="folder of the JSON (default: %(default)s)")
    words = parser.parse_args()
    if words.one:
        print(json.dumps(one(*words.one, rounds=205)))
        return
    began = time.time()
    result: dict[str, Any] = {"by_K": [], "by_m": [], "by_workers": []}
    sizes = (100, 1_000, 10_000, 100_000, 1_000_000)
    runs: dict[int, list[dict[str, Any]]] = {K: [] for K in sizes}
    for _ in range(words.repeat):
        for K in sizes:
            runs[K].append(child(K, 10))
    print("      K   m  seconds a round  against K=100  memory MB  of which partition MB")
    for K in sizes:
        row = runs[K][0] | {key: median(run[key] for run in runs[K]) for key in ("seconds", "memory_bytes")}
        result["by_K"].append(row | {"all_seconds": [run["seconds"] for run in runs[K]]})
        print(
            f"{K:8d}  {row['m']:3d}  {row['seconds']:.6f}  {row['seconds'] / result['by_K'][0]['seconds']:6.2f}"
            f"  {row['memory_bytes'] / 1e6:9.0f}  {row['partition_bytes'] / 1e6:8.1f}"
        )
    for m in (1, 10, 100, 1000):
        row = child(10_000, m)
        result["by_m"].append(row)
        print(f"{10_000:8d} {m:4d}  {row['seconds']:.6f}  {row['seconds'] / m * 1e6:8.1f} microseconds a client")
    for count in (1, 2):
        seconds = workers(count)
        result["by_workers"].append({"workers": count, "seconds": seconds})
        print(f"cnn, {count} workers: {seconds:.3f} s a round")
    folder = Path(words.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scale.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{time.time() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
