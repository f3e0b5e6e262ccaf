"""Which client holds which example.

Every partitioner gives each example one owner, so a partition is disjoint and covers the training set by
construction, also where the number of clients does not divide it. A partitioner's keyword arguments are the
flags of the same names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fl.errors import FlagError
from fl.rng import seeded

DIRICHLET_DRAWS = 100


@dataclass(frozen=True)
class Partition:
    """Client k holds the examples indices[offsets[k]:offsets[k + 1]], ascending.

    indices (n,) int64, offsets (K + 1,) int64: two tensors whatever K is, and no copy of the data.
    """

    indices: Tensor
    offsets: Tensor

    @staticmethod
    def from_owners(owners: Tensor, num_clients: int) -> Partition:
        """owners (n,) int64: the client of each example. Raises ValueError unless every client owns at least one."""
        sizes = torch.bincount(owners, minlength=num_clients)
        if len(sizes) != num_clients or int(sizes.min()) < 1:
            missing = [k for k in range(num_clients) if k >= len(sizes) or sizes[k] < 1]
            found = f"client {missing[0]} owns nothing" if missing else f"an owner is {len(sizes) - 1}"
            raise ValueError(f"{found}; expected each of the clients 0 to {num_clients - 1} among the owners")
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
        return Partition(owners.argsort(stable=True), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, k: int) -> Tensor:
        """(n_k,) int64: the examples of client k."""
        start, stop = self.offsets[k : k + 2].tolist()
        return self.indices[start:stop]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[k] for k in range(len(self)))

    def spans_of(self, clients: Sequence[int]) -> list[tuple[int, int]]:
        """Where in `indices` the examples of each client begin, and n_k, without a look at the others."""
        picked = torch.tensor([*clients, *(k + 1 for k in clients)], dtype=torch.int64)
        starts, stops = self.offsets[picked].view(2, -1).tolist()
        return [(start, stop - start) for start, stop in zip(starts, stops, strict=True)]

    def sizes_of(self, clients: Sequence[int]) -> list[int]:
        """n_k of each client."""
        return [n_k for _, n_k in self.spans_of(clients)]

    @property
    def sizes(self) -> Tensor:
        """(K,) int64: n_k."""
        return self.offsets.diff()

    def label_counts(self, labels: Tensor, classes: int) -> Tensor:
        """(K, classes) int64: how many examples of each label each client holds."""
        owners = torch.repeat_interleave(torch.arange(len(self)), self.sizes)
        flat = torch.bincount(owners * classes + labels[self.indices], minlength=len(self) * classes)
        return flat.view(len(self), classes)

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for tensor in (self.offsets, self.indices):
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()


def iid(labels: Tensor, num_clients: int, seed: int) -> Partition:
    """Shuffled and cut into parts whose sizes differ by at most one. labels (n,) int64."""
    enough(labels, num_clients)
    owners = torch.empty_like(labels)
    owners[_shuffle(len(labels), seed)] = near_equal(len(labels), num_clients)
    return Partition.from_owners(owners, num_clients)


def shards(labels: Tensor, num_clients: int, seed: int, shards_per_client: int = 2) -> Partition:
    """The pathological split of McMahan et al. 2017, section 3: sort by label, cut, deal out the shards.

    With two shards a client most clients hold two labels.
    """
    pieces = num_clients * shards_per_client
    if pieces > len(labels):
        raise FlagError(
            f"--shards_per_client {shards_per_client}: with --num_clients {num_clients} that is {pieces} shards, "
            f"and there are {len(labels)} examples; lower one of them"
        )
    owner_of_shard = torch.empty(pieces, dtype=torch.int64)
    owner_of_shard[_shuffle(pieces, seed)] = near_equal(pieces, num_clients)
    owners = torch.empty_like(labels)
    owners[labels.argsort(stable=True)] = owner_of_shard[near_equal(len(labels), pieces)]
    return Partition.from_owners(owners, num_clients)


def dirichlet(labels: Tensor, num_clients: int, seed: int, alpha: float = 0.5, min_examples: int = 1) -> Partition:
    """Label skew: the examples of each class are shared out in proportions drawn from Dirichlet(alpha).

    As in Yurochkin et al. 2019 (arXiv 1905.12022); sizes vary with it. A draw that leaves a client with fewer than
    min_examples is repeated, at most DIRICHLET_DRAWS times; then FlagError.
    """
    enough(labels, num_clients, min_examples)
    counts = torch.bincount(labels)
    order = labels.argsort(stable=True)
    for draw in range(DIRICHLET_DRAWS):
        with seeded(seed, "partition", draw):
            shares = dirichlet_logits(alpha, (len(counts), num_clients)).softmax(dim=1)
            within = [torch.randperm(count) for count in counts.tolist()]
        owners = torch.empty_like(labels)
        for ends, mine, members in zip(
            shares.cumsum(1) * counts[:, None], within, order.split(counts.tolist()), strict=True
        ):
            # The shuffled class is a row of unit cells; a client owns those whose middle lies in its share.
            owner = torch.searchsorted(ends, torch.arange(len(members)) + 0.5).clamp_(max=num_clients - 1)
            owners[members[mine]] = owner
        if int(torch.bincount(owners, minlength=num_clients).min()) >= min_examples:
            return Partition.from_owners(owners, num_clients)
    raise drawn_in_vain(num_clients, alpha, min_examples)


def natural(labels: Tensor, num_clients: int, seed: int, clients: Tensor | None = None) -> Partition:
    """Each client holds what is its own in the data set: clients (n,) int64 says whose each example is.

    num_clients is 0, or as many as there are. Raises FlagError if it is another number, or if `clients` is not known.
    """
    if clients is None:
        raise FlagError(
            "--partition natural: the --dataset does not say whose its examples are; choose another one, or give "
            "--client if it is a table"
        )
    K = int(clients.max()) + 1
    if num_clients not in (0, K):
        raise FlagError(f"--num_clients {num_clients}: the data set has {K} clients of its own; leave the flag out")
    return Partition.from_owners(clients, K)


def quantity(labels: Tensor, num_clients: int, seed: int, alpha: float = 0.5, min_examples: int = 1) -> Partition:
    """Size skew: labels iid; min_examples each, and the rest in proportions drawn from Dirichlet(alpha)."""
    enough(labels, num_clients, min_examples)
    with seeded(seed, "partition", 0):
        share = dirichlet_logits(alpha, (1, num_clients)).softmax(dim=1)[0]
    spare = len(labels) - num_clients * min_examples
    ends = (share.cumsum(0) * spare).round().long().clamp_(0, spare)
    ends[-1] = spare
    sizes = min_examples + ends.diff(prepend=torch.zeros(1, dtype=torch.int64))
    owners = torch.empty_like(labels)
    owners[_shuffle(len(labels), seed)] = torch.repeat_interleave(torch.arange(num_clients), sizes)
    return Partition.from_owners(owners, num_clients)


def enough(labels: Tensor, num_clients: int, min_examples: int = 1) -> None:
    """Raise FlagError if there are fewer than `min_examples` examples for each client."""
    if num_clients > len(labels):
        raise FlagError(f"--num_clients {num_clients}: expected at most {len(labels)}, the number of training examples")
    if num_clients * min_examples > len(labels):
        raise FlagError(
            f"--min_examples {min_examples}: with --num_clients {num_clients} that is {num_clients * min_examples} "
            f"examples, and there are {len(labels)}; lower one of them"
        )


def drawn_in_vain(num_clients: int, alpha: float, min_examples: int) -> FlagError:
    """The error when no draw gave each client its least number of examples."""
    left, lower = "without an example", "or lower --num_clients"
    if min_examples > 1:
        left, lower = f"with fewer than --min_examples {min_examples}", "or lower --num_clients or --min_examples"
    draws = f"{DIRICHLET_DRAWS} Dirichlet draws for --num_clients {num_clients}"
    return FlagError(f"--alpha {alpha:g}: {draws} each left a client {left}; raise --alpha {lower}")


def _shuffle(n: int, seed: int) -> Tensor:
    with seeded(seed, "partition"):
        return torch.randperm(n)


def near_equal(n: int, parts: int) -> Tensor:
    """(n,) int64: the part of each position when range(n) is cut into parts that differ by at most one."""
    return torch.arange(n) * parts // n


def dirichlet_logits(alpha: float, shape: tuple[int, int]) -> Tensor:
    """float64 rows whose softmax is drawn from Dirichlet(alpha): logarithms, because a small alpha underflows.

    G(alpha) has the distribution of G(alpha + 1) U^(1/alpha) (Marsaglia and Tsang 2000).
    """
    a = torch.full(shape, alpha, dtype=torch.float64)
    log_gamma = torch.distributions.Gamma(a + 1, torch.ones_like(a)).sample().log()
    log_uniform = torch.rand(shape, dtype=torch.float64).clamp_(min=1e-300).log()
    return log_gamma + log_uniform / a
