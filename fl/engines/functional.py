"""S networks at once for any model without buffers: torch.func over stacked parameters.

The general path, for models with a layer that fl/engines/layers.py has no like of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap


class Functional:
    """S copies of `model`; the interface of network.Network.

    stack: the parameters by name, each (S, ...), updated in place when eta is given.
    """

    def __init__(
        self,
        model: nn.Module,
        stack: dict[str, Tensor],
        eta: float | None,
        decay: float = 0.0,
        drift: dict[str, Tensor] | None = None,
    ):
        self.full, self.now, self.eta, self.decay, self.drift = stack, stack, eta, decay, drift
        self.grads = {} if eta is not None else {name: torch.zeros_like(p) for name, p in stack.items()}

        def loss(parameters: dict[str, Tensor], x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
            logits = functional_call(model, parameters, (x,))
            return -(target * F.log_softmax(logits, 1)).sum(), logits

        self.grad_of: Callable[..., Any] = vmap(grad(loss, has_aux=True))

    @property
    def active(self) -> int:
        return len(next(iter(self.now.values())))

    def narrow(self, active: int) -> None:
        self.now = {name: p[:active] for name, p in self.full.items()}

    def gradients(self) -> list[Tensor]:
        return [self.grads[name][: len(p)] for name, p in self.now.items()]

    def begin(self, x: Tensor, counts: Sequence[int]) -> None:
        self.x = x

    def step(self, s: int, target: Tensor, weight: Tensor) -> Tensor:
        gradients, logits = self.grad_of(self.now, self.x[: self.active, s], target)
        for name, p in self.now.items():
            if self.eta is None:
                self.grads[name][: len(p)].copy_(gradients[name])
            else:
                p.mul_(1 - self.eta * self.decay).sub_(gradients[name], alpha=self.eta)
                if self.drift:
                    p.sub_(self.drift[name][: len(p)], alpha=self.eta)
        detached: Tensor = logits.detach()
        return detached

    def end(self) -> None:
        pass
