"""S networks at once for any model without buffers: torch.func over stacked parameters.

The general path, for models with a layer that fl/engines/stacked/layers.py has no like of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fl.engines.stacked.network import by_client, first_clients
from fl.engines.stacked.weights import Weights
from fl.state import NO_CORRECTION, Correction, State


class Functional:
    """S copies of `model`; a Network.

    parameters: (S, ...) each by name, updated in place. folded: see Weights.
    """

    def __init__(self, model: nn.Module, parameters: State, folded: bool):
        self.parameters = parameters
        self.weights = Weights(parameters, folded)

        def loss(parameters: State, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
            logits = functional_call(model, parameters, (x,))
            return -(target * F.log_softmax(logits, 1)).sum(), logits

        self.grad_of: Callable[..., Any] = vmap(grad(loss, has_aux=True))

    @property
    def active(self) -> int:
        return len(next(iter(self.weights.in_use.values())))

    def start_round(
        self, w: State, eta: float = 0.0, decay: float = 0.0, correction: Correction = NO_CORRECTION
    ) -> None:
        self.weights.start_round(w, eta, decay, correction)

    def keep_first(self, active: int) -> None:
        self.weights.keep_first(active)

    def gradients(self) -> list[Tensor]:
        return list(self.weights.gradients_in_use.values())

    def start_block(self, x: Tensor, counts: Sequence[int]) -> None:
        self.x = x.unbind(1)

    def step(self, s: int, target: Tensor, weight: Tensor, logits: Tensor) -> None:
        x = first_clients(self.x[s], self.active)
        shape = (*x.shape[:2], len(target))
        gradients, z = self.grad_of(self.weights.in_use, x, by_client(target, shape))
        for name, gradient in gradients.items():
            self.weights.update(name, gradient)
        by_client(logits, shape).copy_(z)

    def finish_block(self) -> None:
        pass
