"""The weighted mean of Algorithm 1, exact in any order and grouping of the clients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fl.device import send
from fl.group import Group
from fl.state import RoundStart, State, Update

CHUNK = 1 << 17  # values at once: the passes of a float64 sum over so many stay in a core's cache
COARSE = 1.5 * 2.0**32  # adding and subtracting this rounds a float64 below 2^31 to a multiple of 2^-20


class WeightedMean:
    """w_{t+1} <- sum over k in S_t of n_k / n w_{t+1}^k, with n the examples of the clients that reported.

    Algorithm 1 of McMahan et al. 2017. Updates are added as they come, so the cohort need not be in memory at
    once, and partial sums of several workers may be added up: the result has the same bits whatever the order
    and the grouping. For that each product n_k w (in float64: exact for float32 w and n_k below 2^29) is split
    into a multiple of 2^-20 and a remainder rounded to a multiple of a still smaller power of two, chosen so
    that neither sum over the cohort can round (Demmel and Nguyen 2015, "Parallel reproducible summation").
    This holds while the sum of n_k |w| stays below 2^31. If all models are equal, the mean equals them bit for
    bit where |w| is 0 or at least 2^-47 m. Weights that are not numbers of examples may have any size if
    `largest` is given: if it is not in [1, 2^29), they are scaled by a power of two, which is exact.

    Integer buffers (BatchNorm's counter) have no meaningful mean: the maximum is taken.
    """

    def __init__(self, like: State, m: int, largest: float = 1.0):
        """like: a state_dict with the names, shapes, dtypes and device of the updates; m: cohort size, at most.

        largest: the largest weight, the same for every worker; if it is between 1 and 2^29, weights are not scaled.
        """
        self.like = like
        self.floating = [name for name, tensor in like.items() if tensor.is_floating_point()]
        self.integers = [name for name in like if name not in self.floating]
        self.sizes = [like[name].numel() for name in self.floating]
        device = next(iter(like.values())).device
        if device.type == "mps":
            device = torch.device("cpu")  # Apple's GPUs have no float64
        # Of multiples of 2^-20, and of remainders.
        self.sums = torch.zeros(2, sum(self.sizes), dtype=torch.float64, device=device)
        self.maxima: State = {}
        exponent = math.frexp(largest)[1] - 1
        self.shift = 0 if 0 <= exponent < 29 else -exponent  # weights are multiplied by 2^shift
        # m remainders of at most 2^-21 each add up to less than half of this constant.
        self.fine = 1.5 * 2.0 ** (math.ceil(math.log2(max(m, 1))) - 19)

    def add(self, w: State, n_k: Sequence[float]) -> None:
        """w: the models of len(n_k) clients, stacked: each tensor (S, ...). n_k: their weights."""
        S = len(n_k)
        n_k = [math.ldexp(weight, self.shift) for weight in n_k]
        weights = send(n_k, torch.float64, self.sums.device).unsqueeze(1)  # (S, 1)
        width = max(CHUNK // S, 1)
        start = 0
        for names in together(self.floating, self.sizes, width):
            parts = [w[name].reshape(S, -1).to(self.sums.device) for name in names]
            stack = parts[0] if len(parts) == 1 else torch.cat(parts, 1)  # (S, P)
            for v in stack.split(width, 1):
                v = v.to(torch.float64, copy=True).mul_(weights)
                coarse = (v + COARSE).sub_(COARSE)
                remainder = v.sub_(coarse).add_(self.fine).sub_(self.fine)
                stop = start + v.shape[1]
                self.sums[0, start:stop].add_(coarse.sum(0) if S > 1 else coarse[0])
                self.sums[1, start:stop].add_(remainder.sum(0) if S > 1 else remainder[0])
                start = stop
        for name in self.integers:
            stacked = w[name].amax(0)
            self.maxima[name] = torch.maximum(self.maxima.get(name, stacked), stacked)

    def gather(self, group: Group, more: Tensor) -> Tensor:
        """Add up the sums of all ranks, and `more` of each, float64 of equal shapes, in the same reduction.

        Returns the sum of the latter.
        """
        if group.size == 1:
            return more
        both = group.sum(torch.cat([self.sums.flatten(), more.to(self.sums.device).flatten()]))
        sums, more = both[: self.sums.numel()], both[self.sums.numel() :].view_as(more)
        self.sums = sums.view(2, -1)
        for name in self.integers:
            like = self.like[name]
            if like.dtype == torch.bool:  # of which processes cannot take the maximum
                self.maxima[name] = group.max(self.maxima.get(name, torch.zeros_like(like)).to(torch.uint8)).bool()
                continue
            lowest = torch.full_like(like, torch.iinfo(like.dtype).min)
            self.maxima[name] = group.max(self.maxima.get(name, lowest))
        return more

    def result(self, denominator: float) -> State:
        """The sum of all that was added over `denominator`, which is the sum of the weights for a mean.

        In the dtypes and on the device of `like`. At least one update must have been added.
        """
        mean = self.sums[0].add(self.sums[1]).div_(math.ldexp(denominator, self.shift))
        w: State = {}
        start = 0
        for name, tensor in self.like.items():
            if name in self.maxima:
                w[name] = self.maxima[name]
                continue
            part: Tensor = mean[start : start + tensor.numel()]
            w[name] = part.view(tensor.shape).to(tensor)
            start += tensor.numel()
        return w


class Mean:
    """The mean of a round's models.

    Parameters are weighted as the algorithm says. Buffers are statistics of a client's examples and not a result of its
    steps, so they are weighted by n_k under every algorithm.
    """

    def __init__(self, now: RoundStart):
        self.w = now.w
        m, buffers = len(now.sizes), {name: x for name, x in now.w.items() if name not in now.trained}
        self.parameters = WeightedMean(now.parameters, m)
        self.buffers = WeightedMean(buffers, m) if buffers else None
        self.n = 0.0  # examples of the clients that were added

    def add(self, update: Update, weights: Sequence[float]) -> None:
        """weights: of the S models' parameters."""
        self.parameters.add(update.w, weights)
        if self.buffers:
            sizes = [report.n_k for report in update.reports]
            self.buffers.add(update.w, sizes)
            self.n += sum(sizes)

    def gather(self, group: Group, more: Tensor) -> Tensor:
        """See WeightedMean."""
        if self.buffers:
            self.n = float(self.buffers.gather(group, torch.tensor([self.n], dtype=torch.float64)))
        return self.parameters.gather(group, more)

    def result(self, denominator: float) -> State:
        """denominator: of the parameters."""
        mean = self.parameters.result(denominator)
        if self.buffers:
            mean |= self.buffers.result(self.n)
        return {name: mean[name] for name in self.w}


def together(names: Sequence[str], sizes: Sequence[int], width: int) -> Iterator[list[str]]:
    """The names in order, neighbours of at most `width` values put together: small tensors cost a call each."""
    group: list[str] = []
    total = 0
    for name, size in zip(names, sizes, strict=True):
        if group and total + size > width:
            yield group
            group, total = [], 0
        group.append(name)
        total += size
    if group:
        yield group
