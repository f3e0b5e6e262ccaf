"""Layers of S networks at once, each client with weights of its own, forward and backward written by hand.

Autograd would keep a graph, allocate every gradient and pass over the weights once more to apply it. Here the
backward pass hands each weight gradient straight to the update, and for plain SGD a linear layer's gradient is
never formed: the matrix product adds -eta times itself to the weights.

Two layouts, so that one call serves all clients:
  images   (B, S C, H, W): client s owns channels s C to (s + 1) C, and convolutions have S groups;
  vectors  (S, B, F): linear layers are batched matrix products.

A layer has `forward(x)`, which keeps what `backward(g)` needs, and `backward(g, wanted)`, which updates the
layer's parameters and returns the gradient of its input if that is wanted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

aten: Any = torch.ops.aten  # the backward passes that autograd itself calls


class Weights:
    """The stacked parameters of one layer, the first `active` clients of them, and how they are updated.

    full: (S, ...) each. eta: the rate of plain SGD, which is applied at once; None collects the gradients in
    `grads` for an optimizer.
    """

    def __init__(self, full: dict[str, Tensor], eta: float | None, decay: float):
        self.full, self.eta, self.decay = full, eta, decay
        self.grads = {} if eta is not None else {name: torch.zeros_like(p) for name, p in full.items()}
        self.now = full
        self.now_grads = self.grads

    def narrow(self, active: int) -> None:
        self.now = {name: p[:active] for name, p in self.full.items()}
        self.now_grads = {name: g[:active] for name, g in self.grads.items()}

    def update(self, name: str, gradient: Tensor) -> None:
        """gradient: (active, ...) of the parameter, in any shape of as many values."""
        p = self.now[name]
        if self.eta is None:
            self.now_grads[name].copy_(gradient.view_as(p))
            return
        if self.decay:
            p.mul_(1 - self.eta * self.decay)
        p.add_(gradient.view_as(p), alpha=-self.eta)

    def update_product(self, name: str, left: Tensor, right: Tensor) -> None:
        """As `update` with the gradient left @ right: (active, o, B) @ (active, B, i)."""
        if self.eta is None:
            torch.bmm(left, right, out=self.now_grads[name])
        else:
            self.now[name].baddbmm_(left, right, beta=1 - self.eta * self.decay, alpha=-self.eta)


class Linear:
    """y = x W^T + b of nn.Linear: (S, B, i) to (S, B, o)."""

    def __init__(self, module: nn.Linear, weights: Weights):
        self.weights = weights

    def forward(self, x: Tensor) -> Tensor:
        self.x = x
        W = self.weights.now["weight"].transpose(1, 2)  # (S, i, o)
        if "bias" in self.weights.now:
            return torch.baddbmm(self.weights.now["bias"].unsqueeze(1), x, W)
        return torch.bmm(x, W)

    def backward(self, g: Tensor, wanted: bool) -> Tensor | None:
        g_x = torch.bmm(g, self.weights.now["weight"]) if wanted else None  # before W changes
        self.weights.update_product("weight", g.transpose(1, 2), self.x)
        if "bias" in self.weights.now:
            self.weights.update("bias", g.sum(1))
        return g_x


class Conv2d:
    """nn.Conv2d as one convolution with S times the groups: (B, S C, H, W) to (B, S O, H', W')."""

    def __init__(self, module: nn.Conv2d, weights: Weights):
        assert not isinstance(module.padding, str)
        self.weights = weights
        self.geometry = ([*module.stride], [*module.padding], [*module.dilation])
        self.groups = module.groups

    def forward(self, x: Tensor) -> Tensor:
        self.x = x
        W = merged(self.weights.now["weight"])  # (S O, C / groups, h, w)
        bias = self.weights.now["bias"].flatten() if "bias" in self.weights.now else None
        self.bias_sizes = None if bias is None else [bias.numel()]
        return torch.conv2d(x, W, bias, *self.geometry, groups=self.groups * len(self.weights.now["weight"]))

    def backward(self, g: Tensor, wanted: bool) -> Tensor | None:
        S = len(self.weights.now["weight"])
        W = merged(self.weights.now["weight"])
        wants = [wanted, True, self.bias_sizes is not None]
        g_x, g_W, g_b = aten.convolution_backward(
            g, self.x, W, self.bias_sizes, *self.geometry, False, [0, 0], self.groups * S, wants
        )
        self.weights.update("weight", g_W.unflatten(0, (S, -1)))
        if self.bias_sizes is not None:
            self.weights.update("bias", g_b)
        return g_x


def merged(weight: Tensor) -> Tensor:
    """(S, O, ...) to (S O, ...). For one client by indexing, which keeps the strides that say channels innermost."""
    return weight[0] if len(weight) == 1 else weight.flatten(0, 1)


class GroupNorm:
    """nn.GroupNorm: with S times the groups over S times the channels, no statistic crosses clients."""

    def __init__(self, module: nn.GroupNorm, weights: Weights):
        self.weights, self.groups, self.eps = weights, module.num_groups, module.eps

    def forward(self, x: Tensor) -> Tensor:
        self.x = x
        S = len(self.weights.now["weight"])
        gamma, beta = self.weights.now["weight"].flatten(), self.weights.now["bias"].flatten()
        B, channels, height, width = x.shape
        self.sizes = (B, channels, height * width, self.groups * S)
        y, self.mean, self.rstd = aten.native_group_norm(x, gamma, beta, *self.sizes, self.eps)
        return y

    def backward(self, g: Tensor, wanted: bool) -> Tensor | None:
        gamma = self.weights.now["weight"].flatten()
        g_x, g_gamma, g_beta = aten.native_group_norm_backward(
            g, self.x, self.mean, self.rstd, gamma, *self.sizes, [wanted, True, True]
        )
        self.weights.update("weight", g_gamma)
        self.weights.update("bias", g_beta)
        return g_x


class ReLU:
    """max(x, 0), in place: the layer before it does not need its output."""

    def __init__(self, module: nn.ReLU):
        pass

    def forward(self, x: Tensor) -> Tensor:
        self.y = x.relu_()
        return self.y

    def backward(self, g: Tensor, wanted: bool) -> Tensor | None:
        return aten.threshold_backward(g, self.y, 0) if wanted else None


class MaxPool2d:
    def __init__(self, module: nn.MaxPool2d):
        def pair(value: Any) -> list[int]:
            return [value, value] if isinstance(value, int) else [*value]

        stride = module.kernel_size if module.stride is None else module.stride
        self.geometry = tuple(map(pair, (module.kernel_size, stride, module.padding, module.dilation)))
        self.ceil_mode = module.ceil_mode

    def forward(self, x: Tensor) -> Tensor:
        self.x = x
        y, self.indices = aten.max_pool2d_with_indices(x, *self.geometry, self.ceil_mode)
        return y

    def backward(self, g: Tensor, wanted: bool) -> Tensor | None:
        if not wanted:
            return None
        return aten.max_pool2d_with_indices_backward(g, self.x, *self.geometry, self.ceil_mode, self.indices)


class Flatten:
    """Images (B, S C, H, W) to vectors (S, B, C H W)."""

    def __init__(self, S: int):
        self.S = S

    def narrow(self, active: int) -> None:
        self.S = active

    def forward(self, x: Tensor) -> Tensor:
        B, channels, *self.sides = x.shape
        self.channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        x = x.view(B, self.S, channels // self.S, *self.sides)
        return x.transpose(0, 1).reshape(self.S, B, -1)

    def backward(self, g: Tensor, wanted: bool) -> Tensor | None:
        if not wanted:
            return None
        B = g.shape[1]
        g = g.view(self.S, B, -1, *self.sides).transpose(0, 1).reshape(B, -1, *self.sides)
        return g.contiguous(memory_format=torch.channels_last) if self.channels_last else g


WEIGHTED: dict[type, Any] = {nn.Linear: Linear, nn.Conv2d: Conv2d, nn.GroupNorm: GroupNorm}
PLAIN: dict[type, Any] = {nn.ReLU: ReLU, nn.MaxPool2d: MaxPool2d}


def by_hand(model: nn.Module) -> bool:
    """Whether every layer of the model has its like here."""
    return isinstance(model, nn.Sequential) and all(
        (type(module) in WEIGHTED and getattr(module, "padding_mode", "zeros") == "zeros"
         and not isinstance(getattr(module, "padding", 0), str) and getattr(module, "affine", True))
        or type(module) in PLAIN
        or (isinstance(module, nn.Flatten) and module.start_dim == 1)
        for module in model
    )  # fmt: skip


class Network:
    """S copies of an nn.Sequential of such layers.

    stack: the parameters by state_dict name, each (S, ...), updated in place.
    """

    def __init__(self, model: nn.Sequential, stack: dict[str, Tensor], eta: float | None, decay: float):
        S = len(next(iter(stack.values())))
        self.layers: list[Any] = []
        self.weights: list[Weights] = []
        modules = list(model.named_children())
        # max(relu(x)) is relu(max(x)), on a quarter of the values: rectify after pooling.
        for i in range(len(modules) - 1):
            if isinstance(modules[i][1], nn.ReLU) and isinstance(modules[i + 1][1], nn.MaxPool2d):
                modules[i], modules[i + 1] = modules[i + 1], modules[i]
        for name, module in modules:
            if type(module) in WEIGHTED:
                own = {key: stack[f"{name}.{key}"] for key, _ in module.named_parameters()}
                weights = Weights(own, eta, decay)
                self.weights.append(weights)
                self.layers.append(WEIGHTED[type(module)](module, weights))
            elif isinstance(module, nn.Flatten):
                self.layers.append(Flatten(S))
            else:
                self.layers.append(PLAIN[type(module)](module))
        self.flattens = [layer for layer in self.layers if isinstance(layer, Flatten)]
        self.images = not self.flattens or self.layers[0] is not self.flattens[0]
        # Below the first layer with weights nobody wants a gradient.
        self.lowest = next(i for i, layer in enumerate(self.layers) if hasattr(layer, "weights"))

    def narrow(self, active: int) -> None:
        """From now on only the first `active` clients train."""
        parts: list[Any] = [*self.weights, *self.flattens]
        for part in parts:
            part.narrow(active)

    def gradients(self) -> list[Tensor]:
        """Where the gradients are collected, in the order of the stack; without an eta only."""
        return [weights.now_grads[name] for weights in self.weights for name in weights.now]

    def step(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """One step of every active client on its minibatch; returns the losses (S, B) of the examples.

        x (S, B, C, H, W), y (S, B), weight (S, B): 1 / b_k for an example, 0 for padding.
        """
        S, B = y.shape
        x = x.transpose(0, 1).reshape(B, -1, *x.shape[3:])  # (B, S C, H, W)
        for layer in self.layers:
            x = layer.forward(x)
        log_p = torch.log_softmax(x, 2)  # (S, B, classes)
        target = y.unsqueeze(2)
        losses = -log_p.gather(2, target).squeeze(2)
        g: Tensor | None = log_p.exp_().scatter_add_(2, target, log_p.new_full((), -1.0).expand(S, B, 1))
        assert g is not None
        g = g.mul_(weight.unsqueeze(2))  # d loss / d logits
        for i in range(len(self.layers) - 1, self.lowest - 1, -1):
            g = self.layers[i].backward(g, wanted=i > self.lowest)
        return losses
