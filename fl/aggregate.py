"""What the server makes of the updates."""

from __future__ import annotations

import torch

from fl.client import State
from fl.device import accumulator_dtype


class WeightedMean:
    """w_{t+1} <- sum over k in S_t of n_k / n w_{t+1}^k, with n the examples of the clients that reported.

    Algorithm 1 of McMahan et al. 2017. Models are added one at a time, so the cohort need not be in memory
    at once. The sum is kept in float64, where n_k w is exact for float32 w and any n_k below 2^29; equal
    models therefore have themselves as mean, to the bit. Integer buffers (BatchNorm's counter) have no
    meaningful mean: the maximum is taken.
    """

    def __init__(self) -> None:
        self.total: State = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self.n = 0

    def add(self, w_k: State, n_k: int) -> None:
        for name, tensor in w_k.items():
            if not tensor.is_floating_point():
                self.total[name] = torch.maximum(self.total.get(name, tensor), tensor)
            elif name in self.total:
                self.total[name].add_(tensor.to(self.total[name].dtype), alpha=n_k)
            else:
                self.total[name] = tensor.to(accumulator_dtype(tensor.device), copy=True).mul_(n_k)
            self.dtypes[name] = tensor.dtype
        self.n += n_k

    def result(self) -> State:
        """The mean, in the dtypes of the models. At least one must have been added."""
        return {
            name: total.div(self.n).to(self.dtypes[name]) if total.is_floating_point() else total
            for name, total in self.total.items()
        }
