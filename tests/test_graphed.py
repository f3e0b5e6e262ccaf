"""Steps recorded once and replayed: on a GPU as CUDA graphs, and here by an imitation of them that runs on a CPU."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fl.engines.stacked import Stacked
from fl.engines.stacked.graphed import EAGER, Graphed
from fl.models import MODELS
from tests.test_engines import OPTIMIZERS, both
from tests.test_golden import OF_IMAGES, begin, config, ragged, task_of


class Graph(TorchDispatchMode):
    """What a CUDA graph does: notes every operation with the memory it reads and writes, and `replay` repeats those.

    Python does not run again: whatever depends on it is as it was at the recording, and no operation may hand a value
    to it. Recording leaves all memory as it was.
    """

    def __init__(self):
        super().__init__()
        self.calls = []
        self.before = {}  # storages written to, with what they held

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        assert func is not torch.ops.aten._local_scalar_dense.default, "a recorded step waits for a value"
        with self:  # what consists of other operations, some of which may or may not copy, is taken apart
            out = func.decompose(*args, **kwargs)
        if out is not NotImplemented:
            return out
        for i, argument in enumerate(func._schema.arguments):
            if argument.alias_info and argument.alias_info.is_write:
                written = args[i] if i < len(args) else kwargs[argument.name]
                storage = written.untyped_storage()
                self.before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        out = func(*args, **kwargs)
        if not func.is_view:
            self.calls.append((func, args, kwargs, out))
        return out

    def record(self, step):
        with self:
            step()
        for storage, held in self.before.values():
            storage.copy_(held)

    def replay(self):
        for func, args, kwargs, out in self.calls:
            again = func(*args, **kwargs)
            if not func._schema.is_mutable:
                for to, tensor in zip(*([x] if torch.is_tensor(x) else x for x in (out, again)), strict=True):
                    if tensor is not None:
                        to.copy_(tensor)


class Recorder:
    """For Graphed in place of cuda_graphs(); counts."""

    def __init__(self):
        self.recorded = self.replayed = 0

    def __call__(self, step):
        graph = Graph()
        graph.record(step)
        self.recorded += 1

        def replay():
            self.replayed += 1
            graph.replay()

        return replay


def graphed(recorder):
    """A stacked engine that replays."""
    return partial(Stacked, graphs=partial(Graphed, record=recorder))


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("model", OF_IMAGES)
def test_replayed_steps_equal_the_sequential_engine(model, optimizer):
    recorder = Recorder()
    c = config(model=model, global_epoch=4, batch_size=2, **OPTIMIZERS[optimizer])
    both(c, stack_size=3, engine=graphed(recorder))
    assert recorder.replayed > 2 * recorder.recorded > 0


def test_a_graph_serves_all_rounds_of_one_rate():
    counts = {}
    for decay in (1.0, 0.5):
        recorder = Recorder()
        both(config(global_epoch=4, lr_decay=decay), partition=ragged((4, 4, 4)), engine=graphed(recorder))
        counts[decay] = recorder.recorded, recorder.replayed
    steps = 2 * 2  # a round: epochs, minibatches of at most 3 examples
    assert counts == {1.0: (1, 4 * steps - EAGER), 0.5: (4, 4 * (steps - EAGER))}


@pytest.mark.parametrize("decay", [1.0, 0.5])
@pytest.mark.parametrize("algorithm", ["fedprox", "scaffold", "fednova", "fsvrg"])
def test_for_algorithms_that_correct_gradients(algorithm, decay):
    recorder = Recorder()
    c = config(algorithm=algorithm, model="2nn", global_epoch=3, local_epoch=3, batch_size=2, lr_decay=decay)
    both(c, stack_size=3, engine=graphed(recorder))
    assert recorder.replayed


def test_a_full_stack_and_the_rest_of_a_cohort_are_both_kept():
    recorder = Recorder()
    both(config(global_epoch=4), stack_size=2, partition=ragged((4, 4, 4)), engine=graphed(recorder))
    assert recorder.recorded == 2


def test_the_general_path(monkeypatch):
    monkeypatch.setitem(MODELS, "tanh", "tests.test_engines:tanh_net")
    recorder = Recorder()
    both(config(model="tanh", **OPTIMIZERS["decay"]), stack_size=3, engine=graphed(recorder))
    assert recorder.replayed


def test_what_cannot_be_recorded_runs_step_by_step():
    def refuse(step):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    with pytest.warns(UserWarning, match="one by one: operation not permitted when stream is capturing$"):
        both(config(global_epoch=4), stack_size=3, engine=graphed(refuse))


def test_a_step_that_waits_for_a_value_is_noticed():
    with pytest.raises(AssertionError, match="waits for a value"):
        Graph().record(lambda: torch.ones(1).item())


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@cuda
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("model", OF_IMAGES)
def test_stacked_equals_sequential_on_cuda(model, optimizer):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "steps cannot be recorded")
        for decay in (1.0, 0.5):
            c = config(
                model=model, device="cuda", batch_size=2, global_epoch=4, lr_decay=decay, **OPTIMIZERS[optimizer]
            )
            both(c, stack_size=3)


@cuda
@pytest.mark.parametrize("algorithm", ["fedprox", "scaffold", "fednova", "fsvrg"])
def test_algorithms_on_cuda(algorithm):
    both(config(algorithm=algorithm, device="cuda", global_epoch=3), stack_size=3)


@cuda
def test_a_stack_trains_without_waiting_for_the_gpu():
    c = config(device="cuda")
    task = task_of(c)
    engine = Stacked(task.model, task.data, ragged(), c)
    for t in range(1, 9):
        torch.cuda.set_sync_debug_mode("error" if t == 8 else "default")
        try:
            for _ in engine.train([0, 1, 2], begin(c, task.w, t)):
                pass
        finally:
            torch.cuda.set_sync_debug_mode("default")
