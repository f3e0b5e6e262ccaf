"""Partitions by the labels that clients hold: --labels_per_client labels at random, or the sets of --label_sets."""

from __future__ import annotations

import torch
from torch import Tensor

from data.partition import Partition, near_equal
from fl.errors import FlagError
from fl.flags.flag import sets
from fl.rng import seeded


def labels_only(labels: Tensor, num_clients: int, seed: int, labels_per_client: int = 2) -> Partition:
    """Each client holds examples of c labels only: client i of label i mod C and of c - 1 others, drawn at random.

    Each label's examples are shuffled and shared out equally among its owners. NIID-Bench's "#C = c": Li, Diao, Chen
    and He 2022, arXiv 2102.02079, section 4.1. Raises FlagError if a label has no owner, or an owner no example.
    """
    C, c = len(labels.unique()), labels_per_client
    if c > C:
        raise FlagError(f"--labels_per_client {c}: expected at most {C}, the number of labels")
    with seeded(seed, "partition"):
        own = torch.arange(num_clients) % C
        others = torch.stack([torch.randperm(C - 1)[: c - 1] for _ in range(num_clients)])  # (K, c - 1)
        within = torch.rand(len(labels), dtype=torch.float64)
    others += others >= own[:, None]  # of the labels other than the client's own
    holds = torch.zeros(num_clients, C, dtype=torch.bool).scatter_(1, torch.cat([own[:, None], others], 1), True)
    told = f"--labels_per_client {c}: with --num_clients {num_clients}, "
    return among_holders(labels, holds, within, told, "raise one of the two, or lower it")


def label_sets(labels: Tensor, num_clients: int, seed: int, label_sets: str) -> Partition:
    """Each client holds the labels of its set, which are counted from 0 in ascending order: "0,7;1,6" for two clients.

    Each label's examples are shuffled and shared out equally among its owners. Raises FlagError for a label that does
    not exist, for one without an owner, and for an owner without an example.
    """
    C = len(labels.unique())
    holds = torch.zeros(num_clients, C, dtype=torch.bool)
    for k, held in enumerate(sets(label_sets)):
        if held[-1] >= C:
            raise FlagError(f"--label_sets {label_sets}: has {held[-1]}; expected labels from 0 to {C - 1}")
        holds[k, held] = True
    with seeded(seed, "partition"):
        within = torch.rand(len(labels), dtype=torch.float64)
    return among_holders(labels, holds, within, f"--label_sets {label_sets}: ", "change the sets")


def among_holders(labels: Tensor, holds: Tensor, within: Tensor, told: str, way_out: str) -> Partition:
    """Each label's examples, shared out equally among the clients that hold it.

    labels (n,) int64. holds (K, C) bool: whether client k holds the c-th of the labels in ascending order. within (n,):
    a label's examples are shared out in ascending order of it. Raises FlagError if nobody holds a label, or more
    clients than it has examples; `told` and `way_out` are the beginning and the end of its line.
    """
    present, y = labels.unique(return_inverse=True)
    owners = torch.empty_like(y)
    for c, label in enumerate(present.tolist()):
        mine, members = holds[:, c].nonzero().flatten(), (y == c).nonzero().flatten()
        if len(mine) == 0 or len(mine) > len(members):
            shared = f"{len(mine)} clients would share the {len(members)} examples of label {label}"
            raise FlagError(f"{told}{shared}; {way_out}")
        owners[members[within[members].argsort()]] = mine[near_equal(len(members), len(mine))]
    return Partition.from_owners(owners, len(holds))
