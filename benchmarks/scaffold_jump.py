"""Is it c - c_k that makes control variates jump, in the runs of benchmarks/why_scaffold.py?

    python3 -m benchmarks.scaffold_jump

Before each round every client also trains from the same model with its minibatches in other orders, in three ways:

  with       c - c_k is added to every gradient, as SCAFFOLD does it;
  without    nothing is added, as in FedAvg;
  reversed   c_k - c is added, which is as long and points the other way.

These trainings do not change the run. Each round has one line, with three figures for each way: the median over clients
and orders of the norm of the mean gradient that a client met; the largest norm, with its client; and how many models
were not finite. With c - c_k this mean gradient is what c_k would become. One thread, and no run folder.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from statistics import median

from benchmarks.why_scaffold import experiment_of, norm, parser_of, variates
from fl.engines import make_engine
from fl.engines.engine import Engine
from fl.experiment import Experiment
from fl.guard import guarded, leave
from fl.recorded import Round, federated_rounds
from fl.state import Correction, RoundStart, State, Told
from fl.words import count

WAYS = {"with": 1.0, "without": 0.0, "reversed": -1.0}  # what c - c_k is multiplied with
APART = 1000  # rounds between the passes of one order and those of the next, so that no two are the same
LINE = "{:>5} {:>9}  {:12} {:26} {:26} {:26}"


def mean_gradients(x: Experiment, engine: Engine, now: RoundStart, factor: float) -> dict[int, float]:
    """By client: the norm of the mean gradient over its local steps, when factor * (c - c_k) is added at each step."""

    def added(clients: Sequence[int]) -> State:
        drift = x.algorithm.tell(now, clients).correction.drift
        assert drift, "the first round has none"
        return {name: factor * tensor for name, tensor in drift.items()}

    found = {}
    for update in engine.train(list(now.sizes), now, lambda clients: Told(Correction(drift=added(clients)))):
        drift = added([report.client for report in update.reports])
        for i, report in enumerate(update.reports):
            scale = report.steps * now.config.lr(now.t)
            moved = {name: (now.w[name] - update.w[name][i]) / scale for name in now.trained}
            found[report.client] = norm(moved[name] - drift[name][i] for name in moved)
    return found


def said(norms: Sequence[tuple[float, int]]) -> str:
    """ "0.31, 1.2 (client 9), 2 lost": of pairs of a norm and its client."""
    finite = [one for one in norms if math.isfinite(one[0])]
    lost = len(norms) - len(finite)
    largest, client = max(finite, default=(math.nan, -1))
    text = f"{median(one for one, _ in finite):.3g}, {largest:.3g} (client {client})" if finite else "-"
    return text + (f", {lost} lost" if lost else "")


def tried(x: Experiment, engine: Engine, done: Round, orders: int) -> str:
    """The line of the round after `done`."""
    t = done.t + 1
    now = x.round_start(t, done.w, done.kept, x.cohort(t))
    ways = []
    for factor in WAYS.values():
        norms: list[tuple[float, int]] = []
        for i in range(1, orders + 1):
            by_client = mean_gradients(x, engine, replace(now, t=t + i * APART), factor)
            norms += [(one, k) for k, one in by_client.items()]
        ways.append(said(norms))
    largest = max(variates(done.kept).values(), default=0.0)
    return LINE.format(t, f"{done.record['test_accuracy']:.2%}", f"{largest:.3g}", *ways)


def main(argv: Sequence[str]) -> None:
    parser = parser_of("scaffold_jump", __doc__)
    parser.add_argument("--seed", default="0", help="(default: %(default)s)")
    parser.add_argument("--orders", default="1", help="of the minibatches (default: %(default)s)")
    words = parser.parse_args(argv)
    orders = count("--orders", words.orders)
    x = experiment_of(words, ["--local_epoch", "1", "--seed", words.seed])
    engine = make_engine("stacked", x)
    print(LINE.format("round", "accuracy", "largest c_k", *WAYS))
    with closing(federated_rounds(x, engine)) as rounds:
        for done in rounds:
            if 0 < done.t < x.config.global_epoch:
                print(tried(x, engine, done, orders), flush=True)


if __name__ == "__main__":
    leave(guarded("scaffold_jump", lambda: main(sys.argv[1:])))
