"""S networks at once, made of the layers of fl/engines/stacked/layers.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fl.engines.stacked.delayed import Delayed
from fl.engines.stacked.layers import Conv2d, Flatten, GroupNorm, Layer, Linear, MaxPool2d, ReLU
from fl.engines.stacked.network import by_client, first_clients
from fl.engines.stacked.pixel_pairs import PixelPairs, fits_pixel_pairs
from fl.engines.stacked.weights import Weights
from fl.state import NO_CORRECTION, Correction, State

WEIGHTED: dict[type, Any] = {nn.Linear: Linear, nn.Conv2d: Conv2d, nn.GroupNorm: GroupNorm}
PLAIN: dict[type, Any] = {nn.ReLU: ReLU, nn.MaxPool2d: MaxPool2d}
WIDE = 64  # outputs from which on a first layer's block of products pays for the products of its inputs


def has_hand_made_layers(model: nn.Module, shape: Sequence[int]) -> bool:
    """Whether every layer of the model has its like here, for examples of that shape."""
    if type(model) is not nn.Sequential or any(map(has_hooks, model.modules())):
        return False
    dims = len(shape)  # of what an example is between two layers: 3 for maps (C, H, W), 1 for a vector
    for i, module in enumerate(model):
        if isinstance(module, nn.Flatten):
            fits = (module.start_dim, module.end_dim) == (1, -1) and (dims > 1 or i == 0)
            dims = 1
        elif type(module) is nn.Linear:
            fits = dims == 1
        elif type(module) is nn.Conv2d:
            fits = dims == 3 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
        else:
            fits = type(module) is nn.ReLU or (
                dims == 3
                and (type(module) is nn.MaxPool2d or is_whole_group_norm(module))
            )  # fmt: skip
        if not fits:
            return False
    return True


def has_hooks(module: nn.Module) -> bool:
    """Whether something happens beside the module's own computation, which nothing here would do."""
    hooks = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return any(getattr(module, name) for name in hooks)


def is_whole_group_norm(module: nn.Module) -> bool:
    return type(module) is nn.GroupNorm and module.weight is not None and module.bias is not None


class HandMade:
    """S copies of an nn.Sequential that `has_hand_made_layers`; a Network.

    shape: of an example. parameters: (S, ...) each by name, updated in place. folded: see Weights.
    arithmetic: of activations and products; weights, updates and the loss keep the dtype of the parameters.
    delay: whether the first layer may delay its products, which makes every step of a block another computation.
    """

    def __init__(
        self,
        model: nn.Module,
        shape: Sequence[int],
        parameters: State,
        folded: bool,
        arithmetic: torch.dtype | None = None,
        delay: bool = True,
    ):
        self.parameters, self.arithmetic = parameters, arithmetic
        self.S = self.active = len(next(iter(parameters.values())))
        self.layers: list[Layer] = []
        self.weights: list[Weights] = []
        self.names: list[str] = []  # of the modules they belong to
        self.first: Delayed | None = None
        modules: list[tuple[str, Any]] = list(model._modules.items())  # named_children passes over what comes again
        flattened = isinstance(modules[0][1], nn.Flatten)
        self.vectors = flattened or len(shape) == 1
        # max(relu(x)) is relu(max(x)), on a quarter of the values: rectify after pooling.
        for i in range(len(modules) - 1):
            if isinstance(modules[i][1], nn.ReLU) and isinstance(modules[i + 1][1], nn.MaxPool2d):
                modules[i], modules[i + 1] = modules[i + 1], modules[i]
        # Only one client on a CPU: convolutions of several have groups, and a GPU fills its vectors in another way.
        one_on_cpu = self.S == 1 and next(iter(parameters.values())).device.type == "cpu"
        in_pairs = one_on_cpu and fits_pixel_pairs([module for _, module in modules], shape)
        for name, module in modules[1:] if flattened else modules:
            if type(module) in WEIGHTED:
                weights = Weights({key: parameters[f"{name}.{key}"] for key, _ in module.named_parameters()}, folded)
                self.weights.append(weights)
                self.names.append(name)
                wide = isinstance(module, nn.Linear) and module.out_features >= WIDE
                if wide and self.vectors and not self.layers and folded and delay and arithmetic is None:
                    self.first = Delayed(weights)
                elif in_pairs and not self.layers:
                    pool = modules.pop(1)[1]
                    self.layers.append(PixelPairs(module, pool, weights))
                else:
                    self.layers.append(WEIGHTED[type(module)](module, weights))
            elif isinstance(module, nn.Flatten):
                self.layers.append(Flatten(self.active))
            else:
                self.layers.append(PLAIN[type(module)](module))
        self.flattens = [layer for layer in self.layers if isinstance(layer, Flatten)]
        # Below the first layer with weights nobody wants a gradient.
        self.lowest = -1 if self.first else next(i for i, one in enumerate(self.layers) if hasattr(one, "weights"))

    def start_round(
        self, w: State, eta: float = 0.0, decay: float = 0.0, correction: Correction = NO_CORRECTION
    ) -> None:
        for name, weights in zip(self.names, self.weights, strict=True):
            full_names = {key: f"{name}.{key}" for key in weights.parameters}
            of_layer = {key: w[full_name] for key, full_name in full_names.items()}
            weights.start_round(of_layer, eta, decay, correction.named(full_names))
        for flatten in self.flattens:
            flatten.keep_first(self.S)
        self.active = self.S

    def keep_first(self, active: int) -> None:
        self.active = active
        for weights in self.weights:
            weights.keep_first(active)
        for flatten in self.flattens:
            flatten.keep_first(active)

    def gradients(self) -> list[Tensor]:
        return [weights.gradients_in_use[name] for weights in self.weights for name in weights.in_use]

    def start_block(self, x: Tensor, counts: Sequence[int]) -> None:
        x = x.flatten(3) if self.vectors else x
        if self.arithmetic:
            x = x.to(self.arithmetic)
        if self.first:
            self.first.start_block(x, counts)
        self.x = x.unbind(1)

    def step(self, s: int, target: Tensor, weight: Tensor, logits: Tensor) -> None:
        if self.first:
            x = self.first.forward(s, self.active)
        elif self.vectors:
            x = first_clients(self.x[s], self.active)
        else:
            x = first_clients(self.x[s], self.active).transpose(0, 1).flatten(1, 2)  # (B, S C, H, W)
        for layer in self.layers:
            x = layer.forward(x)
        by_client(logits, x.shape).copy_(x)
        # d loss / d logits
        at_logits = by_client(torch.softmax(logits, 0).mul_(weight).sub_(target), x.shape)
        g = at_logits.to(self.arithmetic) if self.arithmetic else at_logits
        for i in range(len(self.layers) - 1, max(self.lowest, 0) - 1, -1):
            g = self.layers[i].backward(g, wanted=i > self.lowest)
        if self.first:
            self.first.backward(s, g)

    def finish_block(self) -> None:
        if self.first:
            self.first.finish_block()
