"""What an algorithm consists of: what it tells the clients, and what the server makes of the mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fl.engines.engine import Engine
from fl.group import Group
from fl.state import Got, Kept, Report, RoundStart, State, Told


def by_examples(now: RoundStart, reports: Sequence[Report]) -> list[float]:
    """The default weights: each client's number of training examples, n_k."""
    return [report.n_k for report in reports]


def alike(now: RoundStart, reports: Sequence[Report]) -> list[float]:
    """Equal weights, used if the server adds noise, because the noise must hide every client equally well."""
    return [1.0 for _ in reports]


@dataclass(frozen=True)
class Algorithm:
    """An algorithm, as its functions; Algorithm() is FedAvg. They are pure: none changes what it is given.

    tell(now, clients): what the server sends to S clients beside w_t.
    weights(now, reports): the clients' weights in the mean of the parameters; buffers are always weighted by n_k.
    server(now, got): w_{t+1}, and the Kept for the next round. What an algorithm of the table keeps has the same names
    and shapes from the first round on, however many clients report, because checkpoints are checked against them.
    keep_models: whether got.models has all clients' models.
    prepare(engine, now, mine, group): runs before local training, for an exchange such as that of the full gradient;
    returns `now` with its result. mine: this rank's clients; `group` sums over the ranks.
    transfers: how many model-sized vectors a client downloads and uploads in a round.
    """

    tell: Callable[[RoundStart, Sequence[int]], Told] = lambda now, clients: Told()
    weights: Callable[[RoundStart, Sequence[Report]], list[float]] = by_examples
    server: Callable[[RoundStart, Got], tuple[State, Kept]] = lambda now, got: (got.mean, got.kept)
    keep_models: bool = False
    prepare: Callable[[Engine, RoundStart, Sequence[int], Group], RoundStart] = lambda engine, now, mine, group: now
    transfers: tuple[int, int] = (1, 1)
