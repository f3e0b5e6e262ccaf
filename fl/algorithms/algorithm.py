"""What an algorithm consists of: what it adds to a client's gradient, and what the server makes of the mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fl.client import Report, State
from fl.config import Config


@dataclass(frozen=True)
class Correction:
    """The update rule of every client, whichever engine executes it.

    In place of the gradient g(w) of a minibatch the optimizer sees

        d(w) = scale (g(w) - g(anchor)) + pull (w - centre) + drift

    with g at both points of the same minibatch, and nothing subtracted without an anchor. `apply` is this line in
    code. Plain SGD with rate eta and lambda of --weight_decay then takes the step

        w <- w - eta (d(w) + lambda w)

    as torch.optim.SGD does. Weights (fl/engines/weights.py) and Delayed (fl/engines/layers.py) fold the two lines
    into one, and must give the same numbers. The difference w - centre is formed before it is multiplied, because
    that is exact near the centre: pull w - pull centre would round at the size of w, which may be more than a whole
    step.

    Everything is elementwise, so that one line serves one client or a stack: drift has a leading dimension, S with
    an entry for each client, or 1; anchor and centre are everyone's, with a leading 1.
    """

    pull: float = 0.0
    centre: State | None = None
    drift: State | None = None
    anchor: State | None = None
    scale: Tensor | None = None  # (S,)

    def of(self, active: int) -> Correction:
        """That of the first `active` clients of the stack."""
        drift = self.drift and {name: tensor[:active] for name, tensor in self.drift.items()}
        return replace(self, drift=drift, scale=None if self.scale is None else self.scale[:active])

    def named(self, names: dict[str, str]) -> Correction:
        """That of one layer: `names` are the layer's own names for its parameters, each with the model's."""

        def own(state: State | None) -> State | None:
            return state and {name: state[full] for name, full in names.items()}

        return replace(self, centre=own(self.centre), drift=own(self.drift), anchor=own(self.anchor))

    def apply(self, name: str, g: Tensor, w: Tensor, at_anchor: Tensor | None) -> None:
        """Correct g (S, ...) in place; w and at_anchor are the parameter and its gradient at the anchor."""
        if at_anchor is not None:
            g.sub_(at_anchor)
        if self.scale is not None:
            g.mul_(along(self.scale, g))
        if self.centre is not None:
            g.add_(w - self.centre[name], alpha=self.pull)
        if self.drift is not None:
            g.add_(self.drift[name])


NO_CORRECTION = Correction()
Correct = Callable[[Sequence[int]], Correction | None]  # of a stack of clients


def uncorrected(clients: Sequence[int]) -> None:
    """FedAvg's correction: none."""


@dataclass
class Memory:
    """What an algorithm keeps from round to round, on the CPU as far as it belongs to single clients."""

    server: dict[str, State] = field(default_factory=dict)
    clients: dict[int, State] = field(default_factory=dict)


@dataclass(frozen=True)
class Situation:
    """A round before its clients train.

    w: w_t. trained: its parameters' names; the others are buffers, which no algorithm moves otherwise than FedAvg.
    n: examples of all K clients together. sizes: n_k of the round's clients. gradient: of the loss over their
    examples at w_t, by parameter, if the algorithm asks for it.
    """

    config: Config
    t: int
    w: State
    trained: Sequence[str]
    n: int
    sizes: dict[int, int]
    memory: Memory
    gradient: State | None = None

    @property
    def parameters(self) -> State:
        """What is trained of w_t."""
        return {name: self.w[name] for name in self.trained}


@dataclass(frozen=True)
class Algorithm:
    """FedAvg, where nothing is given.

    correction(situation, clients) for a stack of clients; None is none.
    weight(situation, report) of a client's parameters in the mean: n_k, which buffers weigh under every algorithm.
    server(situation, mean, reports, models) is w_{t+1}: the mean. models: every model, (m, ...), with `models`.
    transfers: how many vectors as long as the model a client gets, and sends.
    """

    correction: Callable[[Situation, Sequence[int]], Correction | None] = lambda now, clients: None
    weight: Callable[[Situation, Report], float] = lambda now, report: report.n_k
    server: Callable[[Situation, State, Sequence[Report], State | None], State] = lambda now, mean, reports, models: (
        mean
    )
    models: bool = False
    full_gradient: bool = False
    transfers: tuple[int, int] = (1, 1)


def floating(w: State) -> dict[str, Tensor]:
    """What is averaged: all but integer buffers."""
    return {name: tensor for name, tensor in w.items() if tensor.is_floating_point()}


def along(vector: Tensor, like: Tensor) -> Tensor:
    """(m,) shaped to multiply (m, ...)."""
    return vector.view(-1, *[1] * (like.dim() - 1))


def zeros(w: State) -> State:
    return {name: torch.zeros_like(tensor) for name, tensor in w.items()}
