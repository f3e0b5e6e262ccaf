"""Layers of S networks at once, each client with weights of its own, forward and backward written by hand.

Autograd would keep a graph, allocate every gradient and pass over the weights once more to apply it. Here the
backward pass hands each weight gradient straight to the update, and for plain SGD a linear layer's gradient is
never formed: the matrix product adds -eta times itself to the weights.

Two layouts, so that one call serves all clients:
  images   (B, S C, H, W): client s owns channels s C to (s + 1) C, and convolutions have S groups;
  vectors  (S, B, F): linear layers are batched matrix products.

A layer has `forward(x)`, which keeps what `backward(g)` needs, and `backward(g, wanted)`, which updates the
layer's parameters and returns the gradient of its input if that is wanted. fl/engines/network.py puts them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fl.engines.products import add_outer, gram, product, product_back

aten: Any = torch.ops.aten  # the backward passes that autograd itself calls


class Weights:
    """The stacked parameters of one layer, the first `active` clients of them, and how they are updated.

    full: (S, ...) each, kept from round to round. folded: each gradient is applied at once, by plain SGD; otherwise
    they are collected in `grads` for an optimizer.
    """

    def __init__(self, full: dict[str, Tensor], folded: bool):
        self.full = self.now = full
        self.grads = self.now_grads = {} if folded else {name: torch.zeros_like(p) for name, p in full.items()}
        self.drift: dict[str, Tensor] = {}

    def restart(
        self, w: dict[str, Tensor], eta: float | None = None, decay: float = 0.0, drift: dict[str, Tensor] | None = None
    ) -> None:
        """Every client begins with w. With folded updates eta is their rate, and decay p + drift is added to the
        gradient of a parameter p; drift: (S, ...) or (1, ...) each."""
        for name, p in self.full.items():
            p.copy_(w[name])
        self.eta = eta
        self.keep = 1.0 if eta is None else 1 - eta * decay  # what a step leaves of a weight
        if not drift:
            self.drift = {}
        elif not self.drift:
            self.drift = {name: d.clone() for name, d in drift.items()}
        else:  # where a recorded graph reads it
            for name, d in drift.items():
                self.drift[name].copy_(d)
        self.now, self.now_grads, self.drift_now = self.full, self.grads, self.drift

    def narrow(self, active: int) -> None:
        self.now = {name: p[:active] for name, p in self.full.items()}
        self.now_grads = {name: g[:active] for name, g in self.grads.items()}
        self.drift_now = {name: d[:active] for name, d in self.drift.items()}

    def cast(self, name: str, dtype: torch.dtype) -> Any:
        """The parameter in the arithmetic of the activations; None if the layer has none of that name."""
        p = self.now.get(name)
        return p if p is None or p.dtype == dtype else p.to(dtype)

    def update(self, name: str, gradient: Tensor) -> None:
        """gradient: (active, ...) of the parameter, in any shape of as many values."""
        p = self.now[name]
        if self.eta is None:
            self.now_grads[name].copy_(gradient.view_as(p))
            return
        if self.keep != 1:
            p.mul_(self.keep)
        p.add_(gradient.view_as(p), alpha=-self.eta)
        if self.drift_now:
            p.add_(self.drift_now[name], alpha=-self.eta)

    def update_product(self, name: str, left: Tensor, right: Tensor) -> None:
        """As `update` with the gradient left @ right: (active, o, B) @ (active, B, i)."""
        p = self.now[name]
        if left.dtype != p.dtype:
            left, right = left.to(p.dtype), right.to(p.dtype)
        if self.eta is None:
            torch.bmm(left, right, out=self.now_grads[name])
        else:
            p.baddbmm_(left, right, beta=self.keep, alpha=-self.eta)
            if self.drift_now:
                p.add_(self.drift_now[name], alpha=-self.eta)


class Linear:
    """y = x W^T + b of nn.Linear: (S, B, i) to (S, B, o)."""

    def __init__(self, module: nn.Linear, weights: Weights):
        self.weights = weights

    def forward(self, x: Tensor) -> Tensor:
        self.x = x
        self.W = self.weights.cast("weight", x.dtype)
        return product(x, self.W, self.weights.cast("bias", x.dtype))

    def backward(self, g: Tensor, wanted: bool) -> Tensor | None:
        g_x = product_back(g, self.W) if wanted else None  # before W changes
        self.weights.update_product("weight", g.transpose(1, 2), self.x)
        if "bias" in self.weights.now:
            self.weights.update("bias", g.sum(1))
        return g_x


class Delayed:
    """The linear layer that sees the inputs, under plain SGD: its products of a block of steps in one go.

    A minibatch of ten makes thin matrix products, far from what a processor can do. But the first layer's inputs
    x_0, x_1, ... are known beforehand, and after s steps its weights are

        W_s = keep^s W_0 - eta sum over j < s of keep^(s - 1 - j) (g_j^T x_j + drift),

    so its output is x_s W_0^T, for all s one product, corrected by the small (x_s x_j^T) g_j; and the block's
    update is one product, too. The bias is the weight of an input that is always one.
    """

    def __init__(self, weights: Weights):
        self.weights = weights

    def begin(self, x: Tensor, counts: Sequence[int]) -> None:
        """x (S, L, B, i): the inputs of the block; client k takes counts[k] <= L steps of it."""
        S, L, self.B, _ = x.shape
        self.x, self.counts = x.flatten(1, 2), counts  # (S, L B, i)
        self.rows = [count * self.B for count in counts]
        assert self.weights.eta is not None
        keep, weights, self.eta = self.weights.keep, self.weights, self.weights.eta
        # What s steps leave of the weights at the beginning, and how much drift they bring.
        self.left = [keep**s for s in range(L + 1)]
        self.brought = [-self.eta * sum(self.left[:s]) for s in range(L + 1)]

        self.W, self.b = weights.full["weight"][:S], weights.full["bias"][:S] if "bias" in weights.full else None
        self.z = product(self.x, self.W, self.b, self.rows)  # (S, L B, o)
        z = self.z.view(S, L, self.B, -1)
        if keep != 1:
            z.mul_(z.new_tensor(self.left[:L]).view(L, 1, 1))
        if weights.drift:
            self.dW = weights.drift["weight"][:S].expand_as(self.W)
            self.db = None if self.b is None else weights.drift["bias"][:S].expand_as(self.b)
            drift = product(self.x, self.dW, self.db, self.rows).view_as(z)
            z.addcmul_(drift, z.new_tensor(self.brought[:L]).view(L, 1, 1))
        if L > 1:
            self.gram = gram(self.x, self.W, self.rows)  # (S, L B, L B)
            if self.b is not None:
                self.gram += 1
        self.g = torch.zeros_like(self.z)

    def forward(self, s: int, active: int) -> Tensor:
        """Outputs of step s of the block: (active, B, o)."""
        now, before = slice(s * self.B, (s + 1) * self.B), slice(0, s * self.B)
        z = self.z[:active, now]
        if s == 0:
            return z
        return torch.baddbmm(z, self.gram[:active, now, before], self.g[:active, before], alpha=-self.eta)

    def backward(self, s: int, g: Tensor) -> None:
        """g (active, B, o): the gradient of step s."""
        if self.weights.keep != 1:
            self.g[: len(g), : s * self.B].mul_(self.weights.keep)
        self.g[: len(g), s * self.B : (s + 1) * self.B] = g

    def end(self) -> None:
        W, b = self.W, self.b
        if self.weights.keep != 1:
            left = W.new_tensor([self.left[count] for count in self.counts])
            W.mul_(left[:, None, None])
            if b is not None:
                b.mul_(left[:, None])
        if self.weights.drift:
            brought = W.new_tensor([self.brought[count] for count in self.counts])
            W.addcmul_(self.dW, brought[:, None, None])
            if b is not None and self.db is not None:
                b.addcmul_(self.db, brought[:, None])
        add_outer(W, b, self.g.mul_(-self.eta), self.x, self.rows)


class Conv2d:
    """nn.Conv2d as one convolution with S times the groups: (B, S C, H, W) to (B, S O, H', W')."""

    def __init__(self, module: nn.Conv2d, weights: Weights):
        assert not isinstance(module.padding, str)
        self.weights = weights
        self.geometry = ([*module.stride], [*module.padding], [*module.dilation])
        self.groups = module.groups

    def forward(self, x: Tensor) -> Tensor:
        self.x = x
        weight, bias = self.weights.cast("weight", x.dtype), self.weights.cast("bias", x.dtype)
        self.W = merged(weight)  # (S O, C / groups, h, w)
        self.bias_sizes = None if bias is None else [bias.numel()]
        flat = None if bias is None else bias.flatten()
        return torch.conv2d(x, self.W, flat, *self.geometry, groups=self.groups * len(weight))

    def backward(self, g: Tensor, wanted: bool) -> Tensor | None:
        S = len(self.weights.now["weight"])
        wants = [wanted, True, self.bias_sizes is not None]
        g_x, g_W, g_b = aten.convolution_backward(
            g, self.x, self.W, self.bias_sizes, *self.geometry, False, [0, 0], self.groups * S, wants
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
        self.gamma = self.weights.cast("weight", x.dtype).flatten()
        beta = self.weights.cast("bias", x.dtype).flatten()
        B, channels, height, width = x.shape
        self.sizes = (B, channels, height * width, self.groups * S)
        y, self.mean, self.rstd = aten.native_group_norm(x, self.gamma, beta, *self.sizes, self.eps)
        return y

    def backward(self, g: Tensor, wanted: bool) -> Tensor | None:
        g_x, g_gamma, g_beta = aten.native_group_norm_backward(
            g, self.x, self.mean, self.rstd, self.gamma, *self.sizes, [wanted, True, True]
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
