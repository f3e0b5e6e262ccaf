"""Steps recorded as CUDA graphs.

A minibatch of ten is some forty kernels of a few microseconds: launched one by one from Python they leave a GPU
waiting. The first steps are taken as they are, which is the warm-up; the next is recorded, and from then on replayed.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fl.engines.stacked.network import Network, first_clients
from fl.state import NO_CORRECTION, Correction, State

Replay = Callable[[], None]
Recorder = Callable[[Callable[[], None]], Replay]
EAGER = 3  # steps before one is recorded: recording waits for the GPU, and is worth it where many steps follow


def cuda_graphs() -> Recorder:
    """Record the kernels that a step launches, which do not run yet; the result launches them all at once."""
    stream = torch.cuda.Stream()  # its own: libraries keep work space by stream, which goes with the graphs

    def record(step: Callable[[], None]) -> Replay:
        graph = torch.cuda.CUDAGraph()
        # The outer context brings the current stream back also if the recording fails to begin. thread_local: another
        # thread may ask CUDA something meanwhile, as NCCL's watchdog does.
        with (
            torch.cuda.stream(torch.cuda.current_stream()),
            torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
        ):
            step()
        replay: Replay = graph.replay
        return replay

    return record


class Graphed:
    """A network whose steps are replayed; a Network itself.

    A graph stores addresses, so every step's inputs are copied to the same buffers, and the network's parameters stay
    where they are from round to round. It also stores numbers: another eta, decay, pull or number of active clients
    needs a new graph, and so do correction tensors of other shapes. The optimizer's step is not part of the graph.
    """

    def __init__(self, network: Network, record: Recorder | None = None):
        self.network, self.record = network, record or cuda_graphs()
        self.replays: dict[int, Replay] = {}  # by active clients
        self.taken: Counter[int] = Counter()  # steps as they are, by active clients
        self.numbers: tuple[Any, ...] | None = None
        self.place: list[Tensor] = []  # one step's x (S, 1, B, ...), target, weight and logits
        self.parameters = network.parameters

    @property
    def active(self) -> int:
        return self.network.active

    def start_round(
        self, w: State, eta: float = 0.0, decay: float = 0.0, correction: Correction = NO_CORRECTION
    ) -> None:
        self.network.start_round(w, eta, decay, correction)
        tensors = (correction.drift, correction.centre)
        numbers = eta, decay, correction.pull, *([v.shape for v in (state or {}).values()] for state in tensors)
        if numbers != self.numbers:
            self.numbers, self.replays, self.taken = numbers, {}, Counter()

    def keep_first(self, active: int) -> None:
        self.network.keep_first(active)

    def gradients(self) -> list[Tensor]:
        return self.network.gradients()

    def start_block(self, x: Tensor, counts: Sequence[int]) -> None:
        self.x = x.split(1, 1)

    def step(self, s: int, target: Tensor, weight: Tensor, logits: Tensor) -> None:
        active = self.active
        inputs = [first_clients(self.x[s], active), target, weight]
        if not self.place:  # at the first step all clients are active
            self.place = [torch.empty_like(tensor) for tensor in (*inputs, logits)]
        place = [first_clients(self.place[0], active), *self.place[1:]]
        columns = len(weight)  # fewer than the buffers have, if this block begins with fewer clients
        for to, tensor in zip(place, inputs, strict=False):
            to.narrow(-1, 0, tensor.shape[-1]).copy_(tensor)

        def step() -> None:
            self.network.start_block(place[0], [1] * active)
            self.network.step(0, *place[1:])
            self.network.finish_block()

        if self.taken[active] < EAGER:
            step()
            self.taken[active] += 1
        else:
            if active not in self.replays:
                self.replays[active] = self.recorded(step)
            self.replays[active]()
        logits.copy_(place[3][:, :columns])

    def recorded(self, step: Callable[[], None]) -> Replay:
        """The step's graph, or the step itself if it does what no graph can hold."""
        try:
            return self.record(step)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            warnings.warn(f"steps cannot be recorded as a CUDA graph and run one by one: {reason}", stacklevel=2)
            return step

    def finish_block(self) -> None:
        pass
