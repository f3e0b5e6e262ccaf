"""The memory that each stacked client costs, by model: how much more a round takes with more clients in the stack.

    BENCHMARK_DEVICE=cuda python3 -m benchmarks.memory --out benchmarks/results

On a GPU it is the most that PyTorch held at once; on a CPU the most that the process held, in which a difference of
a few megabytes means nothing. B = 10 and 60 examples a client: more examples take no more memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.contenders import JOBS, ON_GPU, WORKLOADS, config_of


def one(workload: str, stacks: list[int]) -> list[int]:
    """Bytes that a round of S stacked clients adds to the data and the model, for S in `stacks`, ascending."""
    import torch

    from fl.engines import make_engine
    from fl.experiment import federated
    from fl.recorded import federated_rounds

    found = []
    base = 0
    for S in stacks:
        c = config_of(workload, num_clients=1000, num_select_clients=S, stack_size=S, engine="stacked", batch_size=10,
                      local_epoch=1, global_epoch=2)  # fmt: skip
        x = federated(c)
        gc.collect()
        if ON_GPU:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            base = torch.cuda.memory_allocated()
        else:
            base = base or most_so_far()
        for _ in federated_rounds(x, make_engine("stacked", x)):
            pass
        found.append((torch.cuda.max_memory_allocated() if ON_GPU else most_so_far()) - base)
        del x
    return found


def most_so_far() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(workload: str, stacks: list[int]) -> dict[str, Any]:
    """`one` in a process of its own, and what a client more costs between the smallest and the largest stack."""
    command = [sys.executable, "-m", "benchmarks.memory", "--one", workload, "--stacks", *map(str, stacks)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return {"workload": workload, "failed": done.returncode}
    found: list[int] = json.loads(done.stdout.splitlines()[-1])
    each = (found[-1] - found[0]) / (stacks[-1] - stacks[0])
    return {"workload": workload, "stacks": stacks, "bytes": found, "bytes_a_client": each}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS), help="repeatable (default: all)")
    parser.add_argument("--stacks", nargs="+", type=int, default=[1, 10, 50], help="clients (default: %(default)s)")
    parser.add_argument("--one", choices=list(WORKLOADS), help=argparse.SUPPRESS)
    parser.add_argument("--out", default="benchmarks/results", help="folder of the JSON (default: %(default)s)")
    words = parser.parse_args()
    if words.one:
        print(json.dumps(one(words.one, words.stacks)))
        return
    workloads = words.workload or [name for name in WORKLOADS if name not in JOBS]
    rows = [measure(workload, words.stacks) for workload in workloads]
    for row in rows:
        if "failed" in row:
            print(f"{row['workload']:10s} failed with exit code {row['failed']}")
        else:
            shown = ", ".join(f"{value / 1e6:.1f}" for value in row["bytes"])
            each = row["bytes_a_client"] / 1e6
            print(f"{row['workload']:10s} S = {row['stacks']}: {shown} MB; {each:.2f} MB a client")
    folder = Path(words.out)
    folder.mkdir(parents=True, exist_ok=True)
    device = os.environ.get("BENCHMARK_DEVICE", "cpu").partition(":")[0]
    (folder / f"memory-{device}.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
