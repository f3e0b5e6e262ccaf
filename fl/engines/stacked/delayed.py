"""The first linear layer of S networks, whose products of a block of steps are taken in one go."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fl.engines.stacked.products import add_outer, gram, product
from fl.engines.stacked.weights import Weights


class Delayed:
    """The linear layer that sees the inputs, under plain SGD.

    A minibatch of ten makes thin matrix products, far from what a processor can do. But the first layer's inputs
    x_0, x_1, ... are known beforehand, and after s steps of Weights, with its keep and C, the weights are

        W_s = W_0 + (1 - keep^s) (C - W_0) - eta sum over j < s of keep^(s - 1 - j) (g_j^T x_j + drift)

    So the output is x_s W_0^T, for all s one product, corrected by the small (x_s x_j^T) g_j; and the block's update is
    one product, too. With a pull, C - W_0 is formed before x is multiplied by it; without one, C is 0 and keep^s W_0 is
    left. The bias is the weight of an input that is always one.
    """

    def __init__(self, weights: Weights):
        self.weights = weights

    def start_block(self, x: Tensor, counts: Sequence[int]) -> None:
        """x (S, L, B, i): the inputs of the block; client k takes counts[k] <= L steps of it."""
        S, L, self.B, _ = x.shape
        self.x, self.counts = x.flatten(1, 2), counts  # (S, L B, i)
        self.rows = [count * self.B for count in counts]
        keep, weights, self.eta = self.weights.keep, self.weights, self.weights.eta
        # Factors after s steps, as in the docstring: keep^s, on W_0 if there is no C; 1 - keep^s, on C - W_0; on drift.
        self.left = [keep**s for s in range(L + 1)]
        self.gone = [1 - left for left in self.left]
        self.brought = [-self.eta * sum(self.left[:s]) for s in range(L + 1)]

        self.W = weights.parameters["weight"][:S]
        self.b = weights.parameters["bias"][:S] if "bias" in weights.parameters else None
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

    def finish_block(self) -> None:
        """Bring the weights up to date: each client's by as many steps as it took."""
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
