"""How far a convolution's gradients are from float64, alone and in a stack: the figures of Conv2d's docstring."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl.engines.stacked.layers import Conv2d
from fl.engines.stacked.stack import copies_of
from fl.engines.stacked.weights import Weights

BACKGROUND = -0.4242  # of MNIST, normalised


def minibatch(B: int, seed: int) -> tuple[nn.Conv2d, Tensor, Tensor]:
    """The first layer of gn_cnn, images (B, 1, 28, 28) like digits, and a gradient of its output.

    The gradient has come through a pool and a GroupNorm, which lets every example's cancel; and most pixels are equal.
    So the sums over B * 784 products are much smaller than their parts, and show how they were added up.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    layer = nn.Conv2d(1, 32, 3, padding=1)
    x = torch.full((B, 1, 28, 28), BACKGROUND)
    x[..., 7:21, 7:21] += 3.2 * torch.rand(B, 1, 14, 14, generator=generator)
    y = layer(x).double().detach().requires_grad_()
    pooled = torch.rand(y.shape, generator=generator) < 1 / 8
    at_norm = pooled * torch.randn(y.shape, generator=generator, dtype=torch.float64)
    (g,) = torch.autograd.grad(F.group_norm(y, 8), y, at_norm)
    return layer, x, g.float()


def by_autograd(layer: nn.Conv2d, x: Tensor, g: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """As the sequential engine: the gradients of weight and bias."""
    layer = layer.to(dtype)
    gradients = torch.autograd.grad(layer(x.to(dtype)), list(layer.parameters()), g.to(dtype))
    layer.float()
    return list(gradients)


def by_stack(layer: nn.Conv2d, x: Tensor, g: Tensor, S: int) -> list[Tensor]:
    """As the stacked engine, of the first of S equal clients."""
    weights = Weights({name: copies_of(p, S) for name, p in layer.named_parameters()}, folded=False)
    weights.start_round({name: p.detach() for name, p in layer.named_parameters()})
    conv = Conv2d(layer, weights)
    with torch.inference_mode():
        conv.forward(x.repeat(1, S, 1, 1))
        conv.backward(g.repeat(1, S, 1, 1), wanted=False)
    return [weights.gradients[name][0] for name in ("weight", "bias")]


def off(gradients: list[Tensor], exact: list[Tensor]) -> float:
    """The larger relative error of the two."""
    return max(float((a.double() - b).norm() / b.norm()) for a, b in zip(gradients, exact, strict=True))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("B", [10, 100])
def test_a_stack_of_convolutions_is_nearer_to_float64_than_one(B, seed):
    layer, x, g = minibatch(B, seed)
    exact = by_autograd(layer, x, g, torch.float64)
    sequential, alone = off(by_autograd(layer, x, g, torch.float32), exact), off(by_stack(layer, x, g, 1), exact)
    assert sequential < 2e-4
    assert alone < 2e-4
    for S in (2, 3, 8):
        together = off(by_stack(layer, x, g, S), exact)
        assert together < 5e-6
        assert together < 3 * sequential  # and far below where the processor has AVX2
