"""A stack of clients: their networks, and what takes a step of all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fl.client import make_optimizer
from fl.config import Config
from fl.engines.stacked.functional import Functional
from fl.engines.stacked.hand_made import HandMade, has_hand_made_layers
from fl.engines.stacked.network import Network
from fl.state import NO_CORRECTION, Correction, State


class Stack:
    """S clients that advance together; kept from round to round, as are the addresses of its tensors.

    shape: of an example. correction: that of one round; those of other rounds must agree with it in whether they have a
    scale and an anchor. graphs: wraps each network so that its steps are recorded and replayed, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        shape: Sequence[int],
        S: int,
        config: Config,
        correction: Correction,
        graphs: Callable[[Network], Network] | None,
    ):
        self.S, self.config = S, config
        # Plain SGD needs no optimizer: each layer applies its gradient as it comes.
        self.folded = (
            config.optimizer == "sgd" and not config.momentum and correction.scale is None and correction.anchor is None
        )

        def network() -> Network:
            copies = {name: copies_of(p, S) for name, p in model.named_parameters()}
            if has_hand_made_layers(model, shape):
                arithmetic = torch.bfloat16 if config.precision == "bf16" else None
                made: Network = HandMade(model, shape, copies, self.folded, arithmetic, delay=graphs is None)
            else:
                made = Functional(model, copies, self.folded)
            return graphs(made) if graphs else made

        self.network = network()
        self.at_anchor = network() if correction.anchor else None
        self.networks = [self.network, self.at_anchor] if self.at_anchor else [self.network]

    @property
    def parameters(self) -> State:
        """The clients' models: (S, ...) each."""
        return self.network.parameters

    def start_round(self, w: State, eta: float, correction: Correction) -> None:
        """The clients begin with w: (...) or (1, ...) for all, or (S, ...)."""
        c = self.config
        self.correction = correction
        self.optimizer: torch.optim.Optimizer | None = None
        if self.folded:
            self.network.start_round(w, eta, c.weight_decay, correction)
            return
        self.network.start_round(w)
        # A fresh one: Adam's moments of other clients, or of an old model, are not these clients'.
        self.optimizer = make_optimizer(self.parameters.values(), c, eta)
        if self.at_anchor and correction.anchor:
            self.at_anchor.start_round(correction.anchor)

    def keep_first(self, active: int) -> None:
        """From now on only the first `active` clients train."""
        if active == self.network.active:
            return
        for network in self.networks:
            network.keep_first(active)
        if self.optimizer:
            self.correction = self.correction.of(active)
            optimizer_keeps_first(self.optimizer, self.parameters, active)

    def start_block(self, x: Tensor, counts: Sequence[int]) -> None:
        """See Network.start_block."""
        for network in self.networks:
            network.start_block(x, counts)

    def step(self, s: int, target: Tensor, weight: Tensor, logits: Tensor) -> None:
        """See Network.step."""
        self.network.step(s, target, weight, logits)
        if not self.optimizer:
            return
        gradients = self.network.gradients()
        at_anchor: Sequence[Tensor | None] = [None] * len(gradients)
        if self.at_anchor:
            self.at_anchor.step(s, target, weight, torch.zeros_like(logits))
            at_anchor = self.at_anchor.gradients()
        in_use = self.optimizer.param_groups[0]["params"]
        for name, p, g, g_anchor in zip(self.parameters, in_use, gradients, at_anchor, strict=True):
            self.correction.apply(name, g, p, g_anchor)
            p.grad = g
        self.optimizer.step()

    def finish_block(self) -> None:
        """See Network.finish_block."""
        for network in self.networks:
            network.finish_block()

    def finish_round(self) -> None:
        """The round's training is over: free what belongs to it."""
        self.optimizer, self.correction = None, NO_CORRECTION


def copies_of(tensor: Tensor, S: int) -> Tensor:
    """S copies of a parameter: (S, ...). A convolution's have their channels innermost, as they are fastest."""
    copies = tensor.detach().unsqueeze(0).expand(S, *tensor.shape)
    if tensor.dim() == 4:
        innermost = copies.permute(0, 1, 3, 4, 2).clone(memory_format=torch.contiguous_format)
        return innermost.permute(0, 1, 4, 2, 3)
    return copies.clone(memory_format=torch.contiguous_format)


def optimizer_keeps_first(optimizer: torch.optim.Optimizer, parameters: State, active: int) -> None:
    """Have it see the first `active` clients only: views of its parameters and of its elementwise state."""
    group = optimizer.param_groups[0]
    before = group["params"]
    group["params"] = [p[:active] for p in parameters.values()]
    for old, new in zip(before, group["params"], strict=True):
        state = optimizer.state.pop(old, {})
        optimizer.state[new] = {
            key: value[:active] if torch.is_tensor(value) and value.dim() else value for key, value in state.items()
        }
