"""S networks at once, made of the layers of fl/engines/layers.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fl.engines.layers import Conv2d, Delayed, Flatten, GroupNorm, Linear, MaxPool2d, ReLU
from fl.engines.weights import Weights
from fl.state import NO_CORRECTION, Correction, State

WEIGHTED: dict[type, Any] = {nn.Linear: Linear, nn.Conv2d: Conv2d, nn.GroupNorm: GroupNorm}
PLAIN: dict[type, Any] = {nn.ReLU: ReLU, nn.MaxPool2d: MaxPool2d}
WIDE = 64  # outputs from which on a first layer's block of products pays for the products of its inputs


def by_hand(model: nn.Module) -> bool:
    """Whether every layer of the model has its like here."""
    return type(model) is nn.Sequential and all(
        (type(module) in WEIGHTED and getattr(module, "padding_mode", "zeros") == "zeros"
         and not isinstance(getattr(module, "padding", 0), str) and getattr(module, "affine", True))
        or type(module) in PLAIN
        or (isinstance(module, nn.Flatten) and module.start_dim == 1)
        for module in model
    )  # fmt: skip


class Network:
    """S copies of an nn.Sequential of such layers.

    stack: the parameters by state_dict name, each (S, ...), updated in place. folded: see Weights.
    arithmetic: of activations and products; weights, updates and the loss keep the dtype of the stack.
    delay: whether the first layer may delay its products, which makes every step of a block another computation.
    """

    def __init__(
        self,
        model: nn.Sequential,
        stack: dict[str, Tensor],
        folded: bool,
        arithmetic: torch.dtype | None = None,
        delay: bool = True,
    ):
        self.stack, self.folded, self.arithmetic = stack, folded, arithmetic
        self.S = self.active = len(next(iter(stack.values())))
        self.layers: list[Any] = []
        self.weights: list[Weights] = []
        self.names: list[str] = []  # of the modules they belong to
        self.first: Delayed | None = None
        modules = list(model.named_children())
        self.vectors = isinstance(modules[0][1], nn.Flatten)
        # max(relu(x)) is relu(max(x)), on a quarter of the values: rectify after pooling.
        for i in range(len(modules) - 1):
            if isinstance(modules[i][1], nn.ReLU) and isinstance(modules[i + 1][1], nn.MaxPool2d):
                modules[i], modules[i + 1] = modules[i + 1], modules[i]
        for name, module in modules[1:] if self.vectors else modules:
            if type(module) in WEIGHTED:
                own = {key: stack[f"{name}.{key}"] for key, _ in module.named_parameters()}
                weights = Weights(own, folded)
                self.weights.append(weights)
                self.names.append(name)
                wide = isinstance(module, nn.Linear) and module.out_features >= WIDE
                if wide and self.vectors and not self.layers and folded and delay and arithmetic is None:
                    self.first = Delayed(weights)
                else:
                    self.layers.append(WEIGHTED[type(module)](module, weights))
            elif isinstance(module, nn.Flatten):
                self.layers.append(Flatten(self.active))
            else:
                self.layers.append(PLAIN[type(module)](module))
        self.flattens = [layer for layer in self.layers if isinstance(layer, Flatten)]
        # Below the first layer with weights nobody wants a gradient.
        self.lowest = -1 if self.first else next(i for i, one in enumerate(self.layers) if hasattr(one, "weights"))

    def restart(
        self, w: State, eta: float | None = None, decay: float = 0.0, correction: Correction = NO_CORRECTION
    ) -> None:
        """All S clients begin with w; see Weights."""
        for name, weights in zip(self.names, self.weights, strict=True):
            own = {key: f"{name}.{key}" for key in weights.full}
            weights.restart({key: w[full] for key, full in own.items()}, eta, decay, correction.named(own))
        for flatten in self.flattens:
            flatten.narrow(self.S)
        self.active = self.S

    def narrow(self, active: int) -> None:
        """From now on only the first `active` clients train."""
        self.active = active
        parts: list[Any] = [*self.weights, *self.flattens]
        for part in parts:
            part.narrow(active)

    def gradients(self) -> list[Tensor]:
        """Where the gradients are collected, in the order of the stack; not if they are folded."""
        return [weights.now_grads[name] for weights in self.weights for name in weights.now]

    def begin(self, x: Tensor, counts: Sequence[int]) -> None:
        """x (S, L, B, C, H, W): what the clients see in their next steps; client i takes counts[i] <= L of them."""
        x = x.flatten(3) if self.vectors else x
        if self.arithmetic:
            x = x.to(self.arithmetic)
        if self.first:
            self.first.begin(x, counts)
        self.x = x.unbind(1)

    def step(self, s: int, target: Tensor, weight: Tensor, logits: Tensor) -> None:
        """Step s of the block for every active client.

        target (classes, columns): the example's weight at its label, else 0. weight (columns,): 1 / b_k for an example,
        0 for padding. logits (classes, columns): where to write them. Example b of client i is column i B + b.
        """
        if self.first:
            x = self.first.forward(s, self.active)
        elif self.vectors:
            x = prefix(self.x[s], self.active)
        else:
            x = prefix(self.x[s], self.active).transpose(0, 1).flatten(1, 2)  # (B, S C, H, W)
        for layer in self.layers:
            x = layer.forward(x)
        own(logits, x.shape).copy_(x)
        # d loss / d logits
        at_logits = own(torch.softmax(logits, 0).mul_(weight).sub_(target), x.shape)
        g: Tensor | None = at_logits.to(self.arithmetic) if self.arithmetic else at_logits
        for i in range(len(self.layers) - 1, max(self.lowest, 0) - 1, -1):
            assert g is not None
            g = self.layers[i].backward(g, wanted=i > self.lowest)
        if self.first:
            assert g is not None
            self.first.backward(s, g)

    def end(self) -> None:
        """The block is over: every parameter is up to date."""
        if self.first:
            self.first.end()


def own(columns: Tensor, shape: Sequence[int]) -> Tensor:
    """(classes, columns) seen as those of the active clients: (S, B, classes)."""
    return columns.as_strided(shape, (shape[1], 1, columns.stride(0)), columns.storage_offset())


def prefix(tensor: Tensor, active: int) -> Tensor:
    """tensor[:active], and no call where that is all of it."""
    return tensor if len(tensor) == active else tensor[:active]
