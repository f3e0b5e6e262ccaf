"""What every engine is: something that trains the clients of a round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from fl.state import RoundStart, State, Tell, Update, tell_nothing


class Engine(Protocol):
    """How clients are executed.

    An engine holds the resident model, the data on its device, the flags of the local training, and the partition, in
    whose place it takes `now.partition` where there is one. What survives a round is not its own: it reads `now.kept`
    and returns what is new in `Update.kept`, so that whichever process holds the client next can go on.
    fl/engines/sequential.py is the reference, whose result every other engine must give.
    """

    def train(self, clients: Sequence[int], now: RoundStart, tell: Tell = tell_nothing) -> Iterator[Update]:
        """Algorithm 1: w_{t+1}^k <- ClientUpdate(k, w_t), for the given k of S_t.

        Yields the updates of all the clients, one or several at a time, each ascending. Their tensors are good until
        the next update is asked for. tell(k's) is asked once for each client, before it trains.
        """
        ...

    def gradients(self, clients: Sequence[int], now: RoundStart) -> Iterator[tuple[int, State]]:
        """k, and n_k times the gradient of the mean loss over its examples at w_t, by parameter; for the given k."""
        ...
