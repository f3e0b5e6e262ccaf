"""Matrix products with a weight matrix of each client, by whichever library is faster.

PyTorch takes float32 products on CPUs to BLAS, and convolutions to oneDNN. Where a client's matrix is large,
oneDNN's products are faster, too (`python3 -m benchmarks.products`). A client's result has the same bits
whoever shares its stack.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

LARGE = 1 << 17  # weights of a client from which on oneDNN is worth a call for every client

try:
    onednn: Any = torch.ops.mkldnn._linear_pointwise.default
except (AttributeError, RuntimeError):  # built without oneDNN
    onednn = None


# Whether this processor has what oneDNN needs for bf16, which on x86 is AVX-512.
HAS_BF16 = onednn is not None and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def suits_onednn(x: Tensor, W: Tensor) -> bool:
    return (
        W.shape[1] * W.shape[2] >= LARGE
        and onednn is not None
        and x.device.type == "cpu"
        and (x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and HAS_BF16))
        and torch.backends.mkldnn.is_available()
    )


def computable(x: Tensor) -> Tensor:
    """The same numbers in a type that convolutions on this processor add up well.

    Without instructions for bf16 PyTorch adds up in bf16, too, and is nearly twice as far off as autocast (small_cnn).
    """
    return x.float() if x.dtype == torch.bfloat16 and x.device.type == "cpu" and not HAS_BF16 else x


def by_onednn(x: Tensor, W: Tensor, b: Tensor | None = None) -> Tensor:
    """x W^T + b by oneDNN: (B, i), (o, i), (o,) to (B, o)."""
    y: Tensor = onednn(x, W, b, "none", [], "")
    return y


def product(x: Tensor, W: Tensor, b: Tensor | None, rows: Sequence[int] | None = None) -> Tensor:
    """x W^T + b: (S, B, i), (S, o, i), (S, o) to (S, B, o). rows: only the first rows[k] of client k matter."""
    if not suits_onednn(x, W):
        W = W.transpose(1, 2)
        return torch.bmm(x, W) if b is None else torch.baddbmm(b.unsqueeze(1), x, W)
    S, B, _ = x.shape
    if S == 1:
        return by_onednn(x[0], W[0], None if b is None else b[0]).unsqueeze(0)
    y = x.new_zeros(S, B, W.shape[1])
    for k in range(S):
        real = slice(0, rows[k] if rows else B)
        y[k, real] = by_onednn(x[k, real], W[k], None if b is None else b[k])
    return y


def product_back(g: Tensor, W: Tensor) -> Tensor:
    """g W: (S, B, o), (S, o, i) to (S, B, i)."""
    if not suits_onednn(g, W):
        return torch.bmm(g, W)
    if len(g) == 1:
        return by_onednn(g[0], W[0].t()).unsqueeze(0)
    return torch.stack([by_onednn(g_k, W_k.t()) for g_k, W_k in zip(g, W, strict=True)])


def gram(x: Tensor, W: Tensor, rows: Sequence[int]) -> Tensor:
    """x x^T: (S, R, i) to (S, R, R). W: what else x is multiplied with, for the choice."""
    if not suits_onednn(x, W):
        return torch.bmm(x, x.transpose(1, 2))
    y = x.new_zeros(*x.shape[:2], x.shape[1])
    for k, R in enumerate(rows):
        y[k, :R, :R] = by_onednn(x[k, :R], x[k, :R])
    return y


def add_outer(W: Tensor, b: Tensor | None, g: Tensor, x: Tensor, rows: Sequence[int]) -> None:
    """W += g^T x and b += the sum of g's rows: (S, o, i), (S, o), (S, R, o), (S, R, i). Rows from rows[k] on are 0."""
    if not suits_onednn(x, W):
        W.baddbmm_(g.transpose(1, 2), x)
        if b is not None:
            b += g.sum(1)
        return
    for k, R in enumerate(rows):
        W[k].add_(by_onednn(g[k, :R].t(), x[k, :R].t()))
        if b is not None:
            b[k].add_(g[k, :R].sum(0))
