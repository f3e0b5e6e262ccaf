"""What an algorithm consists of: what it tells the clients, and what the server makes of the mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fl.engines.engine import Engine
from fl.group import Group
from fl.state import Got, Kept, Report, RoundStart, State, Told


def by_examples(now: RoundStart, reports: Sequence[Report]) -> list[float]:
    """Each client counts as much as it has examples: n_k."""
    return [report.n_k for report in reports]


def alike(now: RoundStart, reports: Sequence[Report]) -> list[float]:
    """Every client counts as much as any other: where noise must hide each of them."""
    return [1.0 for _ in reports]


@dataclass(frozen=True)
class Algorithm:
    """An algorithm, as its functions; Algorithm() is FedAvg. They are pure: none changes what it is given.

    tell(now, clients): what a stack of clients is told beside w_t.
    weights(now, reports): of the clients' parameters in the mean; buffers weigh n_k under every algorithm.
    server(now, got): w_{t+1}, and what survives the round. keep_models: whether `got` has every model.
    prepare(engine, now, mine, group): the same round with what else the clients must be told, such as the full
    gradient, to which every rank adds that of its clients, `mine`.
    transfers: how many vectors as long as the model a client gets, and sends.
    """

    tell: Callable[[RoundStart, Sequence[int]], Told] = lambda now, clients: Told()
    weights: Callable[[RoundStart, Sequence[Report]], list[float]] = by_examples
    server: Callable[[RoundStart, Got], tuple[State, Kept]] = lambda now, got: (got.mean, got.kept)
    keep_models: bool = False
    prepare: Callable[[Engine, RoundStart, Sequence[int], Group], RoundStart] = lambda engine, now, mine, group: now
    transfers: tuple[int, int] = (1, 1)
