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
from fl.engines.weights import Weights

aten: Any = torch.ops.aten  # the backward passes that autograd itself calls


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

        W_s = W_0 + (1 - keep^s) (C - W_0) - eta sum over j < s of keep^(s - 1 - j) (g_j^T x_j + drift),

    which is s times the step of Weights, with its keep and C. So the output is x_s W_0^T, for all s one product,
    corrected by the small (x_s x_j^T) g_j; and the block's update is one product, too. With a pull, C - W_0 is formed
    before x is multiplied by it; without one, C is 0 and keep^s W_0 is left. The bias is the weight of an input that
    is always one.
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
        # What s steps leave of the weights at the beginning, or of their way to C, and how much drift they bring.
        self.left = [keep**s for s in range(L + 1)]
        self.gone = [1 - left for left in self.left]
        self.brought = [-self.eta * sum(self.left[:s]) for s in range(L + 1)]

        self.W, self.b = weights.full["weight"][:S], weights.full["bias"][:S] if "bias" in weights.full else None
        self.z = product(self.x, self.W, self.b, self.rows)  # (S, L B, o)
        z = self.z.view(S, L, self.B, -1)
        if weights.C:
            self.way = weights.C["weight"] - self.W  # (S, o, i)
            self.way_b = None if self.b is None else weights.C["bias"] - self.b
            way = product(self.x, self.way, self.way_b, self.rows).view_as(z)
            z.addcmul_(way, z.new_tensor(self.gone[:L]).view(L, 1, 1))
        elif keep != 1:
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
        if self.weights.C:
            gone = W.new_tensor([self.gone[count] for count in self.counts])
            W.addcmul_(self.way, gone[:, None, None])
            if b is not None and self.way_b is not None:
                b.addcmul_(self.way_b, gone[:, None])
        elif self.weights.keep != 1:
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
    """nn.Conv2d as one convolution with S times the groups: (B, S C, H, W) to (B, S O, H', W').

    In float32 on a CPU, the gradients of a first layer (one input channel) are nearer to float64 in a stack of two or
    more clients than for a single client or in the sequential engine. For a single client, oneDNN's kernels for AVX2
    and AVX-512 add up the products of all positions of all examples one by one. For groups it uses matrix products,
    which add up in blocks. The difference shows where a sum is much smaller than its parts: most pixels of a digit are
    the same background, and behind a GroupNorm gradients cancel. On MNIST with gn_cnn and B = 100 the relative error
    is 6e-5 for a single client, and grows with the square root of B; in a stack it is 1.4e-6. So the two differ by
    6e-5, up to 1e-4. The kernel for a single client is PyTorch's own choice for any network, so it stays.
    """

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
