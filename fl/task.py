"""From flags to what a run trains: the data set on its device, the partition, the model with its first weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from data.dataset import Dataset
from fl.client import State, state_of
from fl.config import Config
from fl.device import choose_device, keep_freed_memory, make_deterministic
from fl.parts import build_model, load_data
from fl.parts import split as split


@dataclass(frozen=True)
class Task:
    """model: the one resident network, holding w_0 at first. data: on the same device."""

    data: Dataset
    model: nn.Module
    device: torch.device

    @property
    def w(self) -> State:
        """A copy of the model's current state."""
        return state_of(self.model)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    @property
    def model_bytes(self) -> int:
        """What one transfer of the model costs: parameters and buffers."""
        return sum(tensor.nbytes for tensor in self.model.state_dict().values())


def prepare(config: Config, device: torch.device | None = None) -> Task:
    """Load the data and build the model, on `device` or that of --device.

    Raises FlagError (exit 2) and DataError (exit 3).
    """
    device = device or choose_device(config.device)
    make_deterministic(config.precision, device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # CUDA graphs are recorded on a stream of the current device
    keep_freed_memory()
    data = load_data(config)
    return Task(data.to(device), build_model(config, data).to(device), device)
