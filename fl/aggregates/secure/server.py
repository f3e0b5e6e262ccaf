"""The server's side of the protocol: public keys, sealed letters and masked updates come in, and one sum goes out.

The server is never given a plain update. Until the end it can read only public keys and vectors that are uniformly
random. At the end it learns the sum, and for each client one secret, which it puts together from shares: the seed of
its own mask if the client sent its update, or else its private key.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fl.aggregates.secure.fixed_point import Words
from fl.aggregates.secure.keys import add_masks, agreed, private
from fl.aggregates.secure.shamir import SHARE_BYTES, secret_of
from fl.aggregates.secure.wire import KEY_BYTES, SEALED_BYTES, letters, numbers, unpacked


class Server:
    """The server of one round. t: how many must answer. length: words of an update.

    total: the sum of what has come. survivors: from whom. down, up: bytes that went to the clients, and came from them.
    """

    def __init__(self, t: int, length: int):
        self.t = t
        self.total: Words = np.zeros(length, dtype=np.uint64)
        self.survivors: set[int] = set()
        self.keys: dict[int, bytes] = {}  # the public keys, by client, ascending
        self.down = self.up = 0

    def advertised(self, messages: Mapping[int, bytes]) -> dict[int, bytes]:
        """Round 0: everyone's public keys, to everyone else."""
        self.keys = dict(sorted(self.got(messages).items()))
        return self.sent({k: letters({v: key for v, key in self.keys.items() if v != k}) for k in self.keys})

    def shared(self, messages: Mapping[int, bytes]) -> dict[int, bytes]:
        """Round 1: sealed letters, to those whom they are for."""
        piles = {k: unpacked(message, SEALED_BYTES) for k, message in self.got(messages).items()}
        return self.sent({k: letters({v: pile[k] for v, pile in piles.items() if v != k}) for k in piles})

    def collect(self, k: int, masked: Words) -> None:
        """Round 2: a masked update (P + 1,) is added up at once, and not kept."""
        self.total += masked
        self.survivors.add(k)
        self.up += masked.nbytes

    def who_answers(self) -> dict[int, bytes]:
        """Round 4: the list of those whose updates are in the sum, to each of them."""
        return self.sent(dict.fromkeys(sorted(self.survivors), numbers(sorted(self.survivors))))

    def unmasked(self, answers: Mapping[int, bytes]) -> Words:
        """The sum of the updates (P + 1,), modulo 2^64. Raises ValueError if fewer than t have answered.

        The self-mask of a survivor is regenerated from its b. If a client dropped out, the survivors' vectors still
        contain the pairwise masks that they share with it; these are regenerated from its private key.
        """
        if len(answers) < self.t:
            raise ValueError(f"{len(answers)} of the {self.t} answers that the sum needs")
        helpers = dict(list(self.got(answers).items())[: self.t])
        x = {k: number for number, k in enumerate(self.keys, 1)}
        plus: list[bytes] = []
        minus: list[bytes] = []
        for v, at in x.items():
            start = (at - 1) * SHARE_BYTES
            secret = secret_of({x[k]: answer[start : start + SHARE_BYTES] for k, answer in helpers.items()})
            if v in self.survivors:
                minus.append(secret)
                continue
            vanished = private(secret)
            for u in self.survivors:
                key = agreed(vanished, self.keys[u][:KEY_BYTES], b"mask")
                (plus if u > v else minus).append(key)  # u < v has added it, and u > v has subtracted it
        add_masks(self.total, plus, minus)
        return self.total

    def got(self, messages: Mapping[int, bytes]) -> Mapping[int, bytes]:
        self.up += sum(map(len, messages.values()))
        return messages

    def sent(self, messages: dict[int, bytes]) -> dict[int, bytes]:
        self.down += sum(map(len, messages.values()))
        return messages
