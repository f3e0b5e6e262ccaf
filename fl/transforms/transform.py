"""What a transform is: what happens to an update between the client that trained it and the server that averages it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fl.state import RoundStart, State, Update


def same_update(now: RoundStart, update: Update) -> Update:
    return update


def same_model(now: RoundStart, mean: State) -> State:
    return mean


@dataclass(frozen=True)
class Transform:
    """client(now, update): what S clients send instead; the tensors of the update may be changed in place.

    server(now, mean): what the server makes of the mean, in the reverse order of the transforms.
    bytes(state): of a client's upload, where they are not those of the plain model.
    """

    client: Callable[[RoundStart, Update], Update] = same_update
    server: Callable[[RoundStart, State], State] = same_model
    bytes: Callable[[State], int] | None = None
