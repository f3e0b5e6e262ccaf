"""Starting the processes of a run. `--workers N` starts them on this machine; under torchrun they are there already,
on one machine or several. Each uses one thread on CPUs and one GPU on CUDA.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pkgutil
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from fl.config import Config
from fl.errors import DataError, DivergedError, FlagError, WorkerError
from fl.group import Group
from fl.guard import complain_of_own, explain
from fl.launch import torchrun
from fl.processes.distributed import Distributed
from fl.processes.worker import PRELOAD, announce
from fl.signals import without_terminal
from fl.streams import complain, heard


def device_of(config: Config, rank: int) -> torch.device:
    """The device of a rank of several on this machine: its own GPU."""
    if ":" in config.device:  # one GPU, for a run of one process
        return torch.device(config.device)
    kind = config.device
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(f"cuda:{rank % max(torch.cuda.device_count(), 1)}" if kind == "cuda" else kind)


def torchrun_device(config: Config) -> torch.device | None:
    """The device of this process if torchrun started it. Raises FlagError if there is no GPU left for it."""
    launch = torchrun()
    if launch is None:
        return None
    device = device_of(config, launch.local_rank)
    gpus = 1 if ":" in config.device else torch.cuda.device_count()
    if device.type == "cuda" and launch.local_rank >= gpus:  # NCCL refuses two processes on one GPU
        raise FlagError(
            f"--device {config.device}: process {launch.local_rank + 1} of this machine has no GPU of its own, because "
            f"each takes one of {gpus}; give torchrun --nproc_per_node {max(gpus, 1)}, or use --device cpu"
        )
    return device


def group_of(config: Config, workers: int, work: Callable[[Config, Group], None]) -> Group:
    """The group of this run: torchrun's, or one of `workers` processes of which the others do `work`."""
    if launch := torchrun():
        device = device_of(config, launch.local_rank)
        _settle(device)
        return Distributed(launch.rank, launch.world_size, device, config.timeout)
    if has_one_thread(config, workers):
        torch.set_num_threads(1)
    if workers == 1 and config.engine != "distributed":
        return Group()
    return start(config, workers, work)


def has_one_thread(config: Config, workers: int) -> bool:
    """Whether each of `workers` processes uses one thread: on CPUs, with several processes or with --engine auto.

    If --engine auto starts only one process, there is too little work for a second thread. The exception is
    --keep_optimizer_state: then there is one process even for much work, and it keeps its threads.
    """
    several = workers > 1 or config.engine == "distributed"
    little = config.engine == "auto" and not config.keep_optimizer_state
    return device_of(config, 0).type == "cpu" and (several or little)


def start(config: Config, size: int, work: Callable[[Config, Group], None]) -> Distributed:
    """Start `size` - 1 processes that each call `work(config, group)`, and join them as rank 0.

    work: a function of a module, because it travels by name.
    """
    device = device_of(config, 0)
    _settle(device)
    with meeting_place() as (path, inherited), on_loopback():
        job = {
            "config": dataclasses.asdict(config), "size": size, "path": path,
            "work": f"{work.__module__}:{work.__qualname__}", "preload": PRELOAD,
        }  # fmt: skip
        children: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(1, size):
                children.append(_child(job | {"rank": rank}, inherited))
        except BaseException as error:
            for child in children:
                child.kill()
            if isinstance(error, OSError):
                raise WorkerError(f"--workers {size}: worker {len(children) + 1} cannot start ({error})") from None
            raise
        return Distributed(0, size, device, config.timeout, lambda: dist.FileStore(path, size), children)


def _child(job: dict[str, Any], inherited: Sequence[int]) -> subprocess.Popen[bytes]:
    """A worker process with its job on its stdin, which stays open for as long as this process lives.

    On its stdout it says that it is about to join, and nothing else.
    """
    code = (
        "import sys; sys.path[:] = sys.argv[1:]; "
        "from fl.processes.worker import main; main('fl.processes.workers:work_as')"
    )
    with without_terminal():  # rank 0 decides what follows
        child = subprocess.Popen(
            [sys.executable, "-c", code, *map(os.path.abspath, sys.path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=inherited,
        )  # fmt: skip
    assert child.stdin
    with suppress(BrokenPipeError):  # it is gone already, which `look_after` notices
        child.stdin.write(json.dumps(job).encode() + b"\n")
        child.stdin.flush()
    return child


@contextmanager
def meeting_place() -> Iterator[tuple[str, list[int]]]:
    """The path of a file over which local ranks find each other, and the descriptors that they inherit for it.

    No one else can open it: on Linux it has no name in any folder, so that even kill -9 leaves nothing behind;
    elsewhere it lies in a private folder.
    """
    descriptor = os.memfd_create("ranks") if hasattr(os, "memfd_create") else -1
    if descriptor >= 0 and os.path.exists(f"/proc/self/fd/{descriptor}"):
        # It stays open until this process ends. A store goes by its path, and may outlive its start: one that failed
        # may still wait in its thread, and a store writes once more when it is let go. If the descriptor were closed,
        # its number could come to stand for any other file.
        yield f"/proc/self/fd/{descriptor}", [descriptor]
        return
    folder = tempfile.mkdtemp()
    try:
        yield str(Path(folder) / "ranks"), []
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def on_loopback() -> Iterator[None]:
    """Local ranks talk over the loopback interface only: no other machine can reach them."""
    names = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    before = {key: os.environ.get(key) for key in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")}
    try:
        for key in before if names else ():
            os.environ[key] = names[0]
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value


def _settle(device: torch.device) -> None:
    if device.type == "cpu":
        torch.set_num_threads(1)
    else:
        torch.cuda.set_device(device)


def work_as(job: dict[str, Any]) -> int:
    """A worker's life: its work as rank job["rank"]; returns its exit code."""
    for module in job["preload"]:
        pkgutil.resolve_name(module)
    flags: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in job["config"].items()}
    config, rank, size = Config(**flags), job["rank"], job["size"]
    device = device_of(config, rank)
    _settle(device)
    heard[0] = False
    try:
        announce()
        with Distributed(rank, size, device, config.timeout, lambda: dist.FileStore(job["path"], size)) as group:
            pkgutil.resolve_name(job["work"])(config, group)
    except Exception as error:
        verdict = explain(error)
        if verdict is None:
            raise
        code, text = verdict
        if code == DivergedError.exit_code:
            threading.Event().wait()  # rank 0 meets it too, says so, and ends this process
        if code in (FlagError.exit_code, DataError.exit_code):
            time.sleep(1)  # rank 0 mostly meets it too, says so, and ends this process
        if not isinstance(error, WorkerError):  # out of memory, say, of which rank 0 would not know
            complain(f"worker {rank}: {text}")
            complain_of_own(error)
        return WorkerError.exit_code  # rank 0 notices, and tells of it
    return 0
