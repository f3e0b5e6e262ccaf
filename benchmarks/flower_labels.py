r"""Who has which labels in the replication of NIID-Bench in Flower's repository, as its published code draws it.

    python3 run_federated.py @configs/niid_bench/fashion_mnist-labels_2-fedavg.txt \
        --partition benchmarks/flower_labels.py:drawn

How well averaging does on Fashion-MNIST with two labels a client depends on which labels those are. This asks what our
runs reach with theirs. Flower's code draws them with NumPy's generator and the seed 42, whatever --seed is; NumPy comes
with Matplotlib. Which examples of a label a client gets is drawn from --seed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from data.partition import Partition, among_holders
from fl.errors import FlagError
from fl.rng import seeded

SEED = 42  # `dataset_seed` in adap/flower, baselines/niid_bench (commit 1599d01)


def holders(num_clients: int, classes: int, labels_per_client: int) -> Tensor:
    """(K, C) bool: client i holds label i mod C, then draws among all labels until it has enough different ones."""
    draws = np.random.default_rng(SEED)
    holds = torch.zeros(num_clients, classes, dtype=torch.bool)
    for i in range(num_clients):
        holds[i, i % classes] = True
        while holds[i].sum() < labels_per_client:
            holds[i, draws.integers(classes)] = True
    return holds


def drawn(labels: Tensor, num_clients: int, seed: int, labels_per_client: int) -> Partition:
    """For `--partition`. labels (n,) int64. Raises FlagError for more labels a client than there are, or for a label
    that nobody holds, or that has more holders than examples.
    """
    C, flag = len(labels.unique()), f"--labels_per_client {labels_per_client}"
    if labels_per_client > C:
        raise FlagError(f"{flag}: expected at most {C}, the number of labels")
    with seeded(seed, "partition"):
        within = torch.rand(len(labels), dtype=torch.float64)
    return among_holders(labels, holders(num_clients, C, labels_per_client), within, flag)
