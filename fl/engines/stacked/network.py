"""What takes a step of S networks at once: one interface, whoever forms the gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from fl.state import NO_CORRECTION, Correction, State


class Network(Protocol):
    """S copies of a model, of which the first `active` train.

    A round is `start_round` and then blocks of steps; a block is `start_block`, its steps 0, 1, ... and `finish_block`.
    Either plain SGD is folded into the steps, or they leave their gradients in `gradients` for an optimizer.
    """

    @property
    def parameters(self) -> State:
        """By state_dict name, (S, ...) each. They stay where they are, because a recorded graph holds addresses."""
        ...

    @property
    def active(self) -> int: ...

    def start_round(
        self, w: State, eta: float = 0.0, decay: float = 0.0, correction: Correction = NO_CORRECTION
    ) -> None:
        """All S clients begin with w, and train. See Weights.start_round, also for what folded steps take."""

    def keep_first(self, active: int) -> None:
        """From now on only the first `active` clients train."""

    def start_block(self, x: Tensor, counts: Sequence[int]) -> None:
        """x (S, L, B, ...): what the clients see in their next steps; client i takes counts[i] <= L of them."""

    def step(self, s: int, target: Tensor, weight: Tensor, logits: Tensor) -> None:
        """Step s of the block for every active client.

        target (classes, columns): the example's weight at its label, else 0. weight (columns,): 1 / b_k for an example,
        0 for padding. logits (classes, columns): where to write them. Example b of client i is column i B + b.
        """

    def finish_block(self) -> None:
        """The block is over: every parameter is up to date."""

    def gradients(self) -> list[Tensor]:
        """Where the gradients are put, (active, ...) each, in the order of the parameters; not if they are folded."""
        ...


def by_client(columns: Tensor, shape: Sequence[int]) -> Tensor:
    """(classes, columns) seen as those of the active clients: (S, B, classes)."""
    return columns.as_strided(shape, (shape[1], 1, columns.stride(0)), columns.storage_offset())


def first_clients(tensor: Tensor, active: int) -> Tensor:
    """tensor[:active], and no call where that is all of it."""
    return tensor if len(tensor) == active else tensor[:active]
