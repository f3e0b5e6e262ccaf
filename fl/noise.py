"""Normal noise that nobody can foresee: SHAKE-256 makes a stream of bits out of a key of 256 bits.

The key comes from the operating system's secure generator, is the same in every process of a run, and is written
nowhere; so a resumed run has another one. With --insecure_noise the key is a hash of the seed. Each stream follows from
(key, purpose, round, client): no two are drawn from the same bits.

The noise is drawn in float64 and rounded to the model's dtype when it is added. The proofs of differential privacy
assume real numbers, not floating-point numbers. This is a known weakness, and nothing here removes it: Mironov 2012,
"On Significance of the Least Significant Bits for Differential Privacy".
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from fl.config import Config
from fl.flags.privacy import has_noise
from fl.group import Group
from fl.state import State

SECURE = "SHAKE-256 with a key from the system's secure generator"
INSECURE = "SHAKE-256 with the seed as its key: protects nothing"


def generator(config: Config) -> str | None:
    """What the noise of a run comes from, in words; None if it has none."""
    return (INSECURE if config.insecure_noise else SECURE) if has_noise(config) else None


def key_of(config: Config, group: Group) -> bytes:
    """The key of this run, the same at every rank; none for a run without noise."""
    if not has_noise(config):
        return b""
    if config.insecure_noise:
        return hashlib.sha256(f"{config.seed}/noise".encode()).digest()
    return group.secret()


def normals(key: bytes, purpose: str, *number: int, n: int) -> Tensor:
    """(n,) float64 on the CPU: independent standard normal numbers, two of each pair of uniforms (Box and Muller 1958).

    The radius comes from 53 bits, so that no number is larger than 8.6.
    """
    pairs = (n + 1) // 2
    text = "/".join([purpose, *map(str, number)]).encode()
    bits = torch.frombuffer(bytearray(hashlib.shake_256(key + text).digest(16 * pairs)), dtype=torch.int64)
    uniform = (bits >> 11).bitwise_and_(2**53 - 1).double().add_(0.5).mul_(2.0**-53).view(2, pairs)  # in (0, 1)
    radius, angle = uniform[0].log_().mul_(-2).sqrt_(), uniform[1].mul_(2 * math.pi)
    return torch.cat([angle.cos().mul_(radius), angle.sin_().mul_(radius)])[:n]


def noise_like(like: State, deviation: float, key: bytes, purpose: str, *number: int) -> State:
    """Normal noise with that standard deviation for each tensor, in its shape and dtype and on its device."""
    sizes = [tensor.numel() for tensor in like.values()]
    flat = normals(key, purpose, *number, n=sum(sizes)).mul_(deviation)
    parts = zip(like.items(), flat.split(sizes), strict=True)
    return {name: part.view(tensor.shape).to(tensor.dtype).to(tensor.device) for (name, tensor), part in parts}
