"""How accurate models are on each client's own test examples.

A model that all clients share is tested in one pass over the test examples of all clients, which are stored client
after client. If each client has its own model, the models are loaded one after another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from data.dataset import IGNORED
from data.partition import Partition
from fl.client import load_state
from fl.evaluate import CHUNK
from fl.experiment import Experiment
from fl.group import Group
from fl.state import Kept, State

Models = Iterable[tuple[int, State]]  # client k and its own model


def tested_clients(x: Experiment) -> list[int]:
    """Those with test examples, ascending."""
    return held_out_of(x).sizes.nonzero().flatten().tolist()  # type: ignore[no-any-return]


def held_out_of(x: Experiment) -> Partition:
    assert x.held_out, "needs --client_test_fraction"
    return x.held_out


def client_accuracies(x: Experiment, w: State, kept: Kept, group: Group) -> Tensor:
    """(c,) float64, by tested client: the accuracy of the model w, or of w with the layers that the client keeps."""
    if x.personal:
        mine = tested_clients(x)[group.rank :: group.size]
        return accuracies_of(x, ((k, w | own_layers(x, kept, k)) for k in mine), group)
    rows = held_out_of(x).indices.to(x.device)
    load_state(x.model, w)
    chunk = CHUNK.get(x.device.type, 1000)
    starts = range(0, len(rows), chunk)[group.rank :: group.size]
    return _accuracies(x, ((slice(at, at + chunk), hits(x, rows[at : at + chunk])) for at in starts), group)


def own_layers(x: Experiment, kept: Kept, k: int) -> State:
    """The layers that client k keeps, on the device; none before its first round, when they are those of w_0."""
    return {name: tensor.to(x.device) for name, tensor in (kept.of(k, "personal") or {}).items()}


def accuracies_of(x: Experiment, models: Models, group: Group) -> Tensor:
    """(c,) float64, by tested client: the accuracy of its own model. models: (k, w_k) of the clients of this rank."""
    tests = held_out_of(x)

    def each() -> Iterator[tuple[slice, Tensor]]:
        for k, w_k in models:
            load_state(x.model, w_k)
            yield slice(*tests.offsets[k : k + 2].tolist()), hits(x, tests[k].to(x.device))

    return _accuracies(x, each(), group)


@torch.inference_mode()
def hits(x: Experiment, rows: Tensor) -> Tensor:
    """(n,) int64: how many targets of the examples `rows` (n,) the resident model gets right, never augmented."""
    x.model.eval()
    parts = []
    for some in rows.split(CHUNK.get(x.device.type, 1000)):
        y = x.data.train.targets[some]
        parts.append((x.model(x.data.inputs(some)).argmax(1) == y).view(len(some), -1).sum(1))
    x.model.train()
    return torch.cat(parts)


def _accuracies(x: Experiment, parts: Iterable[tuple[slice, Tensor]], group: Group) -> Tensor:
    """(c,) float64. parts: hits of this rank, each with the slice of the clients' test examples that they belong to."""
    tests = held_out_of(x)
    right = torch.zeros(len(tests.indices), dtype=torch.int64, device=x.device)
    for where, some in parts:
        right[where] = some
    targets = x.data.train.targets[tests.indices.to(x.device)].view(len(right), -1)
    right, counted = group.sum(right).cpu(), (targets != IGNORED).sum(1).cpu()
    there = tests.sizes > 0
    return sums(right, tests)[there].double() / sums(counted, tests)[there]


def sums(values: Tensor, tests: Partition) -> Tensor:
    """(K,): the sum over each client's examples of values (n,)."""
    running = torch.cat([values.new_zeros(1), values.cumsum(0)])
    return running[tests.offsets[1:]] - running[tests.offsets[:-1]]


def spread(accuracies: Tensor) -> dict[str, float]:
    """The mean of accuracies (c,), their standard deviation, and the mean of the worst tenth.

    All clients have equal weight. The standard deviation divides by c, not c - 1, because these are all clients and not
    a sample. The worst tenth is the max(floor(c / 10), 1) clients with the lowest accuracies.
    """
    worst = accuracies.sort().values[: max(len(accuracies) // 10, 1)]
    return {
        "mean": float(accuracies.mean()),
        "std": float(accuracies.std(correction=0)),
        "worst_decile": float(worst.mean()),
    }
