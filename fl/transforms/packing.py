"""Numbers to bytes and back, with as few bits for each as it takes: NumPy packs the bits."""

from __future__ import annotations

from math import ceil

import numpy as np
import torch
from torch import Tensor


def octets(bits: int) -> int:
    return ceil(bits / 8)


def numbers(tensor: Tensor) -> bytes:
    """The values as they lie in memory."""
    return tensor.cpu().numpy().tobytes()


def read(data: bytes, start: int, count: int, dtype: torch.dtype) -> Tensor:
    """(1, count): the reverse."""
    return torch.frombuffer(bytearray(data), dtype=dtype, count=count, offset=start).unsqueeze(0)


def packed(codes: Tensor, width: int) -> bytes:
    """Whole numbers from 0 to 2^width - 1, each in `width` bits, the most significant first."""
    octets_of = codes.cpu().flatten().numpy().astype(">u4").view(np.uint8).reshape(-1, 4)
    return np.packbits(np.unpackbits(octets_of, axis=1)[:, 32 - width :]).tobytes()


def unpacked(data: bytes, count: int, width: int) -> Tensor:
    """(1, count) int64: the reverse."""
    bits = np.zeros((count, 32), dtype=np.uint8)
    bits[:, 32 - width :] = np.unpackbits(np.frombuffer(data, np.uint8), count=count * width).reshape(count, width)
    return torch.from_numpy(np.packbits(bits, axis=1).view(">u4").astype(np.int64)).view(1, count)
