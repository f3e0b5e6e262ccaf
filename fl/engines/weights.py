"""The stacked parameters of a layer, and the step that plain SGD takes with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fl.state import NO_CORRECTION, Correction


class Weights:
    """The stacked parameters of one layer, the first `active` clients of them, and how they are updated.

    full: (S, ...) each, kept from round to round. folded: each gradient is applied at once, by plain SGD; otherwise
    they are collected in `grads` for an optimizer.

    A folded step is the rule of Correction (fl/algorithms/algorithm.py), w <- w - eta (g + pull (w - centre) + drift +
    lambda w), put so that it takes few passes over memory. Decay and pull together are one pull towards one point,

        lambda w + pull (w - centre) = (lambda + pull) (w - C),    C = pull centre / (lambda + pull)

    so that a step moves w by the share eta (lambda + pull) of its way to C, where C - w is formed first, and then by
    -eta (g + drift). Without a pull C is 0, and all that is left to do is to multiply w by 1 - eta lambda.
    """

    def __init__(self, full: dict[str, Tensor], folded: bool):
        self.full = self.now = full
        self.grads = self.now_grads = {} if folded else {name: torch.zeros_like(p) for name, p in full.items()}
        self.drift: dict[str, Tensor] = {}
        self.C: dict[str, Tensor] = {}  # only with a pull

    def restart(
        self,
        w: dict[str, Tensor],
        eta: float | None = None,
        decay: float = 0.0,
        correction: Correction = NO_CORRECTION,
    ) -> None:
        """Every client begins with w. With folded updates eta is their rate, decay lambda of --weight_decay, and the
        correction that of this layer's parameters, without an anchor and a scale."""
        for name, p in self.full.items():
            p.copy_(w[name])
        self.eta = eta
        towards = decay + correction.pull
        self.share = 0.0 if eta is None else eta * towards  # of the way to C that a step goes
        self.keep = 1 - self.share  # what a step leaves of a weight, or of its way to C
        self.C = in_place(self.C, correction.centre)
        if decay:
            for centre in self.C.values():
                centre.mul_(correction.pull / towards)
        self.drift = in_place(self.drift, correction.drift)
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
        keep = self.pulled(name, p)
        if keep != 1:
            p.mul_(keep)
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
            p.baddbmm_(left, right, beta=self.pulled(name, p), alpha=-self.eta)
            if self.drift_now:
                p.add_(self.drift_now[name], alpha=-self.eta)

    def pulled(self, name: str, p: Tensor) -> float:
        """Move p towards C if there is a pull. Returns the factor that is left to be applied to p: that of a decay."""
        if not self.C:
            return self.keep
        p.lerp_(self.C[name], self.share)
        return 1.0


def in_place(kept: dict[str, Tensor], given: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """A copy of `given`, in the tensors of `kept` if there are any, because a recorded graph reads those."""
    if not given:
        return {}
    if not kept:
        return {name: tensor.clone() for name, tensor in given.items()}
    for name, tensor in given.items():
        kept[name].copy_(tensor)
    return kept
