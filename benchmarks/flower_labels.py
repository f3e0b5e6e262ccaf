"""Which labels each client has in the replication of NIID-Bench in Flower's repository, as its code draws them.

    python3 -m benchmarks.flower_labels        # of two labels a client, and of three: what --label_sets takes

How well averaging does with few labels a client depends on which labels those are. Flower's code (adap/flower,
baselines/niid_bench, commit 1599d01) draws them with NumPy's generator and the seed 42. fl/published/niid_bench.json
has what this prints.
"""

from __future__ import annotations

import numpy as np

SEED = 42


def drawn(c: int, num_clients: int = 10, classes: int = 10) -> str:
    """Client i has label i mod C, then draws among all labels until it has c different ones: "0,7;1,6;..."."""
    draws = np.random.default_rng(SEED)
    found = [{i % classes} for i in range(num_clients)]
    for held in found:
        while len(held) < c:
            held.add(int(draws.integers(classes)))
    return ";".join(",".join(map(str, sorted(held))) for held in found)


if __name__ == "__main__":
    for c in (2, 3):
        print(f"labels_{c}: {drawn(c)}")
