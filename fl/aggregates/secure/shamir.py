"""Shamir's sharing of a secret: any t of n shares give it back, and t - 1 of them say nothing.

Shamir 1979, "How to Share a Secret". The secret is the constant of a polynomial of degree t - 1 over a prime field, its
other coefficients are random, and the share of x = 1, ..., n is the polynomial's value there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

PRIME = 2**256 + 297  # the smallest prime above 2^256, so that every secret of 32 bytes is a number of the field
SHARE_BYTES = 33  # of a number below PRIME


def shares(secret: bytes, t: int, n: int, random: bytes) -> list[bytes]:
    """The shares of x = 1, ..., n, SHARE_BYTES each.

    secret: 32 bytes. random: 40 (t - 1) secret bytes. A coefficient is the remainder of 40 of these, which is
    uniform up to a part in 2^63.
    """
    rest = [int.from_bytes(random[i : i + 40], "big") % PRIME for i in range(0, 40 * (t - 1), 40)]
    coefficients = [int.from_bytes(secret, "big"), *rest]
    values = []
    for x in range(1, n + 1):
        value = 0
        for coefficient in reversed(coefficients):
            value = (value * x + coefficient) % PRIME
        values.append(value.to_bytes(SHARE_BYTES, "big"))
    return values


def secret_of(some: Mapping[int, bytes]) -> bytes:
    """The secret, 32 bytes, out of t shares by their x. Raises ValueError if they are shares of no such secret."""
    parts = zip(lagrange(tuple(some)), some.values(), strict=True)
    value = sum(weight * int.from_bytes(share, "big") for weight, share in parts) % PRIME
    if value >= 2**256:
        raise ValueError("not the shares of one secret")
    return value.to_bytes(32, "big")


@lru_cache(maxsize=16)
def lagrange(xs: Sequence[int]) -> list[int]:
    """The weights of the values at xs in the polynomial's value at 0."""
    weights = []
    for x in xs:
        above, below = 1, 1
        for other in xs:
            if other != x:
                above, below = above * other % PRIME, below * (other - x) % PRIME
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return weights
