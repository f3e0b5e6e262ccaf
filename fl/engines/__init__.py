"""How the clients of a round are executed.

An engine has `train(clients, t, w, correct)`, which yields Updates, each in ascending client order, and `state()` /
`load_state(state)` for what survives rounds and goes into a checkpoint. The sequential engine is the reference:
every other one must give its result. `distributed` is one of the two in each process of a fl.workers.Group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fl.config import Config
from fl.errors import FlagError
from fl.names import entry_of

if TYPE_CHECKING:
    from data.partition import Partition
    from fl.group import Group
    from fl.rounds import Engine
    from fl.task import Task

# Below this many (examples processed x parameters) a run ends before other processes would have started.
WORTH_STARTING = 5e10


def choose(config: Config, task: Task, partition: Partition) -> tuple[str, int]:
    """The engine of each process and the number of processes. Raises FlagError if the model cannot be stacked.

    What auto prefers was measured by benchmarks/rounds.py: on CPUs, one process a core where there are
    convolutions, whose threads scale worse than processes; a stack of clients in one process where there are
    not; and on a GPU a stack, one process a GPU.
    """
    import torch
    from torch import nn

    from fl.engines.network import by_hand
    from fl.engines.stacked import why_not

    obstacle = why_not(task.model)
    if config.precision == "bf16" and not by_hand(task.model):
        obstacle = "has layers that are not hand-made, and only those run in bf16"
    if entry_of("algorithm", config.algorithm).needs_stacking and obstacle:
        raise FlagError(f"--algorithm {config.algorithm}: {config.model} {obstacle}; choose another --model")
    if config.engine == "stacked" and obstacle:
        raise FlagError(f"--engine stacked: {config.model} {obstacle}; use --engine sequential or distributed")
    if config.engine == "sequential" or config.keep_optimizer_state:
        return "sequential", 1
    inner = "sequential" if obstacle else "stacked"
    if config.engine == "stacked":
        return inner, 1
    if task.device.type == "cuda":
        most = torch.cuda.device_count()
    else:
        most = torch.get_num_threads()
    workers = config.workers or max(1, min(most, config.num_select_clients))
    if config.engine == "auto" and not config.workers:
        work = config.global_epoch * config.num_select_clients * config.local_epoch
        work *= len(task.data.train) // len(partition) * task.parameters
        convolutions = any(isinstance(module, nn.Conv2d) for module in task.model.modules())
        if work < WORTH_STARTING or (task.device.type == "cpu" and not convolutions and not obstacle):
            workers = 1
    return inner, workers


def make_engine(
    name: str, config: Config, task: Task, partition: Partition, tick: Callable[[], None] = lambda: None
) -> Engine:
    """The engine of one process."""
    from fl.engines.sequential import Sequential
    from fl.engines.stacked import Stacked

    if name == "sequential":
        return Sequential(task.model, task.data, partition, config, tick)
    return Stacked(task.model, task.data, partition, config, tick, config.stack_size)


def assist(config: Config, group: Group) -> None:
    """What every process but the first does: the same rounds on its share of the clients, and no records."""
    from fl.attack import poisoned
    from fl.rounds import federated_averaging
    from fl.task import prepare, split

    task = prepare(config, group.device)
    partition = split(config, task.data)
    task = poisoned(task, partition, config)
    engine = make_engine(choose(config, task, partition)[0], config, task, partition)
    for _ in federated_averaging(task, partition, engine, config, group):
        pass
