"""Steps recorded as CUDA graphs.

A minibatch of ten is some forty kernels of a few microseconds: launched one by one from Python they leave a GPU
waiting. The first step is taken as it is, which is the warm-up; the second is recorded, and from then on replayed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from fl.client import State
from fl.engines.network import prefix

Replay = Callable[[], None]


def cuda_graph(step: Callable[[], None]) -> Replay:
    """Record the kernels that `step` launches, which do not run yet; the result launches them all at once.

    No step finds anything in the graphs' own memory that another left there, so they may share it.
    """
    graph = torch.cuda.CUDAGraph()
    # thread_local: another thread may ask CUDA something meanwhile, as NCCL's watchdog does.
    with torch.cuda.graph(graph, pool=_pool(), capture_error_mode="thread_local"):
        step()
    replay: Replay = graph.replay
    return replay


@cache
def _pool() -> Any:
    return torch.cuda.graph_pool_handle()


class Graphed:
    """A network whose steps are replayed; the interface of network.Network.

    A graph holds addresses, so every step's inputs are copied to one place, and the network's parameters stay where
    they are from round to round. It holds numbers, too: another eta, decay or number of active clients is another
    graph. What an optimizer does after the step is not part of it.
    """

    def __init__(self, network: Any, record: Callable[[Callable[[], None]], Replay] = cuda_graph):
        self.network, self.record = network, record
        self.replays: dict[int, Replay | None] = {}  # by active clients; None after the first step of so many
        self.numbers: Any = None
        self.place: list[Tensor] = []  # one step's x (S, 1, B, C, H, W), target, weight and logits
        self.stack, self.folded = network.stack, network.folded

    @property
    def active(self) -> int:
        active: int = self.network.active
        return active

    def restart(self, w: State, eta: float | None = None, decay: float = 0.0, drift: State | None = None) -> None:
        self.network.restart(w, eta, decay, drift)
        numbers = eta, decay, drift is None
        if numbers != self.numbers:
            self.numbers, self.replays = numbers, {}

    def narrow(self, active: int) -> None:
        self.network.narrow(active)

    def gradients(self) -> list[Tensor]:
        gradients: list[Tensor] = self.network.gradients()
        return gradients

    def begin(self, x: Tensor, counts: Sequence[int]) -> None:
        self.x = x.split(1, 1)

    def step(self, s: int, target: Tensor, weight: Tensor, logits: Tensor) -> None:
        active = self.active
        inputs = [prefix(self.x[s], active), target, weight]
        if not self.place:  # at the first step all clients are active
            self.place = [torch.empty_like(tensor) for tensor in (*inputs, logits)]
        place = [prefix(self.place[0], active), *self.place[1:]]
        columns = len(weight)  # of a block that begins with fewer clients than another, fewer than there is place for
        for to, tensor in zip(place, inputs, strict=False):
            to.narrow(-1, 0, tensor.shape[-1]).copy_(tensor)

        def step() -> None:
            self.network.begin(place[0], [1] * active)
            self.network.step(0, *place[1:])
            self.network.end()

        if active not in self.replays:
            step()
            self.replays[active] = None
        else:
            replay = self.replays[active] or self.recorded(step)
            replay()
            self.replays[active] = replay
        logits.copy_(place[3][:, :columns])

    def recorded(self, step: Callable[[], None]) -> Replay:
        """The step's graph, or the step itself if it does what no graph can hold."""
        try:
            return self.record(step)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            warnings.warn(f"steps cannot be recorded as a CUDA graph and run one by one: {reason}", stacklevel=2)
            return step

    def end(self) -> None:
        pass
