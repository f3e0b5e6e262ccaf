"""Several processes that share out the clients of each round, over torch.distributed.

Rank 0 selects, aggregates, records and prints; every rank trains its share and holds the same model. Each uses
one thread on CPUs and one GPU each on CUDA. `--workers N` starts the others on this machine; under torchrun
they are there already, on one machine or several.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fl.config import Config
from fl.errors import FlagError, RunnerError, WorkerError

PRELOAD: list[str] = []  # modules that workers import before anything else


class Group:
    """The processes of this run; alone, a group of one whose operations do nothing."""

    rank = 0
    size = 1
    device: torch.device | None = None  # of this rank; None lets --device decide

    def share(self, clients: Sequence[int], sizes: Sequence[int]) -> list[int]:
        """This rank's clients, ascending: the largest first, each to the rank with the least work so far."""
        if self.size == 1:
            return sorted(clients)
        load = [0] * self.size
        mine = []
        for n_k, k in sorted(zip(sizes, clients, strict=True), key=lambda pair: (-pair[0], pair[1])):
            rank = load.index(min(load))
            load[rank] += n_k
            if rank == self.rank:
                mine.append(k)
        return sorted(mine)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of the ranks' tensors, in place, at every rank."""
        return tensor

    def max(self, tensor: Tensor) -> Tensor:
        """The elementwise maximum of the ranks' tensors, in place, at every rank."""
        return tensor

    def from_first(self, tensor: Tensor) -> Tensor:
        """Rank 0's tensor, in place, at every rank."""
        return tensor

    def content_from_first(self, content: Any) -> Any:
        """Rank 0's tensors, numbers, strings, dicts and lists, at every rank; on the CPU."""
        return content

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


class Distributed(Group):
    """A group over torch.distributed.

    Raises WorkerError when a rank dies, or answers nothing for `timeout` seconds.
    """

    def __init__(self, store: dist.Store | None, rank: int, size: int, device: torch.device, timeout: float):
        self.rank, self.size, self.device, self.timeout = rank, size, device, timeout
        self.children: list[BaseProcess] = []
        backend = "nccl" if device.type == "cuda" else "gloo"
        with self.translated("start"):
            dist.init_process_group(
                backend, store=store, rank=rank if store else -1, world_size=size if store else -1,
                timeout=timedelta(seconds=timeout),
            )  # fmt: skip

    @contextmanager
    def translated(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        except RuntimeError as error:  # of which torch.distributed's errors are
            seconds = time.monotonic() - began
            dead = [f"{child.name} ended with code {child.exitcode}" for child in self.children if not child.is_alive()]
            reason = "; ".join(dead) or (
                f"no answer within --timeout {self.timeout:g}" if seconds >= self.timeout else "a worker has gone"
            )
            raise WorkerError(f"rank {self.rank} of {self.size}, {what}: {reason}") from error

    def sum(self, tensor: Tensor) -> Tensor:
        return self._reduce(tensor, dist.ReduceOp.SUM)

    def max(self, tensor: Tensor) -> Tensor:
        return self._reduce(tensor, dist.ReduceOp.MAX)

    def _reduce(self, tensor: Tensor, op: Any) -> Tensor:
        with self.translated("reduce"):
            dist.all_reduce(tensor, op)
        return tensor

    def from_first(self, tensor: Tensor) -> Tensor:
        with self.translated("broadcast"):
            dist.broadcast(tensor, 0)
        return tensor

    def content_from_first(self, content: Any) -> Any:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        size = int(self.from_first(torch.tensor(len(buffer.getvalue()), device=self.device)))
        own = torch.frombuffer(bytearray(buffer.getvalue().ljust(size)[:size]), dtype=torch.uint8)
        sent = self.from_first(own.to(self.device)).cpu().numpy().tobytes()
        return torch.load(io.BytesIO(sent), weights_only=True, map_location="cpu")

    def __exit__(self, *exception: object) -> None:
        failed = exception[0] is not None
        if not failed:
            with self.translated("end"):
                dist.barrier()
            dist.destroy_process_group()
        for child in self.children:
            child.join(0 if failed else 10)
            child.kill()
            child.join()
        # After an error the peers may never answer: whoever is left finds the connection closed.


def launched_by_torchrun() -> bool:
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ and "MASTER_ADDR" in os.environ


def device_of(config: Config, rank: int) -> str:
    """The device of a rank of several: its own GPU."""
    kind = config.device.split(":")[0]
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    return f"cuda:{rank % max(torch.cuda.device_count(), 1)}" if kind == "cuda" else kind


def torchrun_device(config: Config) -> torch.device | None:
    """The device of this process if torchrun started it."""
    return torch.device(device_of(config, int(os.environ.get("LOCAL_RANK", "0")))) if launched_by_torchrun() else None


def group_of(config: Config, workers: int, work: Callable[[Config, Group], None]) -> Group:
    """The group of this run: torchrun's, or one of `workers` processes of which the others do `work`."""
    device = torchrun_device(config)
    if device is not None:
        if config.engine not in ("auto", "distributed"):
            raise FlagError(f"--engine {config.engine}: torchrun starts several processes; use distributed")
        _settle(device)
        return Distributed(None, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), device, config.timeout)
    if workers == 1 and config.engine != "distributed":
        return Group()
    return start(config, workers, work)


def start(config: Config, size: int, work: Callable[[Config, Group], None]) -> Distributed:
    """Start `size` - 1 processes that each call `work(config, group)`, and join them as rank 0."""
    store = dist.TCPStore(
        "127.0.0.1", 0, size, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=config.timeout)
    )
    # A server that has imported this module forks each worker: quick to start, and with no threads to inherit.
    context: Any = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
    if hasattr(os, "fork"):
        multiprocessing.set_forkserver_preload([*PRELOAD, __name__, work.__module__])
    children: list[BaseProcess] = []
    for rank in range(1, size):
        child = context.Process(
            target=_child, args=(config, rank, size, store.port, work), name=f"worker {rank}", daemon=True
        )
        child.start()
        children.append(child)
    device = torch.device(device_of(config, 0))
    _settle(device)
    try:
        group = Distributed(store, 0, size, device, config.timeout)
    except BaseException:
        for child in children:
            child.kill()
        raise
    group.children = children
    return group


def _settle(device: torch.device) -> None:
    if device.type == "cpu":
        torch.set_num_threads(1)
    else:
        torch.cuda.set_device(device)


def _child(config: Config, rank: int, size: int, port: int, work: Callable[[Config, Group], None]) -> None:
    """A worker's life: silent, and over when the first process is."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; rank 0 decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    device = torch.device(device_of(config, rank))
    _settle(device)
    try:
        store = dist.TCPStore("127.0.0.1", port, size, is_master=False, timeout=timedelta(seconds=config.timeout))
        with Distributed(store, rank, size, device, config.timeout) as group:
            work(config, group)
    except RunnerError:
        os._exit(WorkerError.exit_code)  # rank 0 meets the same trouble and is the one to tell of it
    os._exit(0)
