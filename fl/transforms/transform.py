"""What a transform is: what happens to an update between the client that trained it and the server that averages it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

from fl.state import Got, Kept, RoundStart, State, Update


def same_update(now: RoundStart, update: Update) -> Update:
    return update


def same_model(now: RoundStart, mean: State) -> State:
    return mean


def same_round(now: RoundStart, got: Got) -> Got:
    return got


def nothing_kept(w: State) -> Kept:
    return Kept()


def nothing_to_record(now: RoundStart, got: Got) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Transform:
    """client(now, update): what S clients send instead; the tensors of the update may be changed in place.

    server(now, mean): returns the mean as the server uses it; called in the reverse order of the transforms.
    finish(now, got): the same for a transform that needs more than the mean, such as the number of reports, or that
    keeps something on the server.
    bytes(w): the number of bytes that one client uploads; None if it uploads the plain model. keeps(w): a Kept like the
    one that a round leaves, with the server's entries and client 0's, by whose names, shapes and dtypes a checkpoint is
    checked. record(now, got): keys for the round's line in metrics.jsonl.
    """

    client: Callable[[RoundStart, Update], Update] = same_update
    server: Callable[[RoundStart, State], State] = same_model
    bytes: Callable[[State], int] | None = None
    finish: Callable[[RoundStart, Got], Got] = same_round
    keeps: Callable[[State], Kept] = nothing_kept
    record: Callable[[RoundStart, Got], dict[str, Any]] = nothing_to_record

    def undo(self, now: RoundStart, got: Got) -> Got:
        """What the server does before it uses the mean."""
        return self.finish(now, got.with_mean(self.server(now, got.mean)))


def on_plain_tensors(client: Callable[[RoundStart, Update], Update]) -> Callable[[RoundStart, Update], Update]:
    """The client's part of a transform, which may change its update in place and take gradients.

    An engine's models may be tensors of torch's inference mode, with which code outside that mode can do neither.
    """

    @wraps(client)
    def call(now: RoundStart, update: Update) -> Update:
        w = {name: tensor.clone() if tensor.is_inference() else tensor for name, tensor in update.w.items()}
        return client(now, update._replace(w=w))

    return call
