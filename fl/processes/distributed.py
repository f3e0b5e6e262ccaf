"""A group of several processes, over torch.distributed. fl/processes/workers.py starts them."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fl.errors import WorkerError
from fl.group import Group
from fl.signals import handled, held, obey, strike

REAPED_SECONDS = 1.0  # how long the exit code of a worker that has gone may take to arrive
STARTING_SECONDS = 60.0  # that a worker may take to start at the least, because on a busy machine it loads torch slowly
PATIENCE_SECONDS = 0.2  # how long a wait for other processes goes on without a look at signals and workers


class Distributed(Group):
    """A group over torch.distributed.

    children: the other ranks, if this process started them; else torchrun did. store: makes the store where all meet.
    Raises WorkerError when a rank dies, or answers nothing for `timeout` seconds.
    """

    device: torch.device

    half_way = False  # whether a start of this process failed while it joined; then torch.distributed joins no other

    def __init__(
        self, rank: int, size: int, device: torch.device, timeout: float,
        store: Callable[[], dist.Store] | None = None, children: Sequence[subprocess.Popen[bytes]] = (),
    ):  # fmt: skip
        self.rank, self.size, self.device, self.timeout, self.children = rank, size, device, timeout, children
        self.ending = False  # from here on workers may end
        self.stack = ExitStack()
        if children and hasattr(signal, "SIGCHLD"):
            self.stack.enter_context(handled([signal.SIGCHLD], lambda number, frame: self.look_after(strike)))
        try:
            self.join(store)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise

    def join(self, store: Callable[[], dist.Store] | None) -> None:
        """Meet the other ranks, which may still be starting."""
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        rank, size = (self.rank, self.size) if store else (-1, -1)  # torchrun's are in the environment
        failed: list[BaseException] = []

        def meet() -> None:
            try:
                place, timeout = store() if store else None, timedelta(seconds=self.timeout)
                dist.init_process_group(backend, store=place, rank=rank, world_size=size, timeout=timeout)
            except BaseException as error:
                failed.append(error)

        if Distributed.half_way:
            raise WorkerError("an earlier start in this process failed while it met its workers; begin a new process")
        with self.translated("start"):
            self.gather()
            # In a thread of its own, because it blocks in C++, where no signal is handled and which nothing can end.
            thread = threading.Thread(target=meet, daemon=True)
            Distributed.half_way = True
            thread.start()
            while thread.is_alive():
                self.look_around()
                thread.join(PATIENCE_SECONDS)
            if failed:
                raise failed[0]
            Distributed.half_way = False
            if store:
                # No rank needs the store any more once all have come so far, and then its file may go.
                self.sum(torch.zeros(1, device=self.device))

    def gather(self) -> None:
        """Wait until every worker that this process started has said that it is about to join."""
        deadline = time.monotonic() + max(self.timeout, STARTING_SECONDS)
        for child in self.children:
            words: list[bytes] = []
            # In a thread, because a read cannot be interrupted; it ends when the worker does.
            thread = threading.Thread(target=hear, args=(child, words), daemon=True)
            thread.start()
            while thread.is_alive():
                self.look_around()
                if time.monotonic() > deadline:
                    raise RuntimeError("a worker has not said that it is about to join")
                thread.join(PATIENCE_SECONDS)
            if not any(words):
                raise RuntimeError("a worker has ended")

    def look_around(self) -> None:
        """Obey signals and notice lost workers while we wait."""
        obey()
        self.look_after(self.fail)

    def look_after(self, react: Callable[[WorkerError], None]) -> None:
        dead = [f"worker {rank} ended with code {child.returncode}" for rank, child in self.lost()]
        if dead and not self.ending:
            react(WorkerError(f"rank {self.rank} of {self.size}: {'; '.join(dead)}"))

    def lost(self) -> list[tuple[int, subprocess.Popen[bytes]]]:
        return [(rank, child) for rank, child in enumerate(self.children, 1) if child.poll() is not None]

    def fail(self, error: WorkerError) -> None:
        raise error

    @contextmanager
    def translated(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        except RuntimeError as error:  # of which torch.distributed's errors are
            deadline = time.monotonic() + REAPED_SECONDS
            while self.children and not self.lost() and time.monotonic() < deadline:
                time.sleep(0.01)  # a dead worker's connection closes before its exit code is known
            self.look_after(self.fail)
            late = time.monotonic() - began >= self.timeout
            said = str(error).strip().partition("\n")[0]
            gone = f"a worker has gone ({said})" if said else "a worker has gone"
            reason = f"no answer within --timeout {self.timeout:g}" if late else gone
            raise WorkerError(f"rank {self.rank} of {self.size}, {what}: {reason}") from error

    def wait(self, what: str, begin: Callable[[], Any]) -> None:
        """Wait for an operation that `begin` starts, without a moment in which a signal would go unheard."""
        with self.translated(what):
            work = begin()
            try:
                while not work.is_completed():
                    self.look_around()
                    if self.device.type == "cuda":
                        time.sleep(1e-4)  # NCCL's `wait` returns at once and leaves the waiting to the GPU
                    else:
                        with suppress(RuntimeError):  # a timeout; the last work.wait() raises any other error again
                            work.wait(timedelta(seconds=PATIENCE_SECONDS))
                work.wait()
            finally:
                del work  # a traceback would keep it until its process group is gone, and C++ aborts on what is left

    def sum(self, tensor: Tensor) -> Tensor:
        self.wait("reduce", lambda: dist.all_reduce(tensor, dist.ReduceOp.SUM, async_op=True))
        return tensor

    def max(self, tensor: Tensor) -> Tensor:
        self.wait("reduce", lambda: dist.all_reduce(tensor, dist.ReduceOp.MAX, async_op=True))
        return tensor

    def from_first(self, tensor: Tensor) -> Tensor:
        return self.broadcast(tensor, 0)

    def broadcast(self, tensor: Tensor, rank: int) -> Tensor:
        self.wait("broadcast", lambda: dist.broadcast(tensor, rank, async_op=True))
        return tensor

    def content_from(self, rank: int, content: Any) -> Any:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        size = int(self.broadcast(torch.tensor(len(buffer.getvalue()), device=self.device), rank))
        packed = torch.frombuffer(bytearray(buffer.getvalue().ljust(size)[:size]), dtype=torch.uint8)
        sent = self.broadcast(packed.to(self.device), rank).cpu().numpy().tobytes()
        return torch.load(io.BytesIO(sent), weights_only=True, map_location="cpu")

    def rounds(self, first: int, last: int) -> Iterator[int]:
        for t in range(first, last + 1):
            if not self.another_round(True):
                return
            self.awaited = t < last
            yield t

    def another_round(self, yes: bool) -> bool:
        """Whether rank 0 begins another round."""
        return bool(self.from_first(torch.tensor(int(yes), device=self.device)))

    def end_rounds(self) -> None:
        if self.rank == 0 and self.awaited:
            self.another_round(False)
            self.awaited = False

    def __exit__(self, *exception: object) -> None:
        self.ending = True
        try:
            # Ranks that torchrun started end together. Our own workers wait here for their end, which is below.
            if exception[0] is None and not self.children:
                self.end_rounds()
                self.wait("end", lambda: dist.barrier(async_op=True))
                dist.destroy_process_group()
        finally:
            with held():
                for child in self.children:
                    child.kill()
                    child.wait()
                    for pipe in filter(None, (child.stdin, child.stdout)):
                        with suppress(BrokenPipeError):  # what a worker that died early was to be told is still there
                            pipe.close()
                if self.children and dist.is_initialized():
                    dist.destroy_process_group()
            self.stack.close()


def hear(child: subprocess.Popen[bytes], words: list[bytes]) -> None:
    """Put the first byte that the worker says on its stdout into `words`; nothing if it ends without."""
    assert child.stdout
    words.append(child.stdout.read(1))
