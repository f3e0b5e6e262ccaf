"""What every engine is: something that trains the clients of a round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from fl.state import RoundStart, State, Tell, Update, tell_nothing


class Engine(Protocol):
    """How clients are executed.

    An engine on this machine holds the model, the data on its device, the flags of local training, and the partition,
    which `now.partition` replaces if it is set. An engine keeps no client state between rounds: it reads `now.kept` and
    returns the new state in `Update.kept`, so that any process can train the client next.
    fl/engines/sequential.py is the reference, whose result every other engine must give.
    """

    def train(self, clients: Sequence[int], now: RoundStart, tell: Tell = tell_nothing) -> Iterator[Update]:
        """Algorithm 1: w_{t+1}^k <- ClientUpdate(k, w_t), for the given k of S_t.

        Yields the updates of all the clients, one or several clients at a time, in ascending order. An update's tensors
        are valid until the next update is requested. tell(clients) is called before these clients train, and once for
        each client.
        """
        ...

    def gradients(self, clients: Sequence[int], now: RoundStart) -> Iterator[tuple[int, State]]:
        """k, and n_k times the gradient of the mean loss over its examples at w_t, by parameter; for the given k."""
        ...
