"""From flags to what a run trains: the data set on its device, the partition, the model with its first weights."""

from __future__ import annotations

import inspect
import pkgutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from data import DATASETS, PARTITIONS
from data.dataset import Dataset
from data.partition import Partition
from fl.client import state_of
from fl.config import Config
from fl.device import choose_device, keep_freed_memory, make_deterministic
from fl.models import MODELS
from fl.rng import seeded
from fl.state import State


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
    data = pkgutil.resolve_name(DATASETS[config.dataset])(Path(config.data_dir))
    # Built on the CPU from its own stream: the same first weights on every device and for every partition.
    with seeded(config.seed, "model"):
        model = pkgutil.resolve_name(MODELS[config.model])(data.shape, data.classes)
    # Convolutions are faster with the channels innermost; nothing else changes.
    model = model.to(device, memory_format=torch.channels_last)
    return Task(data.to(device), model, device)


def split(config: Config, data: Dataset) -> Partition:
    """The partition of --partition. Its keyword arguments are the flags of the same names."""
    partitioner = pkgutil.resolve_name(PARTITIONS[config.partition])
    own = list(inspect.signature(partitioner).parameters)[3:]
    labels = data.train.targets.cpu()
    return partitioner(labels, config.num_clients, config.seed, **{name: getattr(config, name) for name in own})
