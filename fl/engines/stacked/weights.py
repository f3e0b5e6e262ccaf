"""The stacked parameters of a layer, and the step that plain SGD takes with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fl.state import NO_CORRECTION, Correction, State


class Weights:
    """The stacked parameters of one layer, and how they are updated.

    parameters: (S, ...) each, kept from round to round. in_use: those of the clients that still train, the first ones.
    folded: each gradient is applied at once, by plain SGD; otherwise it is put into `gradients` for an optimizer.

    A folded step is the step of plain SGD that Correction (fl/state.py) states, put so that it takes few passes over
    memory. Decay and pull together are one pull towards one point,

        lambda w + pull (w - centre) = (lambda + pull) (w - C),    C = pull centre / (lambda + pull)

    so a step moves w by the share eta (lambda + pull) of its way to C, and then by -eta (g + drift). The way C - w is
    formed first, as the rule asks. Without a pull C is 0, and all that is left is to multiply w by 1 - eta lambda.
    """

    def __init__(self, parameters: State, folded: bool):
        self.parameters = self.in_use = parameters
        self.folded = folded
        self.gradients: State = {} if folded else {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.gradients_in_use = self.gradients
        self.drift: State = {}
        self.C: State = {}  # only with a pull

    def start_round(
        self, w: State, eta: float = 0.0, decay: float = 0.0, correction: Correction = NO_CORRECTION
    ) -> None:
        """Every client begins with w: (...) or (1, ...) for all, or (S, ...).

        With folded updates eta is their rate, decay the lambda of --weight_decay, and the correction that of this
        layer's parameters, without an anchor and a scale.
        """
        for name, p in self.parameters.items():
            p.copy_(w[name])
        self.eta = eta
        towards = decay + (correction.pull if correction.centre else 0.0)
        self.share = eta * towards  # of the way to C that a step goes
        self.keep = 1 - self.share  # what a step leaves of a weight, or of its way to C
        self.C = in_place(self.C, correction.centre)
        if decay:
            for centre in self.C.values():
                centre.mul_(correction.pull / towards)
        self.drift = in_place(self.drift, correction.drift)
        self.in_use, self.gradients_in_use, self.drift_in_use = self.parameters, self.gradients, self.drift

    def keep_first(self, active: int) -> None:
        """From now on only the first `active` clients train."""
        self.in_use = {name: p[:active] for name, p in self.parameters.items()}
        self.gradients_in_use = {name: g[:active] for name, g in self.gradients.items()}
        self.drift_in_use = {name: d[:active] for name, d in self.drift.items()}

    def cast(self, name: str, dtype: torch.dtype) -> Any:
        """The parameter in the arithmetic of the activations; None if the layer has none of that name."""
        p = self.in_use.get(name)
        return p if p is None or p.dtype == dtype else p.to(dtype)

    def update(self, name: str, gradient: Tensor) -> None:
        """gradient: (active, ...) of the parameter, in any shape of as many values."""
        p = self.in_use[name]
        if not self.folded:
            self.gradients_in_use[name].copy_(gradient.view_as(p))
            return
        keep = self.pulled(name, p)
        if keep != 1:
            p.mul_(keep)
        p.add_(gradient.view_as(p), alpha=-self.eta)
        if self.drift_in_use:
            p.add_(self.drift_in_use[name], alpha=-self.eta)

    def update_product(self, name: str, left: Tensor, right: Tensor) -> None:
        """As `update` with the gradient left @ right: (active, o, B) @ (active, B, i)."""
        p = self.in_use[name]
        if left.dtype != p.dtype:
            left, right = left.to(p.dtype), right.to(p.dtype)
        if not self.folded:
            torch.bmm(left, right, out=self.gradients_in_use[name])
        else:
            p.baddbmm_(left, right, beta=self.pulled(name, p), alpha=-self.eta)
            if self.drift_in_use:
                p.add_(self.drift_in_use[name], alpha=-self.eta)

    def pulled(self, name: str, p: Tensor) -> float:
        """Move p towards C if there is a pull. Returns the factor that is left to be applied to p: that of a decay."""
        if not self.C:
            return self.keep
        p.lerp_(self.C[name], self.share)
        return 1.0


def in_place(kept: State, given: State | None) -> State:
    """A copy of `given`, in the tensors of `kept` if there are any, because a recorded graph reads those."""
    if not given:
        return {}
    if not kept or any(kept[name].shape != tensor.shape for name, tensor in given.items()):
        return {name: tensor.clone() for name, tensor in given.items()}
    for name, tensor in given.items():
        kept[name].copy_(tensor)
    return kept
