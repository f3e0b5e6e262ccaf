"""THE LOOP. Federated averaging, and the centralised training it is compared with, one record a round."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from data.partition import Partition
from fl.aggregate import Updates, WeightedMean
from fl.algorithms.algorithm import Correct, Memory, Situation
from fl.attack import attack, attackers
from fl.check import rates
from fl.client import Report, State, Update, gradient_sum, load_state, make_optimizer, offload, train
from fl.config import Config
from fl.device import accumulator_dtype
from fl.errors import DivergedError
from fl.evaluate import evaluate
from fl.group import Group
from fl.parts import algorithm_of
from fl.rng import derive, select_clients, shuffles
from fl.robust import rule_of
from fl.task import Task

ALONE = Group()


class Engine(Protocol):
    """How clients are executed: fl/engines. An Update of `train` is good until the next is asked for."""

    def train(self, clients: Sequence[int], t: int, w: State, correct: Correct = ...) -> Iterator[Update]: ...
    def state(self) -> dict[str, Any]: ...
    def load_state(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Round:
    """The end of round t: the line for metrics.jsonl, and all that is needed to go on from here."""

    t: int
    record: dict[str, Any]
    w: State
    carry: dict[str, Any]  # what else survives the round: kept optimizer states, the algorithm's memory


def federated_averaging(
    task: Task,
    partition: Partition,
    engine: Engine,
    config: Config,
    group: Group = ALONE,
    start: Round | None = None,
) -> Generator[Round]:
    """FederatedAveraging, Algorithm 1 of McMahan et al. 2017 (arXiv 1602.05629), and what --algorithm makes of it.

    Yields the initial model as round 0, then a Round after each round; with `start`, those after it. Every rank
    of the group goes through the same rounds with the same model, each on its share of the clients; `start` and
    the decision to go on are rank 0's. Raises DivergedError when the model is not finite.
    """
    algorithm = algorithm_of(config)
    rule, bad = rule_of(config), attackers(config)
    if start:
        engine.load_state(start.carry)
    w, done = first_model(group, task.w, start)
    memory = first_memory(group, start, task.device)
    n, trained = int(partition.sizes.sum()), [name for name, _ in task.model.named_parameters()]
    model_bytes = task.model_bytes
    if done < 0:
        yield close_round(task, config, group, 0, w, [], 0.0, carry(engine, memory), last=False)

    for t in range(max(done, 0) + 1, config.global_epoch + 1):
        if not goes_on(group):
            return
        began = time.perf_counter()
        S_t = select_clients(config.seed, t, len(partition), config.num_select_clients)
        sizes = partition.sizes_of(S_t)
        now = Situation(config, t, w, trained, n, dict(zip(S_t, sizes, strict=True)), memory)
        mine = group.share(S_t, sizes)
        if algorithm.full_gradient:
            now = replace(now, gradient=full_gradient(task, partition, now, mine, group))
        updates = Updates(w, trained, S_t, partial(algorithm.weight, now), n, rule, algorithm.models)
        for reports, w_k in engine.train(mine, t, w, partial(algorithm.correction, now)):
            attack(config, bad, t, w, [report.client for report in reports], w_k)
            updates.add(reports, w_k)
        updates.gather(group)
        check_left(updates, bad, t, config)
        if updates.reports:
            w = algorithm.server(now, updates.result(), updates.reports, updates.models)
        check_finite(w, t, config)
        down, up = (vectors * model_bytes for vectors in algorithm.transfers)
        done_round = close_round(
            task, config, group, t, w, updates.reports, time.perf_counter() - began, carry(engine, memory),
            last=t == config.global_epoch, downlink=len(S_t) * down, uplink=len(S_t) * up, rejected=updates.rejected,
        )  # fmt: skip
        try:
            yield done_round
        except GeneratorExit:  # rank 0 has seen enough
            if t < config.global_epoch:
                goes_on(group, False)
            raise


def first_model(group: Group, w: State, start: Round | None) -> tuple[State, int]:
    """The model to begin with and the round it is of, -1 if none was recorded yet: rank 0's, at every rank."""
    w, done = (start.w, start.t) if start else (w, -1)
    done = int(group.from_first(torch.tensor(done, device=next(iter(w.values())).device)))
    return {name: group.from_first(tensor.contiguous()) for name, tensor in w.items()}, done


def goes_on(group: Group, yes: bool = True) -> bool:
    """Whether rank 0 begins another round."""
    return group.size == 1 or bool(group.from_first(torch.tensor(int(yes), device=group.device)))


def first_memory(group: Group, start: Round | None, device: torch.device) -> Memory:
    """The algorithm's memory to begin with: rank 0's, at every rank."""
    nothing: dict[str, Any] = {"server": {}, "clients": {}}
    saved = start.carry.get("memory", nothing) if start else nothing  # runs of before there were algorithms have none
    saved = group.content_from_first(saved)
    server = {key: {name: x.to(device) for name, x in state.items()} for key, state in saved["server"].items()}
    return Memory(server, dict(saved["clients"]))


