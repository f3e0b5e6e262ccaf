"""ClientUpdate of Algorithm 1 (McMahan et al. 2017, arXiv 1602.05629): the reference that engines must equal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from data.dataset import IGNORED, Dataset
from data.partition import Partition
from fl.config import Config
from fl.device import accumulator_dtype
from fl.rng import shuffles, visit_draws
from fl.state import NO_CORRECTION, Correction, State


def first_names(model: nn.Module) -> dict[str, str]:
    """For each name of the state_dict the first one that its tensor has there, because layers may share a tensor."""
    first: dict[int, str] = {}
    # keep_vars=True gives the model's own tensor objects. Otherwise each name would have a new object with another id.
    return {name: first.setdefault(id(v), name) for name, v in model.state_dict(keep_vars=True).items()}


def tensors_of(model: nn.Module) -> State:
    """The tensors of the model's state_dict, detached, each under its first name alone."""
    tensors = model.state_dict(keep_vars=True)
    first = {id(v): name for name, v in reversed(tensors.items())}
    return {name: v.detach() for name, v in tensors.items() if first[id(v)] == name}


def state_of(model: nn.Module) -> State:
    """A copy of the model's tensors."""
    return {name: tensor.clone() for name, tensor in tensors_of(model).items()}


def load_state(model: nn.Module, w: State) -> None:
    """Copy w into the model's tensors in place, so that optimizers still refer to them and memory formats stay."""
    with torch.no_grad():
        for name, tensor in tensors_of(model).items():
            tensor.copy_(w[name])


def make_optimizer(parameters: Iterable[Tensor], config: Config, eta: float) -> torch.optim.Optimizer:
    """The local optimizer of --optimizer with learning rate eta and empty state."""
    c, parameters = config, list(parameters)
    if c.optimizer == "sgd":
        return torch.optim.SGD(parameters, eta, momentum=c.momentum, weight_decay=c.weight_decay)
    return torch.optim.Adam(parameters, eta, weight_decay=c.weight_decay)


class Batch(NamedTuple):
    """Examples in the order of their visits: their indices (b,), and the draws (b,) of a data set that augments."""

    rows: Tensor
    draws: Tensor | None


def one_pass(data: Dataset, seed: int, k: int, e: int, n: int) -> Batch:
    """Pass e of client k over its n examples, as positions in range(n)."""
    device = data.train.targets.device
    order = shuffles(seed, [(k, e)], n, device)[0]
    return Batch(order, visit_draws(seed, [(k, e)], n, device)[0] if data.augment else None)


def minibatches(indices: Tensor, passes: Iterable[Batch], B: int) -> Iterator[Batch]:
    """One pass after another over a client's examples, cut into batches of B; the last of a pass may be smaller.

    indices (n_k,): those of its examples in the training set. B = 0 puts all of them into one batch.
    """
    size = B or len(indices)
    for order, draws in passes:
        yield from map(Batch, indices[order].split(size), repeat(None) if draws is None else draws.split(size))


def steps_of(config: Config, n_k: int, E: int | None = None) -> int:
    """Local steps of a client with n_k examples in a round: E ceil(n_k / B), where E is --local_epoch if not given."""
    return (E or config.local_epoch) * -(-n_k // (config.batch_size or n_k))


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Dataset,
    batches: Iterable[Batch],
    tick: Callable[[int], None] = lambda steps: None,
    correction: Correction = NO_CORRECTION,
) -> tuple[Tensor, int, int]:
    """One step w <- w - eta grad l(w; b) for each batch b of training examples, and a tick.

    correction: what an algorithm other than FedAvg does to the gradient.
    Returns the summed loss () on the device, the examples processed and the steps taken. A batch's loss is the mean
    over all targets in it that count; in the sum it is multiplied by the number of examples in the batch.
    """
    model.train()
    device = data.train.targets.device
    loss_sum = torch.zeros((), dtype=accumulator_dtype(device), device=device)
    examples = steps = 0
    for rows, draws in batches:
        x, y = data.inputs(rows, draws), data.train.targets[rows]  # (B, ...), (B,) or (B, T)
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        if correction is not NO_CORRECTION:
            correct(model, correction, x, y)
        optimizer.step()
        # Stays on the device: reading it here would make every step wait for the GPU.
        loss_sum += loss.detach() * len(rows)
        examples += len(rows)
        steps += 1
        tick(1)
    return loss_sum, examples, steps


def correct(model: nn.Module, correction: Correction, x: Tensor, y: Tensor) -> None:
    """Correct the gradients of one client, those of the minibatch x (B, ...), y, in place."""
    parameters = dict(model.named_parameters())
    at_anchor: dict[str, Tensor] = {}
    if correction.anchor:
        anchor = {name: correction.anchor[name][0].detach().requires_grad_() for name in parameters}
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}  # left as they are
        loss = F.cross_entropy(functional_call(model, anchor | buffers, (x,)), y)
        gradients = torch.autograd.grad(loss, list(anchor.values()), allow_unused=True, materialize_grads=True)
        at_anchor = {name: g.unsqueeze(0) for name, g in zip(anchor, gradients, strict=True)}
    for name, p in parameters.items():
        if p.grad is None:  # frozen, or not used by the model
            continue
        correction.apply(name, p.grad.unsqueeze(0), p.detach().unsqueeze(0), at_anchor.get(name))


def gradient_sum(model: nn.Module, data: Dataset, indices: Tensor) -> State:
    """n_k times the gradient of the mean loss over the examples `indices` (n_k,) at the model's weights, by parameter.

    The examples are not augmented, because augmentation is drawn for each visit in a pass, and this is no pass. The
    gradient is zero for parameters that the model does not use.
    """
    model.train()
    parameters = dict(model.named_parameters())
    total = {name: torch.zeros_like(p, requires_grad=False) for name, p in parameters.items()}
    for b in indices.split(500):
        x, y = data.batch(data.train, b)
        loss = F.cross_entropy(model(x), y, reduction="sum")
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
        for name, g in zip(parameters, gradients, strict=True):
            total[name] += g
    if data.train.targets.dim() > 1:  # the mean is over their targets
        scale = len(indices) / int((data.train.targets[indices] != IGNORED).sum())
        total = {name: g * scale for name, g in total.items()}
    return total


def gradient_sums(
    model: nn.Module, data: Dataset, partition: Partition, clients: Iterable[int], w: State
) -> Iterator[tuple[int, State]]:
    """k and its `gradient_sum` at w, for each of the clients."""
    load_state(model, w)
    for k in clients:
        yield k, gradient_sum(model, data, partition[k].to(data.train.targets.device))


def offload(value: Any) -> Any:
    """A copy of a nested state on the CPU: kept state must not fill the device."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: offload(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [offload(inner) for inner in value]
    return value
