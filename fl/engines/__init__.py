"""How the clients of a round are executed.

fl/engines/engine.py says what an engine is. The sequential engine is the reference, whose result the stacked one must
give. `distributed` is one of the two in each process of a fl.group.Group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fl.config import Config
from fl.cores import cores
from fl.errors import FlagError
from fl.names import entry_of

if TYPE_CHECKING:
    from fl.engines.engine import Engine
    from fl.experiment import Experiment
    from fl.group import Group

# The first two: multiply-adds of a run's forward passes above which starting more processes pays, on CPUs (about four
# seconds of one core's work) and on GPUs. The third: those of a round above which sharing it between processes pays.
WORTH_STARTING, WORTH_STARTING_ON_GPUS, WORTH_SHARING = 4e10, 1e12, 1e8


def choose(x: Experiment) -> tuple[str, int]:
    """The engine of each process and the number of processes.

    Raises FlagError if --engine stacked or the --algorithm needs a model that can be stacked, and this one cannot.

    auto starts one process per core on CPUs, which benchmarks/rounds.py showed to be fastest, and one per GPU on CUDA;
    where there is too little work to share, it starts a single one. On CPUs each process has one thread
    (fl/processes/workers.py), because threads that wait for each other at every layer crawl when another program
    takes a core from one of them, while processes wait for each other once a round.
    """
    config, obstacle = x.config, check_stackable(x)
    asked = config.workers or config.engine == "distributed"  # for several processes
    if config.engine == "sequential" or (config.keep_optimizer_state and not asked):
        return "sequential", 1
    # A stack has one optimizer, which begins every round afresh.
    inner = "sequential" if obstacle or config.keep_optimizer_state else "stacked"
    return inner, 1 if config.engine == "stacked" else processes_of(x)


def check_stackable(x: Experiment) -> str | None:
    """What keeps the clients' models from being stacked, if anything does. Raises FlagError if they have to be."""
    from fl.engines.stacked import has_hand_made_layers, has_unused, obstacle_to_stacking

    config, algorithm = x.config, entry_of("algorithm", x.config.algorithm)
    # Looked for only where it matters, because it may take a trial of the model.
    matters = config.engine != "sequential" or algorithm.needs_stacking
    obstacle = obstacle_to_stacking(x.model, x.data) if matters else None
    if config.precision == "bf16" and not has_hand_made_layers(x.model, x.data.shape):
        obstacle = "has layers that are not hand-made, and only those run in bf16"
    if config.weight_decay and matters and not obstacle and has_unused(x.model, x.data):
        obstacle = "has parameters that it does not use, which --weight_decay would move in a stack"
    if algorithm.needs_stacking and obstacle:
        raise FlagError(f"--algorithm {config.algorithm}: {config.model} {obstacle}; choose another --model")
    if config.engine == "stacked" and obstacle:
        raise FlagError(f"--engine stacked: {config.model} {obstacle}; use --engine sequential or distributed")
    return obstacle


def processes_of(x: Experiment) -> int:
    """How many processes share the clients of each round. Raises FlagError for more than there are GPUs."""
    import torch

    from fl.engines.cost import multiply_adds

    config = x.config
    is_one = ":" in config.device or x.device.type == "mps"
    if is_one and config.workers > 1:
        raise FlagError(f"--workers {config.workers}: --device {config.device} is one device; leave one of the two out")
    if x.device.type == "cuda":
        most, worth_starting = 1 if is_one else torch.cuda.device_count(), WORTH_STARTING_ON_GPUS
        if config.workers > most:  # NCCL refuses two processes on one GPU, in words of its own
            raise FlagError(f"--workers {config.workers}: each takes a GPU, and there are {most}; ask for no more")
    else:  # Apple's GPU is one device for all processes
        here = min(torch.get_num_threads(), cores())
        most, worth_starting = here if x.device.type == "cpu" else 1, WORTH_STARTING
    workers = config.workers or max(1, min(most, config.num_select_clients))
    if config.engine == "auto" and not config.workers and workers > 1:
        examples = config.num_select_clients * config.local_epoch * len(x.data.train) // len(x.partition)
        a_round = examples * multiply_adds(x.model, x.data.batch(x.data.train, slice(1))[0])
        if a_round < WORTH_SHARING or config.global_epoch * a_round < worth_starting:
            return 1
    return workers


def make_engine(name: str, x: Experiment, tick: Callable[[int], None] = lambda steps: None) -> Engine:
    """The engine of one process."""
    from fl.engines.sequential import Sequential
    from fl.engines.stacked import Stacked

    if name == "sequential":
        return Sequential(x.model, x.data, x.partition, x.config, tick)
    return Stacked(x.model, x.data, x.partition, x.config, tick, x.config.stack_size)


def assist(config: Config, group: Group) -> None:
    """What every process but the first does: the same rounds on its share of the clients, and no records."""
    from fl.experiment import federated
    from fl.personalise import take_part

    x = federated(config, group.device)
    take_part(x, make_engine(choose(x)[0], x), group)
