"""The stacked engine: the clients of a stack advance together, one step of all of them at a time.

Parameters have a leading dimension S, one entry a client. Clients differ in size, so in numbers of steps: within
a stack those with more steps come first, the ones still training are a prefix, and a batch smaller than B is
padded with examples of weight zero while the others weigh one over its true size. That is exact, not an
approximation: the sequential engine's result up to the order of floating-point sums.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.dataset import Dataset
from data.partition import Partition
from fl.algorithms.algorithm import Correct, Correction, uncorrected
from fl.client import Report, State, Update, make_optimizer
from fl.config import Config
from fl.device import accumulator_dtype
from fl.engines.functional import Functional
from fl.engines.network import Network, by_hand
from fl.rng import shuffles

BLOCK = 128  # examples of a client that are made ready at once: enough for efficient products, few enough for a cache


def why_not(model: nn.Module) -> str | None:
    """What keeps the model from being stacked, or None."""
    if not all(p.requires_grad for p in model.parameters()):
        return "has frozen parameters"
    if len(list(model.named_parameters(remove_duplicate=False))) > len(list(model.parameters())):
        return "shares parameters between its layers"
    if any(True for _ in model.buffers()):
        return "has buffers, and statistics of a padded batch would be wrong"
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd):
            return f"has {type(module).__name__}, whose batch or draws belong to one client"
    return None


class Stacked:
    """As Sequential, for models that `why_not` accepts. stack_size: most clients at once, 0 for a good number."""

    def __init__(
        self,
        model: nn.Module,
        data: Dataset,
        partition: Partition,
        config: Config,
        tick: Callable[[], None] = lambda: None,
        stack_size: int = 0,
    ):
        self.model, self.data, self.partition, self.config, self.tick = model, data, partition, config, tick
        self.device = data.train.labels.device
        self.network: Any = partial(Network, arithmetic=half(config)) if by_hand(model) else Functional
        self.pixels = data.train.images.flatten(1)  # (n, C H W) uint8: rows are gathered faster than images
        self.stack_size = stack_size or default_stack_size(model, data, config)

    def train(self, clients: Sequence[int], t: int, w: State, correct: Correct = uncorrected) -> Iterator[Update]:
        """Algorithm 1: w_{t+1}^k <- ClientUpdate(k, w_t), for k in S_t, a stack at a time.

        Clients whose full minibatches differ in size are not stacked: padding would change the shapes of products,
        and with them a client's bits would depend on the company it is in.
        """
        alike: dict[int, list[int]] = {}
        for k, n_k in zip(clients, self.partition.sizes_of(clients), strict=True):
            alike.setdefault(min(self.config.batch_size or n_k, n_k), []).append(k)
        for group in alike.values():
            for first in range(0, len(group), self.stack_size):
                yield self.train_stack(group[first : first + self.stack_size], t, w, correct)

    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)  # the layers see to their arithmetic themselves
    @torch.autocast("cuda", enabled=False)
    def train_stack(self, clients: Sequence[int], t: int, w: State, correct: Correct) -> Update:
        c = self.config
        sizes = self.partition.sizes_of(clients)
        order = sorted(range(len(clients)), key=lambda i: -self.steps(sizes[i]))  # those with most steps first
        steps = [self.steps(sizes[i]) for i in order]
        rows, weights = self.schedule([clients[i] for i in order], t)  # (S, steps, B) each
        S, _, B = rows.shape

        stack = {name: stacked(tensor, S) for name, tensor in w.items()}
        correction = correct([clients[i] for i in order]) or Correction()
        eta, optimizer, at_anchor = c.lr(t), None, None
        if c.optimizer == "sgd" and not c.momentum and correction.scale is None and correction.anchor is None:
            network = self.network(self.model, stack, eta, c.weight_decay + correction.pull, correction.drift)
        else:
            network = self.network(self.model, stack, None)
            optimizer = make_optimizer(stack.values(), c.optimizer, eta, c.momentum, c.weight_decay)
            if correction.anchor:
                anchor = {name: stacked(tensor, S) for name, tensor in w.items()}
                at_anchor = self.network(self.model, anchor, None)

        loss = torch.zeros(S, dtype=accumulator_dtype(self.device), device=self.device)
        L = max(BLOCK // B, 1)
        for first in range(0, steps[0], L):
            counts = [min(n - first, L) for n in steps if n > first]
            block = (slice(len(counts)), slice(first, first + counts[0]))
            chosen, weight = rows[block], weights[block]  # (active, l, B)
            x = self.data.normalise(self.pixels.index_select(0, chosen.flatten()))
            y = self.data.train.labels[chosen]
            target = F.one_hot(y, self.data.classes) * weight.unsqueeze(3)  # (active, l, B, classes)
            logits = torch.zeros_like(target)
            x = x.view(*chosen.shape, *self.data.shape)
            network.begin(x, counts)
            if at_anchor:
                at_anchor.begin(x, counts)
            for s in range(counts[0]):
                active = sum(count > s for count in counts)
                if active < network.active:
                    network.narrow(active)
                    optimizer, correction = narrowed(optimizer, stack, active), correction.of(active)
                    if at_anchor:
                        at_anchor.narrow(active)
                logits[:active, s] = network.step(s, target[:active, s], weight[:active, s])
                if at_anchor:
                    at_anchor.step(s, target[:active, s], weight[:active, s])
                if optimizer:
                    corrected_step(optimizer, correction, list(stack), network, at_anchor)
                self.tick()
            network.end()
            losses = F.cross_entropy(logits.flatten(0, 2), y.flatten(), reduction="none").view_as(weight)
            loss[: len(counts)].add_(torch.where(weight > 0, losses, 0).sum((1, 2), dtype=loss.dtype))

        if order != sorted(order):
            back = torch.tensor(order, device=self.device).argsort()
            stack = {name: tensor[back] for name, tensor in stack.items()}
            loss = loss[back]
        reports = [
            Report(k, n_k, k_loss, c.local_epoch * n_k, self.steps(n_k))
            for k, n_k, k_loss in zip(clients, sizes, loss.unbind(), strict=True)
        ]
        return Update(reports, stack)

    def steps(self, n_k: int) -> int:
        return self.config.local_epoch * -(-n_k // (self.config.batch_size or n_k))

    def schedule(self, clients: Sequence[int], t: int) -> tuple[Tensor, Tensor]:
        """Which examples each client sees at each step, and with what weight in its loss.

        rows (S, steps, B) int64; weights (S, steps, B), 1 / b_k for an example and 0 for padding.
        """
        E = self.config.local_epoch
        members = [self.partition[k] for k in clients]
        largest = max(map(len, members))
        B = min(self.config.batch_size or largest, largest)
        steps = [self.steps(len(mine)) for mine in members]
        rows = torch.zeros(len(members), max(steps), B, dtype=torch.int64, device=self.device)
        weights = torch.zeros(rows.shape, dtype=self.data.dtype, device=self.device)
        passes = range((t - 1) * E, t * E)
        for n in dict.fromkeys(map(len, members)):  # clients of one size are shuffled together
            same = [i for i, mine in enumerate(members) if len(mine) == n]
            orders = shuffles(self.config.seed, [(clients[i], p) for i in same for p in passes], n, self.device)
            own = torch.stack([members[i] for i in same]).to(self.device)  # (same, n)
            shuffled = own.gather(1, orders.view(len(same), E * n)).view(len(same), E, n)
            per_epoch = -(-n // B)
            padded = F.pad(shuffled, (0, per_epoch * B - n)).view(len(same), E * per_epoch, B)
            real = (torch.arange(per_epoch * B, device=self.device) < n).view(per_epoch, B).to(weights.dtype)
            each = (real / real.sum(1, keepdim=True)).repeat(E, 1)
            first, count = same[0], len(same)
            place = slice(first, first + count) if same[-1] == first + count - 1 else same
            rows[place, : E * per_epoch] = padded
            weights[place, : E * per_epoch] = each
        return rows, weights

    def state(self) -> dict[str, Any]:
        return {"optimizers": {}}

    def load_state(self, state: dict[str, Any]) -> None:
        pass


def half(config: Config) -> torch.dtype | None:
    """The arithmetic of activations and products, where it is not that of the weights."""
    return torch.bfloat16 if config.precision == "bf16" else None


def stacked(tensor: Tensor, S: int) -> Tensor:
    """S copies of a parameter: (S, ...). A convolution's have their channels innermost, as they are fastest."""
    copies = tensor.detach().unsqueeze(0).expand(S, *tensor.shape)
    if tensor.dim() == 4:
        innermost = copies.permute(0, 1, 3, 4, 2).clone(memory_format=torch.contiguous_format)
        return innermost.permute(0, 1, 4, 2, 3)
    return copies.clone(memory_format=torch.contiguous_format)


