"""S networks at once for any model without buffers: torch.func over stacked parameters.

The general path, for models with a layer that fl/engines/stacked/layers.py has no like of.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from data.dataset import Dataset
from fl.engines.stacked.hand_made import has_hand_made_layers
from fl.engines.stacked.network import by_client, first_clients
from fl.engines.stacked.weights import Weights
from fl.errors import out_of_memory
from fl.state import NO_CORRECTION, Correction, State


def is_vectorised(model: nn.Module, data: Dataset) -> bool:
    """Whether torch.func can form the gradient of the model, which has no buffers, for clients at once: by a trial.

    A copy is tried, because a model may remember what it saw.
    """
    x, y = data.batch(data.train, slice(0, 1))  # (1, ...), (1,)
    parameters = {name: p.detach().unsqueeze(0) for name, p in model.named_parameters()}
    target = F.one_hot(y, data.classes).to(x.dtype if x.is_floating_point() else torch.float32)
    try:
        Functional(copy.deepcopy(model).train(), parameters, folded=False).grad_of(
            parameters, x.unsqueeze(0), target.unsqueeze(0)
        )
    except Exception as error:
        if out_of_memory(error):
            raise
        return False
    return True


def has_unused(model: nn.Module, data: Dataset) -> bool:
    """Whether the model has parameters that no logit depends on: by a trial with a copy, as `is_vectorised` does it."""
    if has_hand_made_layers(model, data.shape):  # a chain of layers, each of which is used
        return False
    x, _ = data.batch(data.train, slice(0, 1))
    tried = copy.deepcopy(model).train()
    gradients = torch.autograd.grad(tried(x).sum(), list(tried.parameters()), allow_unused=True)
    return any(g is None for g in gradients)


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