def carry(engine: Engine, memory: Memory) -> dict[str, Any]:
    """What survives a round beside the model."""
    return engine.state() | {"memory": {"server": offload(memory.server), "clients": dict(memory.clients)}}


def full_gradient(task: Task, partition: Partition, now: Situation, mine: Sequence[int], group: Group) -> State:
    """The gradient at w of the mean loss over the examples of the round's clients, by parameter."""
    load_state(task.model, now.w)
    like = {name: p.detach() for name, p in task.model.named_parameters()}
    sums = WeightedMean(like, len(now.sizes))
    for k in mine:
        g = gradient_sum(task.model, task.data, partition[k].to(task.device))
        sums.add({name: tensor.unsqueeze(0) for name, tensor in g.items()}, [1.0])
    sums.combine(group, sums.sums.new_zeros(0))
    sums.n = sum(now.sizes.values())
    return sums.result()


def check_left(updates: Updates, bad: set[int], t: int, config: Config) -> None:
    """A round without an update left is one that diverged, unless attackers have their hands in the model."""
    if not updates.reports and (not bad or config.attack == "label_flip"):
        raise diverged(t, config)


def centralised(
    task: Task,
    config: Config,
    boundaries: Sequence[int],
    start: Round | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Generator[Round]:
    """The same model trained on all the data by one optimizer.

    boundaries: examples processed by the end of each record; n, 2n, ... are epochs. With one client, E = 1
    and --keep_optimizer_state, `federated_averaging` takes exactly these steps.
    """
    n = len(task.data.train)
    optimizer = make_optimizer(
        task.model.parameters(), config.optimizer, config.init_lr, config.momentum, config.weight_decay
    )
    if start:
        load_state(task.model, start.w)
        optimizer.load_state_dict(start.carry["optimizer"])
        done = start.t
    else:
        done = 0
        yield close_round(task, config, ALONE, 0, task.w, [], 0.0, {"optimizer": optimizer.state_dict()}, last=False)

    for t in range(done + 1, len(boundaries) + 1):
        began = time.perf_counter()
        for parameters in optimizer.param_groups:
            parameters["lr"] = config.lr(t)
        first = boundaries[t - 2] if t > 1 else 0
        torch.manual_seed(derive(config.seed, "training", t, 0))  # for dropout, as in the sequential engine
        batches = stream(config.seed, n, config.batch_size or n, first, boundaries[t - 1], task.device)
        report = Report(0, n, *train(task.model, optimizer, task.data, batches, tick))
        w = task.w
        check_finite(w, t, config)
        yield close_round(
            task, config, ALONE, t, w, [report], time.perf_counter() - began,
            {"optimizer": offload(optimizer.state_dict())}, last=t == len(boundaries), clients=[],
        )  # fmt: skip


def stream(seed: int, n: int, B: int, first: int, last: int, device: torch.device) -> Iterator[Tensor]:
    """Batches of the examples `first` to `last` of one shuffled pass after another over range(n).

    Batches are cut at multiples of B within a pass, at the end of a pass, and at `first` and `last`.
    """
    while first < last:
        epoch, offset = divmod(first, n)
        order = shuffles(seed, [(0, epoch)], n, device)[0]  # (n,)
        end = min(n, offset + last - first)
        first += end - offset
        while offset < end:
            cut = min(offset - offset % B + B, end)
            yield order[offset:cut]
            offset = cut


def close_round(
    task: Task,
    config: Config,
    group: Group,
    t: int,
    w: State,
    reports: Sequence[Report],
    round_seconds: float,
    carry: dict[str, Any],
    *,
    last: bool,
    downlink: int = 0,
    uplink: int = 0,
    clients: list[int] | None = None,
    rejected: dict[int, str] | None = None,
) -> Round:
    """Evaluate w where it is due and write the record of the round."""
    began = time.perf_counter()
    accuracy = loss = None
    if t % config.eval_every == 0 or last:
        load_state(task.model, w)
        accuracy, loss = evaluate(task.model, task.data, group)
    examples = sum(report.examples for report in reports)
    record: dict[str, Any] = {
        "round": t,
        "test_accuracy": accuracy,
        "test_loss": loss,
        "train_loss": sum(float(report.loss) for report in reports) / examples if examples else None,
        "clients": [report.client for report in reports] if clients is None else clients,
        "examples": examples,
        "local_steps": sum(report.steps for report in reports),
        "downlink_bytes": downlink,
        "uplink_bytes": uplink,
        "round_seconds": round_seconds,
        "evaluate_seconds": time.perf_counter() - began,
    }
    if rejected:
        record["rejected"] = rejected
    return Round(t, record, w, carry)


def check_finite(w: State, t: int, config: Config) -> None:
    whole = [tensor.sum(dtype=accumulator_dtype(tensor.device)) for tensor in w.values() if tensor.is_floating_point()]
    if not math.isfinite(sum(whole)):
        raise diverged(t, config)


def diverged(t: int, config: Config) -> DivergedError:
    return DivergedError(
        f"{', '.join(rates(config))}: training diverged, the model of round {t} is not finite; "
        "use a smaller rate (a rate for adam is far too small for sgd, and the other way round too large)"
    )
