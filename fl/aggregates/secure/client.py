"""A client's side of the protocol, Figure 4 of Bonawitz et al. 2017 without the parts against a server that lies.

It has its update and its secrets, and gives the server messages. A round is over with `answer`, and the next one needs
a new client with new secrets.
"""

from __future__ import annotations

from collections.abc import Callable

from fl.aggregates.secure.fixed_point import Words
from fl.aggregates.secure.keys import add_masks, agreed, opened, private, public_of, sealed
from fl.aggregates.secure.shamir import SHARE_BYTES, shares
from fl.aggregates.secure.wire import KEY_BYTES, SEALED_BYTES, letters, unpacked


class Client:
    """Client k of one round.

    t: the threshold; if fewer than t clients send an update, nobody can unmask the sum. random(n): n fresh secret
    bytes. of_masks, of_mail: the paper's private keys s^SK (for the pairwise masks) and c^SK (to encrypt the shares).
    own: b, the seed of client k's self-mask.
    """

    def __init__(self, k: int, t: int, random: Callable[[int], bytes]):
        self.k, self.t, self.random = k, t, random
        self.secret, self.own = random(32), random(32)  # the two that are shared
        self.of_masks, self.of_mail = private(self.secret), private(random(32))
        self.mask_keys: dict[int, bytes] = {}  # agreed with the others, by their numbers
        self.mail_keys: dict[int, bytes] = {}
        self.mail: dict[int, bytes] = {}

    def advertise(self) -> bytes:
        """Round 0: the two public keys."""
        return public_of(self.of_masks) + public_of(self.of_mail)

    def share_keys(self, message: bytes) -> bytes:
        """Round 1: a sealed letter to each of the others, with its shares of s^SK and of b.

        message: the public keys of the others. The share of the x-th client, counted from 1, is the value at x.
        """
        others = unpacked(message, 2 * KEY_BYTES)
        for v, keys in others.items():
            self.mask_keys[v] = agreed(self.of_masks, keys[:KEY_BYTES], b"mask")
            self.mail_keys[v] = agreed(self.of_mail, keys[KEY_BYTES:], b"mail")
        everyone = sorted([self.k, *others])
        n, coefficients = len(everyone), 40 * (self.t - 1)
        masks = shares(self.secret, self.t, n, self.random(coefficients))
        owns = shares(self.own, self.t, n, self.random(coefficients))
        letter = {v: mask + own for v, mask, own in zip(everyone, masks, owns, strict=True)}
        self.kept = letter.pop(self.k)
        return letters({v: sealed(self.mail_keys[v], self.k, content) for v, content in letter.items()})

    def receive(self, message: bytes) -> None:
        """The letters of the others, which stay sealed until they are needed."""
        self.mail = unpacked(message, SEALED_BYTES)

    def masked(self, words: Words) -> Words:
        """Round 2: y = x + PRG(b) + sum over v > k of PRG(s_kv) - sum over v < k of PRG(s_kv), modulo 2^64.

        words: x (P + 1,), which is overwritten.
        """
        plus = [self.own, *(self.mask_keys[v] for v in self.mail if v > self.k)]
        add_masks(words, plus, [self.mask_keys[v] for v in self.mail if v < self.k])
        return words

    def answer(self, message: bytes) -> bytes:
        """Round 4: for each client that shared keys, ascending, one share: of b if it sent its update, else of its key.

        message: who has sent an update. Never both shares, because together they would take all masks off one
        update. Raises ValueError if so few have sent one that the sum must not be unmasked.
        """
        survivors = unpacked(message, 0)
        if len(survivors) < self.t:
            raise ValueError(f"{len(survivors)} of the {self.t} updates that the sum needs")
        given = []
        for v in sorted([self.k, *self.mail]):
            letter = self.kept if v == self.k else opened(self.mail_keys[v], v, self.mail[v])
            given.append(letter[SHARE_BYTES:] if v in survivors else letter[:SHARE_BYTES])
        return b"".join(given)
