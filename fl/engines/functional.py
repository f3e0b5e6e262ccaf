"""S networks at once for any model without buffers: torch.func over stacked parameters.

The general path, for models with a layer that fl/engines/layers.py has no like of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fl.engines.network import own, prefix
from fl.engines.weights import Weights
from fl.state import State


class Functional:
    """S copies of `model`; the interface of network.Network.

    stack: the parameters by name, each (S, ...), updated in place. folded: see Weights.
    """

    def __init__(self, model: nn.Module, stack: State, folded: bool):
        self.stack, self.folded = stack, folded
        self.weights = Weights(stack, folded)
        self.restart = self.weights.restart

        def loss(parameters: dict[str, Tensor], x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
            logits = functional_call(model, parameters, (x,))
            return -(target * F.log_softmax(logits, 1)).sum(), logits

        self.grad_of: Callable[..., Any] = vmap(grad(loss, has_aux=True))

    @property
    def active(self) -> int:
        return len(next(iter(self.weights.now.values())))

    def narrow(self, active: int) -> None:
        self.weights.narrow(active)

    def gradients(self) -> list[Tensor]:
        return list(self.weights.now_grads.values())

    def begin(self, x: Tensor, counts: Sequence[int]) -> None:
        self.x = x.unbind(1)

    def step(self, s: int, target: Tensor, weight: Tensor, logits: Tensor) -> None:
        x = prefix(self.x[s], self.active)
        shape = (*x.shape[:2], len(target))
        gradients, z = self.grad_of(self.weights.now, x, own(target, shape))
        for name, gradient in gradients.items():
            self.weights.update(name, gradient)
        own(logits, shape).copy_(z)

    def end(self) -> None:
        pass
