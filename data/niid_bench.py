"""How NIID-Bench splits data and adds noise to them, where it differs from data/partition.py.

Li, Diao, Chen and He 2022, Federated Learning on Non-IID Data Silos, arXiv 2102.02079, and its published code.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from data.dataset import Dataset, Split
from data.partition import DIRICHLET_DRAWS, Partition, dirichlet_logits, drawn_in_vain, enough
from fl.errors import FlagError
from fl.rng import seeded


def dirichlet_balanced(
    labels: Tensor, num_clients: int, seed: int, alpha: float = 0.5, min_examples: int = 10
) -> Partition:
    """Label skew with sizes that stay near each other: the rule of NIID-Bench's code, section 4.1 of the paper.

    One label after the other is shared out in proportions drawn from Dirichlet(alpha), but a client that has n / K
    examples already gets no more. A draw that leaves a client with fewer than min_examples is repeated, at most
    DIRICHLET_DRAWS times; then FlagError. labels (n,) int64.
    """
    enough(labels, num_clients, min_examples)
    _, y, counts = labels.unique(return_inverse=True, return_counts=True)
    members = y.argsort(stable=True).split(counts.tolist())
    for draw in range(DIRICHLET_DRAWS):
        with seeded(seed, "partition", draw):
            logits = dirichlet_logits(alpha, (len(counts), num_clients))
            within = [torch.randperm(count) for count in counts.tolist()]
        owners, sizes = torch.empty_like(labels), torch.zeros(num_clients, dtype=torch.int64)
        for label, count in enumerate(counts.tolist()):
            full = sizes * num_clients >= len(labels)
            ends = logits[label].masked_fill(full, -torch.inf).softmax(0).cumsum(0) * count
            last = int((~full).nonzero()[-1])  # rounding may leave the last end below the last cell
            mine = torch.searchsorted(ends, torch.arange(count) + 0.5).clamp_(max=last)
            owners[members[label][within[label]]] = mine
            sizes += torch.bincount(mine, minlength=num_clients)
        if int(sizes.min()) >= min_examples:
            return Partition.from_owners(owners, num_clients)
    raise drawn_in_vain(num_clients, alpha, min_examples)


def noisy(data: Dataset, partition: Partition, sigma: float, seed: int) -> Dataset:
    """The data set with noise in what the clients train on: of variance sigma k / K for client k of K, section 4.2.

    The noise is added before normalisation: to bytes scaled to [0, 1], or to floats as they are. The published code
    does that, too, but draws new noise at every visit of an example, and its standard deviation is sigma k / (K - 1),
    with k from 0. Here the noise of an example is drawn once, on the CPU, so that every engine and device sees the
    same. Bytes become float32, four times as large. Raises FlagError for tokens.
    """
    if not sigma:
        return data
    x, test = data.train.examples, data.test.examples
    if x.dtype == torch.uint8:
        x, test = x / 255, test / 255
    elif x.is_floating_point():
        x = x.clone()
    else:
        raise FlagError(f"--feature_noise {sigma:g}: --dataset {data.name} has words, not numbers; leave the flag out")
    for k, rows in enumerate(partition):
        with seeded(seed, "feature_noise", k):
            noise = torch.randn(len(rows), *x.shape[1:])
        x[rows.to(x.device)] += (noise * (sigma * (k + 1) / len(partition)) ** 0.5).to(x)
    return replace(data, train=Split(x, data.train.targets), test=Split(test, data.test.targets))
