"""The stacked engine: the clients of a stack advance together, one step of all of them at a time.

Parameters have a leading dimension S, one entry a client. Clients differ in size, so in numbers of steps: within
a stack those with more steps come first, the ones still training are a prefix, and a batch smaller than B is
padded with examples of weight zero while the others weigh one over its true size. That is exact, not an
approximation: the sequential engine's result up to the order of floating-point sums.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.dataset import Dataset
from data.partition import Partition
from fl.algorithms.algorithm import Correct, Correction, uncorrected
from fl.client import Report, State, Update, make_optimizer
from fl.config import Config
from fl.device import accumulator_dtype, send
from fl.engines.functional import Functional
from fl.engines.graphed import Graphed
from fl.engines.network import Network, by_hand
from fl.engines.schedule import Member, schedule, steps_of

BLOCK = 128  # examples of a client that are made ready at once: enough for efficient products, few enough for a cache
VECTOR = 16  # float32 numbers in the widest vector of a CPU
KEPT = 4  # networks that are kept for stacks of the same shape


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
        graphs: Callable[[Any], Any] | None = None,
    ):
        self.model, self.data, self.partition, self.config, self.tick = model, data, partition, config, tick
        self.device = data.train.labels.device
        self.by_hand = by_hand(model)
        self.graphs = graphs or (Graphed if self.device.type == "cuda" else None)
        # A copy of the examples in which those of a client lie side by side: minibatches are gathered from few places.
        own = partition.indices.to(self.device)
        self.labels = data.train.labels[own]
        self.pixels = data.train.images.flatten(1).index_select(0, own)  # (n, C H W) uint8
        self.stack_size = stack_size or default_stack_size(model, data, config)
        self.networks: dict[tuple[Any, ...], Any] = {}  # that were used last, for rounds of the same shape

    def train(self, clients: Sequence[int], t: int, w: State, correct: Correct = uncorrected) -> Iterator[Update]:
        """Algorithm 1: w_{t+1}^k <- ClientUpdate(k, w_t), for k in S_t, a stack at a time.

        Clients whose full minibatches differ in size are not stacked: padding would change the shapes of products,
        and with them a client's bits would depend on the company it is in.
        """
        alike: dict[int, list[Member]] = {}
        for k, (start, n_k) in zip(clients, self.partition.spans_of(clients), strict=True):
            alike.setdefault(min(self.config.batch_size or n_k, n_k), []).append(Member(k, start, n_k))
        for group in alike.values():
            for first in range(0, len(group), self.stack_size):
                # Every view and call is cheaper for tensors that autograd need not know; torch.func needs it to. And
                # no autocast: the layers see to their arithmetic themselves.
                with torch.inference_mode(self.by_hand), torch.autocast(self.device.type, enabled=False):
                    update = self.train_stack(group[first : first + self.stack_size], t, w, correct)
                yield update

    @torch.no_grad()
    def train_stack(self, members: Sequence[Member], t: int, w: State, correct: Correct) -> Update:
        c = self.config
        stack = sorted(members, key=lambda one: -one.n_k)  # those with most steps first
        steps = [steps_of(c, one.n_k) for one in stack]
        rows, weights = schedule(c, t, stack, self.device, self.data.dtype)  # (S, steps, B) each
        S, _, B = rows.shape

        correction = correct([one.k for one in stack]) or Correction()
        eta, optimizer, at_anchor = c.lr(t), None, None
        folded = c.optimizer == "sgd" and not c.momentum and correction.scale is None and correction.anchor is None
        network = self.network(S, B, folded)
        if folded:
            network.restart(w, eta, c.weight_decay + correction.pull, correction.drift)
        else:
            network.restart(w)
            optimizer = make_optimizer(network.stack.values(), c.optimizer, eta, c.momentum, c.weight_decay)
            if correction.anchor:
                at_anchor = self.network(S, B, folded, "anchor")
                at_anchor.restart(w)

        loss = torch.zeros(S, dtype=accumulator_dtype(self.device), device=self.device)
        L = max(BLOCK // B, 1)
        for first in range(0, steps[0], L):
            counts = [min(n - first, L) for n in steps if n > first]
            block = (slice(len(counts)), slice(first, first + counts[0]))
            chosen = rows[block]  # (active, l, B)
            x = self.data.normalise(self.pixels.index_select(0, chosen.flatten()))
            x = x.view(*chosen.shape, *self.data.shape)
            weight = side_by_side(weights[block])  # (l, columns)
            y = self.labels[side_by_side(chosen)]
            target = weight.new_zeros(len(y), self.data.classes, y.shape[1])
            target.scatter_(1, y.unsqueeze(1), weight.unsqueeze(1))
            logits = torch.zeros_like(target)  # (l, classes, columns)
            network.begin(x, counts)
            if at_anchor:
                at_anchor.begin(x, counts)
            for s, step in enumerate(zip(target.unbind(), weight.unbind(), logits.unbind(), strict=True)):
                active = sum(count > s for count in counts)
                if active < network.active:
                    network.narrow(active)
                    optimizer = narrowed(optimizer, network.stack, active)
                    correction = correction.of(active)
                    if at_anchor:
                        at_anchor.narrow(active)
                network.step(s, *step)
                if at_anchor:
                    at_anchor.step(s, *step[:2], torch.empty_like(step[2]))
                if optimizer:
                    corrected_step(optimizer, correction, network, at_anchor)
                self.tick()
            network.end()
            losses = F.cross_entropy(logits, y, reduction="none").where(weight > 0, 0)  # (l, columns)
            losses = losses[:, : chosen[:, 0].numel()].view(len(y), -1, B).transpose(0, 1).flatten(1)  # (active, l B)
            loss[: len(counts)].add_(losses.sum(1, dtype=loss.dtype))

        trained = network.stack
        if stack != list(members):
            back = send([stack.index(one) for one in members], torch.int64, self.device)
            trained, loss = {name: tensor[back] for name, tensor in trained.items()}, loss[back]
        reports = [
            Report(k, n_k, k_loss, c.local_epoch * n_k, steps_of(c, n_k))
            for (k, _, n_k), k_loss in zip(members, losses_of(loss), strict=True)
        ]
        return Update(reports, trained)

    def network(self, S: int, B: int, folded: bool, role: str = "") -> Any:
        """S networks for minibatches of B: those of an earlier stack of that shape, or new ones."""
        key = (S, B, folded, role)
        network = self.networks.pop(key, None)
        if network is None:
            w = {name: p.detach() for name, p in self.model.named_parameters()}
            stack = {name: stacked(p, S) for name, p in w.items()}
            if self.by_hand:
                network = Network(self.model, stack, folded, half(self.config), delay=self.graphs is None)
            else:
                network = Functional(self.model, stack, folded)
            network = self.graphs(network) if self.graphs else network
        self.networks[key] = network
        while len(self.networks) > KEPT:
            del self.networks[next(iter(self.networks))]
        return network

    def state(self) -> dict[str, Any]:
        return {"optimizers": {}}

    def load_state(self, state: dict[str, Any]) -> None:
        pass


def side_by_side(tensor: Tensor) -> Tensor:
    """(S, l, B) to (l, columns): the examples of a step's S minibatches one after another, and zeros.

    Classes come before them, in tensors (l, classes, columns): a softmax over the innermost ten is many times slower
    on a CPU. And columns is a multiple of VECTOR, as the bits of a softmax's last few are others.
    """
    S, l, B = tensor.shape
    columns = tensor.new_zeros(l, -(-S * B // VECTOR) * VECTOR)
    columns[:, : S * B].view(l, S, B).copy_(tensor.transpose(0, 1))
    return columns


def losses_of(loss: Tensor) -> Sequence[Tensor | float]:
    """One by one; read where reading does not wait."""
    return loss.tolist() if loss.device.type == "cpu" else loss.unbind()


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
    optimizer: torch.optim.Optimizer, correction: Correction, network: Any, at_anchor: Any
) -> None:
    """One step along the gradients that the networks have collected, corrected."""
    gradients = network.gradients()
    anchored = at_anchor.gradients() if at_anchor else [None] * len(gradients)
    parameters = optimizer.param_groups[0]["params"]
    for name, p, g, g_anchor in zip(network.stack, parameters, gradients, anchored, strict=True):
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
