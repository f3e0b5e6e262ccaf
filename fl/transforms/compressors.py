"""Four ways to send a difference Delta = w_k - w in fewer bytes: --compress.

Delta is one vector of P numbers per client, all floating tensors of the model one after another; `sizes` are their
lengths. Each compressor has two pairs of functions:

    shrink(Delta (S, P), sizes, seeds) -> Message       the compressed updates of S clients
    expand(Message, sizes) -> (S, P)                    the updates that the server reconstructs from them
    pack(Message, sizes) -> bytes                       one client's Message, encoded for the network
    unpack(bytes, sizes, dtype) -> Message              the inverse of pack

A Message is a dict of tensors, (S, ...) each. A simulation calls shrink and then expand, without packing. This gives
the same update, because unpack restores a packed Message bit for bit, as the tests show for every compressor. The
number of bytes depends on the flags, sizes and dtype, not on the values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fl.config import Config
from fl.device import accumulator_dtype
from fl.rng import splitmix64
from fl.transforms.packing import numbers, octets, packed, read, unpacked

Message = dict[str, Tensor]
Sizes = Sequence[int]
FRACTION_BITS = 24  # as many as a float32 has, so that comparing with a random fraction rounds nothing
SEED_BYTES = 8


@dataclass(frozen=True)
class Compressor:
    """See above. length(sizes, itemsize): bytes that pack gives. feeds_back: whether clients keep what they left out.

    seeds: one number per client, from which all that it draws follows.
    """

    shrink: Callable[[Tensor, Sizes, Sequence[int]], Message]
    expand: Callable[[Message, Sizes], Tensor]
    pack: Callable[[Message, Sizes], bytes]
    unpack: Callable[[bytes, Sizes, torch.dtype], Message]
    length: Callable[[Sizes, int], int]
    feeds_back: bool = False

    def encode(self, delta: Tensor, sizes: Sizes, seed: int) -> bytes:
        """delta: (P,)."""
        return self.pack(self.shrink(delta.unsqueeze(0), sizes, [seed]), sizes)

    def decode(self, data: bytes, sizes: Sizes, dtype: torch.dtype) -> Tensor:
        """(P,), what the server makes of it."""
        return self.expand(self.unpack(data, sizes, dtype), sizes)[0]


def none(config: Config) -> None:
    """The models as they are."""


def quantise(config: Config) -> Compressor:
    """Stochastic uniform quantisation of each tensor to 2^bits levels from its least to its greatest value.

    Suresh, Yu, Kumar and McMahan 2017, "Distributed Mean Estimation with Limited Communication", arXiv 1611.00429,
    section 2.2: a value goes up to the next level with the probability that makes its expectation exact, so Delta stays
    unbiased; here up to 2^-24 of a step. The paper has one least and one greatest value for a whole vector; here every
    tensor has its own, because layers move by different amounts. The paper's rotation is left out.
    """
    bits, top = config.compress_bits, 2**config.compress_bits - 1

    def shrink(delta: Tensor, sizes: Sizes, seeds: Sequence[int]) -> Message:
        least, greatest = zip(*(part.aminmax(dim=1) for part in delta.split(list(sizes), 1)), strict=True)
        low = torch.stack(least, 1)  # (S, tensors)
        step = (torch.stack(greatest, 1) - low) / top
        codes = torch.empty_like(delta)
        for part, code, a, width in zip(
            delta.split(list(sizes), 1), codes.split(list(sizes), 1), low.T, step.T, strict=True
        ):
            torch.div(part - a[:, None], torch.where(width == 0, 1, width)[:, None], out=code)
        below = codes.floor()
        chance = codes.sub_(below).mul_(2**FRACTION_BITS)
        return {"low": low, "step": step, "codes": below.add_(draws(seeds, delta) < chance).clamp_(max=top)}

    def expand(message: Message, sizes: Sizes) -> Tensor:
        parts = zip(message["codes"].split(list(sizes), 1), message["step"].T, message["low"].T, strict=True)
        return torch.cat([code * width[:, None] + low[:, None] for code, width, low in parts], 1)

    def pack(message: Message, sizes: Sizes) -> bytes:
        return numbers(message["low"]) + numbers(message["step"]) + packed(message["codes"], bits)

    def unpack(data: bytes, sizes: Sizes, dtype: torch.dtype) -> Message:
        ends, size = len(sizes), dtype.itemsize
        codes = unpacked(data[2 * ends * size :], sum(sizes), bits)
        return {
            "low": read(data, 0, ends, dtype), "step": read(data, ends * size, ends, dtype), "codes": codes.to(dtype),
        }  # fmt: skip

    return Compressor(
        shrink, expand, pack, unpack, lambda sizes, item: 2 * len(sizes) * item + octets(sum(sizes) * bits)
    )


def top_k(config: Config) -> Compressor:
    """The k = density P coordinates of greatest magnitude, with error feedback.

    Stich, Cordonnier and Jaggi 2018, "Sparsified SGD with Memory", arXiv 1809.07599, Algorithm 1. Positions are sent as
    numbers, or as a bit for each coordinate where that is shorter.
    """

    def shrink(delta: Tensor, sizes: Sizes, seeds: Sequence[int]) -> Message:
        chosen = delta.abs().topk(chosen_of(config, sizes), dim=1, sorted=False).indices
        return {"positions": chosen, "values": delta.gather(1, chosen)}

    def pack(message: Message, sizes: Sizes) -> bytes:
        positions, values = in_order(message)
        if as_bits(config, sizes):
            there = torch.zeros(sum(sizes), dtype=torch.int64).index_fill_(0, positions.cpu(), 1)
            return numbers(values) + packed(there, 1)
        return numbers(values) + packed(positions, width_of(sizes))

    def unpack(data: bytes, sizes: Sizes, dtype: torch.dtype) -> Message:
        k = chosen_of(config, sizes)
        rest = data[k * dtype.itemsize :]
        if as_bits(config, sizes):
            positions = unpacked(rest, sum(sizes), 1).nonzero()[:, 1].unsqueeze(0)
        else:
            positions = unpacked(rest, k, width_of(sizes))
        return {"positions": positions, "values": read(data, 0, k, dtype)}

    def length(sizes: Sizes, item: int) -> int:
        k = chosen_of(config, sizes)
        return k * item + octets(sum(sizes) if as_bits(config, sizes) else k * width_of(sizes))

    return Compressor(shrink, scattered, pack, unpack, length, feeds_back=True)


def random_mask(config: Config) -> Compressor:
    """k = density P coordinates drawn anew for each client and round, times P / k so that Delta stays unbiased.

    Konecny, McMahan, Yu, Richtarik, Suresh and Bacon 2016, "Federated Learning: Strategies for Improving Communication
    Efficiency", arXiv 1610.05492, section 3 (subsampling): the mask follows from a seed, which alone is sent.
    """

    def shrink(delta: Tensor, sizes: Sizes, seeds: Sequence[int]) -> Message:
        chosen = drawn(seeds, sizes, delta.device)
        return {
            "seeds": torch.tensor(seeds), "positions": chosen,
            "values": delta.gather(1, chosen) * (sum(sizes) / chosen.shape[1]),
        }  # fmt: skip

    def drawn(seeds: Sequence[int], sizes: Sizes, device: torch.device) -> Tensor:
        """(S, k): where the least k of P random numbers stand, which are distinct."""
        k = chosen_of(config, sizes)
        keys = (splitmix64([seed], sum(sizes), device) for seed in seeds)
        return torch.cat([row.topk(k, dim=1, largest=False, sorted=False).indices for row in keys])

    def pack(message: Message, sizes: Sizes) -> bytes:
        return numbers(message["seeds"]) + numbers(in_order(message)[1])

    def unpack(data: bytes, sizes: Sizes, dtype: torch.dtype) -> Message:
        seeds = read(data, 0, 1, torch.int64)[0]
        positions = drawn(seeds.tolist(), sizes, torch.device("cpu")).sort().values
        values = read(data, SEED_BYTES, positions.shape[1], dtype)
        return {"seeds": seeds, "positions": positions, "values": values}

    return Compressor(shrink, scattered, pack, unpack, lambda sizes, item: SEED_BYTES + chosen_of(config, sizes) * item)


def sign(config: Config) -> Compressor:
    """Each coordinate's sign times the mean magnitude of its tensor, with error feedback.

    Karimireddy, Rebjock, Stich and Jaggi 2019, "Error Feedback Fixes SignSGD and other Gradient Compression Schemes",
    arXiv 1901.09847, Algorithm 2 (EF-signSGD), tensor by tensor. A bit has no third value, so that 0 counts as plus.
    """

    def shrink(delta: Tensor, sizes: Sizes, seeds: Sequence[int]) -> Message:
        # In float64, so that its bits depend neither on the other clients nor on the order of the sum.
        sums = [part.abs().sum(1, dtype=accumulator_dtype(delta.device)) for part in delta.split(list(sizes), 1)]
        scale = torch.stack([total / n for total, n in zip(sums, sizes, strict=True)], 1).to(delta.dtype)
        return {"scale": scale, "plus": delta >= 0}

    def expand(message: Message, sizes: Sizes) -> Tensor:
        signs = message["plus"].to(message["scale"].dtype).mul_(2).sub_(1)
        for part, scale in zip(signs.split(list(sizes), 1), message["scale"].T, strict=True):
            part.mul_(scale[:, None])
        return signs

    def pack(message: Message, sizes: Sizes) -> bytes:
        return numbers(message["scale"]) + packed(message["plus"], 1)

    def unpack(data: bytes, sizes: Sizes, dtype: torch.dtype) -> Message:
        plus = unpacked(data[len(sizes) * dtype.itemsize :], sum(sizes), 1).bool()
        return {"scale": read(data, 0, len(sizes), dtype), "plus": plus}

    return Compressor(
        shrink, expand, pack, unpack, lambda sizes, item: len(sizes) * item + octets(sum(sizes)), feeds_back=True
    )


def chosen_of(config: Config, sizes: Sizes) -> int:
    """k, how many of the P coordinates --compress_density is; at least one."""
    return max(round(config.compress_density * sum(sizes)), 1)


def draws(seeds: Sequence[int], like: Tensor) -> Tensor:
    """(S, P) int32, uniform from 0 to 2^24 - 1: two out of each random number of a client's own stream."""
    P = like.shape[1]
    # Client by client, because the passes over one vector stay in a core's cache.
    rows = [splitmix64([seed], (P + 1) // 2, like.device).view(torch.int32) for seed in seeds]
    return torch.cat(rows)[:, :P].bitwise_and(2**FRACTION_BITS - 1)


def scattered(message: Message, sizes: Sizes) -> Tensor:
    """(S, P): the values at their positions, zeros elsewhere."""
    positions, values = message["positions"], message["values"]
    return values.new_zeros(len(values), sum(sizes)).scatter_(1, positions, values)


def in_order(message: Message) -> tuple[Tensor, Tensor]:
    """One client's positions, ascending, and its values in that order: (k,) each."""
    positions, order = message["positions"][0].sort()
    return positions, message["values"][0][order]


def width_of(sizes: Sizes) -> int:
    """Bits of a position."""
    return max((sum(sizes) - 1).bit_length(), 1)


def as_bits(config: Config, sizes: Sizes) -> bool:
    """Whether a bit for each coordinate is shorter than the positions of those that are sent."""
    return sum(sizes) < chosen_of(config, sizes) * width_of(sizes)
