"""ClientUpdate of Algorithm 1 (McMahan et al. 2017, arXiv 1602.05629): the reference that engines must equal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.dataset import Dataset
from fl.device import accumulator_dtype

State = dict[str, Tensor]  # a state_dict: parameters and buffers by name


@dataclass(frozen=True)
class Report:
    """What client k tells of its training.

    loss: sum over the examples it processed, each before its step; () on the device until the round is over.
    """

    client: int
    n_k: int
    loss: Tensor | float
    examples: int
    steps: int


class Update(NamedTuple):
    """What S clients send back: their reports, and their models stacked: each tensor (S, ...), in that order."""

    reports: list[Report]
    w: State


def state_of(model: nn.Module) -> State:
    """A copy of the model's state_dict, detached from the model."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def load_state(model: nn.Module, w: State) -> None:
    """Copy w into the model in place: no new tensors, so optimizers and memory formats keep."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(w[name])


def make_optimizer(
    parameters: Iterable[Tensor], name: str, lr: float, momentum: float = 0.0, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """The local optimizer of --optimizer, with empty state."""
    parameters = list(parameters)
    if name == "sgd":
        return torch.optim.SGD(parameters, lr, momentum=momentum, weight_decay=weight_decay)
    return torch.optim.Adam(parameters, lr, weight_decay=weight_decay)


def minibatches(indices: Tensor, orders: Iterable[Tensor], B: int) -> Iterator[Tensor]:
    """One epoch after another of a client's examples, cut into batches of B; the last of an epoch may be smaller.

    indices (n_k,), orders: a permutation of range(n_k) for each epoch. B = 0 is the whole data set.
    """
    for order in orders:
        yield from indices[order].split(B or len(indices))


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Dataset,
    batches: Iterable[Tensor],
    tick: Callable[[], None] = lambda: None,
) -> tuple[Tensor, int, int]:
    """One step w <- w - eta grad l(w; b) for each batch b (B,) of example numbers, and a tick.

    Returns the summed loss () on the device, the examples processed and the steps taken.
    """
    model.train()
    device = data.train.labels.device
    loss_sum = torch.zeros((), dtype=accumulator_dtype(device), device=device)
    examples = steps = 0
    for b in batches:
        x, y = data.batch(data.train, b)  # (B, C, H, W), (B,)
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        # Stays on the device: reading it here would make every step wait for the GPU.
        loss_sum += loss.detach() * len(b)
        examples += len(b)
        steps += 1
        tick()
    return loss_sum, examples, steps


def offload(value: Any) -> Any:
    """A copy of a nested state on the CPU: kept state must not fill the device."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: offload(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [offload(inner) for inner in value]
    return value
