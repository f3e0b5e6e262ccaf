"""What an engine is: how the clients of a round are executed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from fl.state import RoundStart, Tell, Update, tell_nothing


class Engine(Protocol):
    """Trains clients, given in ascending order, from w_t; an Update is good until the next is asked for."""

    def train(self, clients: Sequence[int], now: RoundStart, tell: Tell = tell_nothing) -> Iterator[Update]: ...
