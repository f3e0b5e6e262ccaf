"""Layers of S networks at once, each client with weights of its own, forward and backward written by hand.

Autograd would keep a graph, allocate every gradient and pass over the weights once more to apply it. Here the
backward pass hands each weight gradient straight to the update, and for plain SGD a linear layer's gradient is
never formed: the matrix product adds -eta times itself to the weights.

Two layouts, so that one call serves all clients:
  maps     (B, S C, H, W): client s owns channels s C to (s + 1) C, and convolutions have S groups;
  vectors  (S, B, F): linear layers are batched matrix products.

fl/engines/stacked/hand_made.py puts the layers together.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fl.engines.stacked.products import computable, product, product_back
from fl.engines.stacked.weights import Weights

aten: Any = torch.ops.aten  # the backward passes that autograd itself calls


class Layer(Protocol):
    def forward(self, x: Tensor) -> Tensor:
        """The output for x. Keeps what `backward` needs."""
        ...

    def backward(self, g: Tensor, wanted: bool) -> Any:
        """Update the layer's parameters. Returns the gradient of the input if that is wanted, else None."""


class Linear:
    """y = x W^T + b of nn.Linear: (S, B, i) to (S, B, o)."""

    def __init__(self, module: nn.Linear, weights: Weights):
        self.weights = weights

    def forward(self, x: Tensor) -> Tensor:
        self.x = x
        self.W = self.weights.cast("weight", x.dtype)
        return product(x, self.W, self.weights.cast("bias", x.dtype))

    def backward(self, g: Tensor, wanted: bool) -> Any:
        g_x = product_back(g, self.W) if wanted else None  # before W changes
        self.weights.update_product("weight", g.transpose(1, 2), self.x)
        if "bias" in self.weights.in_use:
            self.weights.update("bias", g.sum(1))
        return g_x


class Conv2d:
    """nn.Conv2d as one convolution with S times the groups: (B, S C, H, W) to (B, S O, H', W').

    In float32 on a CPU, the gradients of a first layer (one input channel) are nearer to float64 in a stack of two or
    more clients than for a single client or in the sequential engine. For a single client, oneDNN's kernels for AVX2
    and AVX-512 add up the products of all positions of all examples one by one. For groups it uses matrix products,
    which add up in blocks. The difference shows where a sum is much smaller than its parts: most of a digit is the
    same background, and behind a GroupNorm gradients cancel. On MNIST with gn_cnn and B = 100 the relative error is
    6e-5 for a single client, and grows with the square root of B; in a stack it is 1.4e-6. So the two differ by 6e-5,
    up to 1e-4. The kernel for a single client is PyTorch's own choice for any network, so it stays.
    """

    def __init__(self, module: nn.Conv2d, weights: Weights):
        self.weights = weights
        padding: Any = module.padding  # two numbers, because a layer that is padded by a word is not hand-made
        self.geometry = ([*module.stride], [*padding], [*module.dilation])
        self.groups = module.groups

    def forward(self, x: Tensor) -> Tensor:
        self.x = x
        weight, bias = self.weights.cast("weight", x.dtype), self.weights.cast("bias", x.dtype)
        self.W = merged(weight)  # (S O, C / groups, h, w)
        self.bias_sizes = None if bias is None else [bias.numel()]
        flat = None if bias is None else bias.flatten()
        flat = None if flat is None else computable(flat)
        y = torch.conv2d(computable(x), computable(self.W), flat, *self.geometry, groups=self.groups * len(weight))
        return y.to(x.dtype)

    def backward(self, g: Tensor, wanted: bool) -> Any:
        S = len(self.weights.in_use["weight"])
        wants = [wanted, True, self.bias_sizes is not None]
        g_x, g_W, g_b = aten.convolution_backward(
            computable(g), computable(self.x), computable(self.W), self.bias_sizes, *self.geometry, False, [0, 0],
            self.groups * S, wants,
        )  # fmt: skip
        self.weights.update("weight", g_W.unflatten(0, (S, -1)))
        if self.bias_sizes is not None:
            self.weights.update("bias", g_b)
        return g_x.to(g.dtype) if wanted else None


def merged(weight: Tensor) -> Tensor:
    """(S, O, ...) to (S O, ...). For one client by indexing, which keeps the strides that say channels innermost."""
    return weight[0] if len(weight) == 1 else weight.flatten(0, 1)


class GroupNorm:
    """nn.GroupNorm: with S times the groups over S times the channels, no statistic crosses clients."""

    def __init__(self, module: nn.GroupNorm, weights: Weights):
        self.weights, self.groups, self.eps = weights, module.num_groups, module.eps

    def forward(self, x: Tensor) -> Tensor:
        self.x = x
        S = len(self.weights.in_use["weight"])
        self.gamma = self.weights.cast("weight", x.dtype).flatten()
        beta = self.weights.cast("bias", x.dtype).flatten()
        B, channels, height, width = x.shape
        self.sizes = (B, channels, height * width, self.groups * S)
        y, self.mean, self.rstd = aten.native_group_norm(x, self.gamma, beta, *self.sizes, self.eps)
        return y

    def backward(self, g: Tensor, wanted: bool) -> Any:
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

    def backward(self, g: Tensor, wanted: bool) -> Any:
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

    def backward(self, g: Tensor, wanted: bool) -> Any:
        if not wanted:
            return None
        return aten.max_pool2d_with_indices_backward(g, self.x, *self.geometry, self.ceil_mode, self.indices)


class Flatten:
    """Maps (B, S C, H, W) to vectors (S, B, C H W)."""

    def __init__(self, S: int):
        self.S = S

    def keep_first(self, active: int) -> None:
        """From now on the maps are those of `active` clients."""
        self.S = active

    def forward(self, x: Tensor) -> Tensor:
        B, channels, *self.sides = x.shape
        self.channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        x = x.view(B, self.S, channels // self.S, *self.sides)
        return x.transpose(0, 1).reshape(self.S, B, -1)

    def backward(self, g: Tensor, wanted: bool) -> Any:
        if not wanted:
            return None
        B = g.shape[1]
        g = g.view(self.S, B, -1, *self.sides).transpose(0, 1).reshape(B, -1, *self.sides)
        return g.contiguous(memory_format=torch.channels_last) if self.channels_last else g
