"""Centralised training: the same model trained on all the data by one optimizer, for comparison."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence

from data.dataset import Dataset
from fl.client import Batch, load_state, make_optimizer, offload, one_pass, train
from fl.experiment import Experiment
from fl.recorded import Round, recorded
from fl.rng import seed_training
from fl.state import Begun, Got, Kept, Report, Trained


def centralised_rounds(
    x: Experiment, ends: Sequence[int], start: Round | None = None, tick: Callable[[int], None] = lambda steps: None
) -> Generator[Round]:
    """The recorded rounds: the initial model as round 0 and all others, or those after `start`.

    ends: examples processed by the end of each round; n, 2n, ... are epochs. Raises DivergedError.
    """
    begun = Begun(start.t, start.w, start.kept) if start else Begun(0, x.w, Kept(), fresh=True)
    yield from recorded(x, centralised(x, ends, begun, tick), begun, len(ends))


def centralised(x: Experiment, ends: Sequence[int], begun: Begun, tick: Callable[[int], None]) -> Generator[Trained]:
    """With one client, E = 1 and --keep_optimizer_state, `federated_averaging` takes exactly these steps."""
    c, n = x.config, len(x.data.train)
    load_state(x.model, begun.w)
    optimizer = make_optimizer(x.model.parameters(), c, c.init_lr)
    if begun.kept.server:
        optimizer.load_state_dict(begun.kept.server["optimizer"])
    for t in range(begun.t + 1, len(ends) + 1):
        now = x.round_start(t, begun.w, begun.kept)
        for parameters in optimizer.param_groups:
            parameters["lr"] = c.lr(t)
        seed_training(x.device, c.seed, t, 0)  # for dropout, as in the sequential engine
        first = ends[t - 2] if t > 1 else 0
        batches = stream(c.seed, x.data, c.batch_size or n, first, ends[t - 1])
        report = Report(0, n, *train(x.model, optimizer, x.data, batches, tick))
        w, kept = x.w, Kept({"optimizer": offload(optimizer.state_dict())})
        yield Trained(now, w, kept, Got(w, [report], {}, kept))


def stream(seed: int, data: Dataset, B: int, first: int, last: int) -> Iterator[Batch]:
    """Cut an endless stream of examples into batches, from position `first` up to, but without, position `last`.

    The stream is one pass after another over the training examples, each shuffled anew. A batch ends at a multiple of B
    within a pass, at the end of a pass, or at `last`.
    """
    n = len(data.train)
    while first < last:
        epoch, offset = divmod(first, n)
        order, draws = one_pass(data, seed, 0, epoch, n)
        end = min(n, offset + last - first)
        first += end - offset
        while offset < end:
            cut = min(offset - offset % B + B, end)
            yield Batch(order[offset:cut], None if draws is None else draws[offset:cut])
            offset = cut
