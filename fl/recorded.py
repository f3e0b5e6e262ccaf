"""What follows the training of a round: the run ends if the model diverged; else it is evaluated and recorded."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from fl.aggregates.total import STILL_MASKED
from fl.check import rates
from fl.client_eval import client_accuracies, spread
from fl.config import Config
from fl.device import accumulator_dtype
from fl.engines.engine import Engine
from fl.errors import DivergedError, FlagError
from fl.experiment import Experiment
from fl.group import Group
from fl.noise import key_of
from fl.proxy import pretrained
from fl.rounds import federated_averaging
from fl.state import Begun, Got, Kept, State, Trained
from fl.transforms.attack import attack

ALONE = Group()


@dataclass(frozen=True)
class Round:
    """The end of round t: the line for metrics.jsonl, and all that is needed to go on from here."""

    t: int
    record: dict[str, Any]
    w: State
    kept: Kept


def federated_rounds(
    x: Experiment, engine: Engine, group: Group = ALONE, start: Round | None = None
) -> Generator[Round]:
    """The recorded rounds of a federated run: the initial model as round 0 and all others, or those after `start`.

    `start` is rank 0's, which decides where the run goes on. Raises DivergedError when a model is not finite.
    """
    if group.size > 1:
        check_same_data(x, group)
    begun = everywhere(x, group, start)
    x = replace(x, noise_key=key) if (key := key_of(x.config, group)) else x
    x = replace(x, mask_key=group.secret()) if x.config.secure_aggregation else x
    group.awaited = begun.t < x.config.global_epoch
    return recorded(x, federated_averaging(x, engine, group, begun), begun, x.config.global_epoch, group)


def everywhere(x: Experiment, group: Group, start: Round | None) -> Begun:
    """The state from which rank 0 continues, or begins, sent to every rank."""
    if start:
        begun = Begun(start.t, start.w, start.kept)
    else:
        w = pretrained(x.model, x.proxy, x.config) if x.proxy and group.rank == 0 else x.w
        begun = Begun(0, w, Kept(), fresh=True)
    if group.size > 1:
        t, fresh, kept = group.content_from(0, (begun.t, begun.fresh, [begun.kept.server, begun.kept.clients]))
        w = {name: group.from_first(tensor.contiguous()) for name, tensor in begun.w.items()}
        begun = Begun(t, w, Kept(*kept), fresh)
    server = {key: {name: v.to(x.device) for name, v in state.items()} for key, state in begun.kept.server.items()}
    return begun._replace(kept=Kept(server, begun.kept.clients))


def check_same_data(x: Experiment, group: Group) -> None:
    """Raise FlagError, at every rank, unless all have the same data and partition: each trains its share of clients.

    Data come first, because a partition may differ just because they do.
    """
    told = group.union({group.rank: x.facts}).values()
    for flag, fact, what in (("dataset", "data_sha256", "data"), ("partition", "partition_sha256", "partitions")):
        if len({facts[fact] for facts in told}) > 1:
            raise FlagError(
                f"--{flag} {getattr(x.config, flag)}: gave the processes different {what}; its result must depend on "
                "its arguments only; for random choices take `seed` as an argument"
            )


def recorded(
    x: Experiment, rounds: Generator[Trained], begun: Begun, last: int, group: Group = ALONE
) -> Generator[Round]:
    """The same rounds with their records; evaluated where it is due, and in the last round."""
    if begun.fresh:
        now = x.round_start(0, begun.w, begun.kept)
        nothing = Trained(now, begun.w, begun.kept, Got(begun.w, [], {}, begun.kept))
        yield record(x, nothing, 0.0, last, group)
    with closing(rounds):
        began = time.perf_counter()
        for trained in rounds:
            check_finite(x, trained)
            yield record(x, trained, time.perf_counter() - began, last, group)
            began = time.perf_counter()


def record(x: Experiment, done: Trained, round_seconds: float, last: int, group: Group) -> Round:
    """Evaluate the round's model where it is due, and write the round's line."""
    now, reports = done.now, done.got.reports
    began = time.perf_counter()
    accuracy = loss = None
    if now.t % x.config.eval_every == 0 or now.t == last:
        accuracy, loss = x.evaluate(done.w, group)
    clients, every = None, x.config.client_eval_every
    if x.held_out and every and (now.t % every == 0 or now.t == last):
        clients = spread(client_accuracies(x, done.w, done.kept, group))
    examples = sum(report.examples for report in reports)
    # If no client is called, as in the baseline, the algorithm is not used, because a user-supplied one may fail.
    down, up = x.transfer_bytes if now.cohort.called else (0, 0)
    line: dict[str, Any] = {
        "round": now.t,
        "test_accuracy": accuracy,
        "test_loss": loss,
        "train_loss": sum(float(report.loss) for report in reports) / examples if examples else None,
        "clients": [report.client for report in reports if report.client in now.sizes],
        "examples": examples,
        "local_steps": sum(report.steps for report in reports),
        "downlink_bytes": now.cohort.got_the_model * down,
        "uplink_bytes": len(now.sizes) * up,
        "round_seconds": round_seconds,
        "evaluate_seconds": time.perf_counter() - began,
    } | now.cohort.record()
    line |= done.got.costs
    if clients:
        line["client_accuracy"] = clients
    if done.got.rejected:
        line["rejected"] = done.got.rejected
    if STILL_MASKED in done.got.rejected.values():
        line["abandoned"] = True
    if group.rank == 0:  # the others write nothing
        for transform in x.transforms:
            line |= transform.record(now, done.got)
    return Round(now.t, line, done.w, done.kept)


def check_finite(x: Experiment, done: Trained) -> None:
    """Raise DivergedError for a model that is not finite, and for a round all of whose updates were rejected.

    Where attackers change updates, such a round is no error: it leaves the model as it was.
    """
    rejected = done.got.rejected.values()
    is_abandoned = STILL_MASKED in rejected  # too few were left for a secure sum
    nothing_left = rejected and not done.got.reports and not is_abandoned and attack(x.config) is None
    whole = [v.sum(dtype=accumulator_dtype(v.device)) for v in done.w.values() if v.is_floating_point()]
    if nothing_left or not math.isfinite(sum(whole)):
        raise diverged(done.now.t, x.config)


def diverged(t: int, config: Config) -> DivergedError:
    return DivergedError(
        f"{', '.join(rates(config))}: training diverged, the model of round {t} is not finite; "
        "use a smaller value (a learning rate that suits sgd is far too large for adam)"
    )
