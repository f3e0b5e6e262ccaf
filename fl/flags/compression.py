"""The flags of compressed updates: a part of the table in fl/config.py, which is one with the others."""

from __future__ import annotations

import dataclasses

from fl.flags.flag import FEDERATED, choice, flag, integer, number
from fl.transforms import COMPRESSORS

GROUP = "Compression"


@dataclasses.dataclass(frozen=True)
class Compression:
    """In how many bytes a client sends its update."""

    # fmt: off
    compress: str = flag("none", GROUP, choice(COMPRESSORS), "how updates are made smaller before clients send them", reads=FEDERATED)
    compress_bits: int = flag(8, GROUP, integer(1, high=16), "bits per value: each tensor is rounded to 2^bits levels", reads=FEDERATED)
    compress_density: float = flag(0.1, GROUP, number(0, 1, "(0, 1]"), "share of the values that are sent", reads=FEDERATED)
    # fmt: on
