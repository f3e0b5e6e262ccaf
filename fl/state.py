"""What the parts of a run pass to each other: models, client reports, and a round's start, result and kept state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data.partition import Partition
from fl.cohort import NOBODY, Cohort
from fl.config import Config

State = dict[str, Tensor]  # a state_dict: parameters and buffers by name


class Report(NamedTuple):
    """What client k tells of its training.

    loss: sum over the examples it processed, each before its step; () on the device until the round is over.
    clipped: 1 if a transform has shortened its update, else 0.
    """

    client: int
    n_k: int
    loss: Tensor | float
    examples: int
    steps: int
    clipped: float = 0.0


class Update(NamedTuple):
    """What S clients send back: their reports, and their models stacked: each tensor (S, ...), in that order.

    The tensors belong to the engine, which overwrites them for the next update. kept: by client, the state that it
    keeps until it is called again, such as {"optimizer": a state_dict} with --keep_optimizer_state.
    """

    reports: list[Report]
    w: State
    kept: dict[int, dict[str, Any]] = {}  # noqa: RUF012  never changed


@dataclass(frozen=True)
class Kept:
    """All that survives a round beside the model.

    server: the algorithm's own, such as a velocity, by name. clients: by client k and name, what k keeps until it is
    called again (control variate, optimizer state), on the CPU because it must not fill the device. Every rank
    holds the same, so that any of them can train k next. Never changed in place: a round makes a new one.
    """

    server: dict[str, Any] = field(default_factory=dict)
    clients: dict[int, dict[str, Any]] = field(default_factory=dict)

    def of(self, k: int, name: str) -> Any:
        """What client k keeps under that name; None before its first round."""
        return self.clients.get(k, {}).get(name)

    def with_server(self, **news: Any) -> Kept:
        """The same, and the server's `news` by name."""
        return replace(self, server=self.server | news)

    def with_clients(self, news: dict[int, dict[str, Any]]) -> Kept:
        """The same, and for each client k of `news` its names in place of the old ones."""
        return replace(self, clients=self.clients | {k: self.clients.get(k, {}) | new for k, new in news.items()})


@dataclass(frozen=True)
class Correction:
    """The update rule of every client, whichever engine executes it.

    In place of the gradient g(w) of a minibatch the optimizer sees

        d(w) = scale (g(w) - g(anchor)) + pull (w - centre) + drift

    with g at both points of the same minibatch, and nothing subtracted without an anchor. `apply` is this line in
    code. Plain SGD with rate eta and lambda of --weight_decay then takes the step

        w <- w - eta (d(w) + lambda w)

    as torch.optim.SGD does. Weights and Delayed of the stacked engine fold the two lines into one, and must give the
    same numbers. The difference w - centre is formed before it is multiplied, because that is exact near the centre:
    pull w - pull centre would round at the size of w, which may be more than a whole step.

    Everything is elementwise, so the same line serves one client and a stack of S clients. drift: (S, ...), or (1, ...)
    if it is the same for all clients. anchor, centre: (1, ...), always the same for all clients. Each of these three
    that is not None has all the parameters.
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


class Told(NamedTuple):
    """What the server tells S clients beside w_t: how to correct their gradients, and where they start.

    start: parameters that replace those of w_t, each (S, ...) or (1, ...) for all; those it lacks are w_t's.
    """

    correction: Correction = NO_CORRECTION
    start: State | None = None


Tell = Callable[[Sequence[int]], Told]


def tell_nothing(clients: Sequence[int]) -> Told:
    """What FedAvg tells: w_t alone."""
    return Told()


@dataclass(frozen=True)
class RoundStart:
    """A round before its clients train.

    w: w_t. trained: the names of its parameters; the other tensors are buffers, which every algorithm treats as FedAvg.
    n: examples that all K clients hold together. sizes: n_k of the clients that train. gradient: of the loss over their
    examples at w_t, by parameter, if the algorithm asks for it. cohort: these clients, and the others that were called.
    noise_key: what the noise of the run is drawn from (fl/noise.py). mask_key: the same for what clients keep secret
    (fl/aggregates/secure/). partition: what the clients hold in this round if --data_drift changes that; None if it is
    the same in every round. frozen: parameters that no step moves, because the model wants no gradient of them.
    """

    config: Config
    t: int
    w: State
    kept: Kept
    trained: Sequence[str]
    n: int
    sizes: dict[int, int]
    gradient: State | None = None
    cohort: Cohort = NOBODY
    noise_key: bytes = b""
    mask_key: bytes = b""
    partition: Partition | None = None
    frozen: Sequence[str] = ()

    def epochs_of(self, k: int) -> int:
        """E of client k, which may be stopped before it has done all of --local_epoch."""
        return self.cohort.epochs.get(k, self.config.local_epoch)

    @property
    def parameters(self) -> State:
        """What is trained of w_t."""
        return {name: self.w[name] for name in self.trained}

    @property
    def moving(self) -> State:
        """The parameters without those that are frozen."""
        return {name: w for name, w in self.parameters.items() if name not in self.frozen}


@dataclass(frozen=True)
class Got:
    """What the server has got of a round, the same at every rank.

    mean: the models combined by --aggregate; w_t if no update counts. reports: from the clients whose updates count,
    ascending. rejected: by client, why its update does not count. kept: the Kept from before the round, updated with
    what these clients keep. models: (m, ...) each, the models of these clients in the order of the reports, if the
    algorithm has keep_models. is_noised: whether noise was added to the mean; then the server takes its step even if
    nobody reported. costs: keys of the round's record that the aggregate adds or replaces.
    """

    mean: State
    reports: list[Report]
    rejected: dict[int, str]
    kept: Kept
    models: State = field(default_factory=dict)
    is_noised: bool = False
    costs: dict[str, Any] = field(default_factory=dict)

    def with_mean(self, mean: State) -> Got:
        return replace(self, mean=mean)


class Begun(NamedTuple):
    """Where a run goes on: after round t, with the model w and all else that survived it.

    fresh: the run has not begun yet; w is the initial model, and round 0 is still to be recorded.
    """

    t: int
    w: State
    kept: Kept
    fresh: bool = False


@dataclass(frozen=True)
class Trained:
    """The end of a round: w_{t+1} of the paper, and all else that the next round begins with."""

    now: RoundStart
    w: State
    kept: Kept
    got: Got


def floating(w: State) -> State:
    """The tensors of w that can be averaged: all but integer buffers."""
    return {name: tensor for name, tensor in w.items() if tensor.is_floating_point()}


def along(vector: Tensor, like: Tensor) -> Tensor:
    """(m,) shaped to multiply (m, ...)."""
    return vector.view(-1, *[1] * (like.dim() - 1))


def zeros_as(w: State) -> State:
    """Zeros of the shapes of w."""
    return {name: torch.zeros_like(tensor) for name, tensor in w.items()}
