"""A first convolution of few channels and the pooling behind it, for one client on a CPU.

oneDNN computes as many channels at once as fit into a vector register and throws away the surplus: LeNet's first
convolution uses six of sixteen. PyTorch's pooling is not vectorised if there are fewer than eight channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fl.engines.stacked.layers import MaxPool2d
from fl.engines.stacked.weights import Weights

aten: Any = torch.ops.aten  # the backward passes that autograd itself calls
HALF = 8  # of a CPU's widest vector, in float32


def fits_pixel_pairs(layers: Sequence[nn.Module], shape: Sequence[int]) -> bool:
    """Whether PixelPairs can take the place of the first two layers, for examples (C, H, W)."""
    if [type(layer) for layer in layers[:2]] != [nn.Conv2d, nn.MaxPool2d]:
        return False
    layer: Any = layers[0]
    width = shape[2] + 2 * layer.padding[1] - layer.kernel_size[1] + 1  # of the output
    plain = (layer.stride, layer.dilation, layer.groups) == ((1, 1), (1, 1), 1)
    return plain and layer.out_channels <= HALF and width % 2 == 0


class PixelPairs:
    """nn.Conv2d for two neighbouring pixels at once, and nn.MaxPool2d: (B, C, H, W) to (B, O, H', W').

    It is one convolution with a horizontal stride of 2 and 16 output channels: eight for the left pixel of each pair
    and eight for the right one. So the kernels are one pixel wider: for the left pixel they end with a column of zeros,
    and for the right pixel they begin with one. Channels that the layer lacks are zeros. With the channels innermost,
    the result for pairs, (B, 16, H, W / 2), has the same memory layout as (B, 8, H, W).
    """

    def __init__(self, convolution: nn.Conv2d, pool: nn.MaxPool2d, weights: Weights):
        self.weights, self.pool = weights, MaxPool2d(pool)
        padding: Any = convolution.padding
        self.geometry = ([1, 2], [*padding], [1, 1])

    def forward(self, x: Tensor) -> Tensor:
        self.x = x.contiguous(memory_format=torch.channels_last)
        weight, bias = self.weights.cast("weight", x.dtype), self.weights.cast("bias", x.dtype)
        kernels = weight[0].permute(0, 2, 3, 1)  # (O, h, w, C)
        self.O, h, w, C = kernels.shape
        wider = kernels.new_zeros(2, HALF, h, w + 1, C)
        wider[0, : self.O, :, :w] = kernels
        wider[1, : self.O, :, 1:] = kernels
        self.W = wider.flatten(0, 1).permute(0, 3, 1, 2)  # (16, C, h, w + 1)
        shifts = kernels.new_zeros(2, HALF)
        if bias is not None:
            shifts[:, : self.O] = bias
        pairs = torch.conv2d(self.x, self.W, shifts.flatten(), *self.geometry).permute(0, 2, 3, 1)
        y = self.pool.forward(pairs.reshape(*pairs.shape[:2], -1, HALF).permute(0, 3, 1, 2))
        return y[:, : self.O].contiguous(memory_format=torch.channels_last)

    def backward(self, g: Tensor, wanted: bool) -> Any:
        """`wanted` is false, because nobody asks a first layer for the gradient of its input."""
        B, _, height, width = g.shape
        whole = g.new_zeros(B, height, width, HALF).permute(0, 3, 1, 2)
        whole[:, : self.O] = g
        g = self.pool.backward(whole, True).permute(0, 2, 3, 1)  # (B, H, W, 8)
        pairs = g.reshape(B, g.shape[1], -1, 2 * HALF).permute(0, 3, 1, 2)
        _, g_W, g_b = aten.convolution_backward(
            pairs, self.x, self.W, [2 * HALF], *self.geometry, False, [0, 0], 1, [False, True, True]
        )
        left, right = g_W.unflatten(0, (2, HALF))[:, : self.O]
        self.weights.update("weight", left[..., :-1] + right[..., 1:])
        if "bias" in self.weights.in_use:
            self.weights.update("bias", g_b.view(2, HALF)[:, : self.O].sum(0))