def corrected_step(
    optimizer: torch.optim.Optimizer, correction: Correction, names: Sequence[str], network: Any, at_anchor: Any
) -> None:
    """One step along the gradients that the networks have collected, corrected."""
    gradients = network.gradients()
    anchored = at_anchor.gradients() if at_anchor else [None] * len(gradients)
    parameters = optimizer.param_groups[0]["params"]
    for name, p, g, g_anchor in zip(names, parameters, gradients, anchored, strict=True):
        correction.apply(name, g, p, g_anchor)
        p.grad = g
    optimizer.step()


def narrowed(optimizer: torch.optim.Optimizer | None, stack: State, active: int) -> torch.optim.Optimizer | None:
    """The same optimizer on the first `active` clients: views of its parameters and of its elementwise state."""
    if optimizer is None:
        return None
    group = optimizer.param_groups[0]
    before = group["params"]
    group["params"] = [p[:active] for p in stack.values()]
    for old, new in zip(before, group["params"], strict=True):
        state = optimizer.state.pop(old, {})
        optimizer.state[new] = {
            key: value[:active] if torch.is_tensor(value) and value.dim() else value for key, value in state.items()
        }
    return optimizer


def default_stack_size(model: nn.Module, data: Dataset, config: Config) -> int:
    """As many clients as half of the free memory holds; one on a CPU where convolutions would become grouped."""
    device = data.train.labels.device
    if device.type == "cpu" and any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return 1
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    parameters = sum(p.nbytes for p in model.parameters())
    batch = (config.batch_size or len(data.train) // config.num_clients) * data.train.images[0].numel() * 4
    # Weights, gradients, two moments and the sums; and activations, of which an image-sized one per channel.
    return max(1, int(free / 2 / (6 * parameters + 64 * batch)))
