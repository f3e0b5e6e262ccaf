"""What an algorithm consists of: what it adds to a client's gradient, and what the server makes of the mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fl.state import Correction, Report, RoundStart, State


@dataclass(frozen=True)
class Algorithm:
    """FedAvg, where nothing is given.

    correction(situation, clients) for a stack of clients; None is none.
    weight(situation, report) of a client's parameters in the mean: n_k, which buffers weigh under every algorithm.
    server(situation, mean, reports, models) is w_{t+1}: the mean. models: every model, (m, ...), with `models`.
    transfers: how many vectors as long as the model a client gets, and sends.
    """

    correction: Callable[[RoundStart, Sequence[int]], Correction | None] = lambda now, clients: None
    weight: Callable[[RoundStart, Report], float] = lambda now, report: report.n_k
    server: Callable[[RoundStart, State, Sequence[Report], State | None], State] = lambda now, mean, reports, models: (
        mean
    )
    models: bool = False
    full_gradient: bool = False
    transfers: tuple[int, int] = (1, 1)
