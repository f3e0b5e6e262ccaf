"""Updates as whole numbers modulo 2^64, in which masks cancel exactly.

Client k sends round(2^s n_k (w_k - w)), each value clipped to [-RANGE, RANGE] before, and as one more value n_k. The
scale s is the largest with which no sum of a round can wrap: n RANGE 2^s <= 2^62, where n counts the examples of all
clients, so that the sum of n_k is at most n.

The mean that comes out differs from the one before coding by at most 2^-(s + 1) in each value, because each client
rounds by at most a half, and n_k is at least 1. With the 60,000 examples of MNIST s is 38. If numbers had 32 bits,
the weights and the range would leave 6 for the fraction, which is why they have 64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]  # sums of them wrap, as they should
RANGE = 2.0**8  # no weight of a model in use changes by so much in a round


def scale_of(n: int) -> int:
    """s, for n examples of all clients together."""
    return 62 - 8 - (n - 1).bit_length()


def encoded(delta: npt.NDArray[np.float64], weight: int, scale: int) -> Words:
    """(P + 1,): the words of weight delta (P,), and the weight."""
    words = np.empty(len(delta) + 1, dtype=np.int64)
    words[:-1] = np.rint(np.clip(delta, -RANGE, RANGE) * (weight * 2.0**scale))
    words[-1] = weight
    return words.view(np.uint64)


def decoded(total: Words, scale: int) -> tuple[npt.NDArray[np.float64], int]:
    """The weighted sum of the updates (P,), and that of the weights, out of the sum of words (P + 1,)."""
    signed: Any = total.view(np.int64)
    return signed[:-1] * 2.0**-scale, int(signed[-1])
