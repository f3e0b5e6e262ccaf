"""THE LOOP. FederatedAveraging, Algorithm 1 of McMahan et al. 2017 (arXiv 1602.05629), and nothing else.

The parts that vary, --algorithm, --aggregate and the transforms, are called here and are in files of their own.
fl/recorded.py evaluates and records the rounds that the loop yields.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import partial

from fl.aggregates.total import Total
from fl.engines.engine import Engine
from fl.experiment import Experiment
from fl.group import Group
from fl.state import Begun, Trained


def federated_averaging(x: Experiment, engine: Engine, group: Group, begun: Begun) -> Generator[Trained]:
    """Train and yield the rounds after `begun`. Every rank runs all of them, and trains its share of the clients."""
    algorithm, (done, w, kept, _) = x.algorithm, begun
    for t in group.rounds(done + 1, x.config.global_epoch):
        S_t = x.cohort(t)
        now = x.round_start(t, w, kept, S_t)
        mine = group.share(now.sizes)
        if S_t.reporting:
            now = algorithm.prepare(engine, now, mine, group)
        total = Total(now, x.aggregate(now), algorithm.keep_models)
        for update in engine.train(mine, now, partial(algorithm.tell, now)):
            for transform in x.transforms:
                update = transform.client(now, update)
            total.add(update, algorithm.weights(now, update.reports))
        got = total.gather(group)
        for transform in reversed(x.transforms):
            got = transform.undo(now, got)
        if got.reports or got.is_noised:
            w, kept = algorithm.server(now, got)
        yield Trained(now, w, kept, got)
