"""What the server does: the round loop of the simulation, whose clients are on the network.

The run folder is that of run_federated.py, and a run that failed or was stopped goes on with --resume.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from data.dataset import Dataset, Split
from data.partition import Partition
from deploy import common
from deploy.flower import FlowerChannel
from deploy.limits import check_deployable
from deploy.processes import end_with_parent
from deploy.screen import ended, shown
from fl.accountant import check_buffers
from fl.check import with_clients
from fl.command_line import parse
from fl.comparing.labels import run_title
from fl.config import DEFAULTS, Config
from fl.device import choose_device, make_deterministic
from fl.engines import check_stackable
from fl.engines.networked import Networked, flags_of
from fl.errors import FlagError, WorkerError
from fl.experiment import Experiment, federated
from fl.group import Group
from fl.guard import explain
from fl.names import entry_of
from fl.parts import build_model, transforms_of
from fl.record import RunFolder
from fl.recorded import Round, federated_rounds
from fl.run import follow
from fl.state import State
from fl.streams import complain

MOST_EXAMPLES = 10**8  # that a client may claim to have, because its update is weighted by this number
ROOM = 1 << 20  # bytes of an answer beside the model


@dataclass(frozen=True)
class Deployed(Experiment):
    """An experiment whose clients are elsewhere. asks: whom to ask for evaluation, where the server has no test set."""

    asks: Networked | None = None

    @cached_property
    def transforms(self) -> list[Any]:  # type: ignore[override]
        """Those of the flags without what the clients do themselves."""
        return [replace(one, client=lambda now, update: update) for one in transforms_of(self.config)]

    def evaluate(self, w: State, group: Group) -> tuple[float, float]:
        return self.asks.evaluate(w) if self.asks else super().evaluate(w, group)


def serve(grid: Any, run_config: dict[str, str]) -> None:
    """A whole run. What it prints goes to the file run_config["screen"], and at last its exit code beside it.

    Flower marks the run as failed if this raises, so it does so for every code but 0.
    """
    end_with_parent()
    screen = Path(run_config["screen"])
    with shown(screen):
        code = 0
        try:
            train(grid, json.loads(run_config["flags"]), Path(run_config["keys"]).read_text().splitlines())
        except BaseException as error:
            code, text = explain(error) or (1, f"{type(error).__name__}: {error}")
            complain(f"deploy: {' '.join(text.split())}")
            if explain(error) is None:
                raise
            raise SystemExit(code) from None
        finally:
            ended(screen, code)


def train(grid: Any, argv: list[str], keys: list[str]) -> None:
    config = parse(argv, "federated", "")
    check_deployable(config)
    channel = FlowerChannel(grid, keys, config.timeout)
    print(f"waiting for {len(keys)} clients", flush=True)
    there = channel.wait_for(len(keys))
    if len(there) < len(keys):
        missing = ", ".join(str(k) for k in range(len(keys)) if k not in there)
        raise WorkerError(f"clients {missing} have not connected within --timeout {config.timeout:g}")
    agreed = agreement(everyones(channel, "learn", config, keys))
    known = everyones(channel, "facts", config, keys, common=agreed)
    x, notes = with_shares(config, known) if agreed is None else with_own_data(config, known)
    check_trainable(x)
    channel.most_bytes = 2 * x.model_bytes + ROOM
    engine = Networked(x, channel, {"common": agreed})
    if agreed:
        x = replace(x, asks=engine)
    for k, one in enumerate(known):
        print(f"client {k}: {one['n_k']:,} examples, {one['test']:,} test examples, torch {one['torch']}")
    with RunFolder("federated", x, notes.pop("facts"), notes, config.global_epoch) as folder:
        rounds = explained(federated_rounds(x, engine, Group(), folder.start), engine)
        follow(config, folder, rounds, run_title(config, "federated"))


def check_trainable(x: Experiment) -> None:
    """Raise FlagError for a model that the algorithm cannot train, as a simulation does."""
    if entry_of("algorithm", x.config.algorithm).needs_stacking:
        check_stackable(x)


def explained(rounds: Generator[Round], engine: Networked) -> Generator[Round]:
    """The rounds with what became of their clients, and the bytes that really went to and fro."""
    for done in rounds:
        yield replace(done, record=done.record | engine.outcome) if done.t else done


def everyones(channel: FlowerChannel, what: str, config: Config, keys: list[str], **more: Any) -> list[Any]:
    """What all clients answer, in their order. Raises WorkerError if one does not."""
    asked = channel.ask(what, {k: {"flags": flags_of(config), "k": k, **more} for k in range(len(keys))})
    if asked.lost:
        raise WorkerError("; ".join(f"client {k}: {why}" for k, why in sorted(asked.lost.items())))
    return [asked.answers[k] for k in range(len(keys))]


def agreement(answers: list[Any]) -> Any:
    """What the clients' own data have in common; None where all hold shares of one data set."""
    learnt = [one["learnt"] for one in answers]
    if all(one is None for one in learnt):
        return None
    if None in learnt:
        raise WorkerError("some nodes hold a share of a data set (partition=K), and others data of their own")
    return common.agreed(learnt)


def with_shares(config: Config, known: list[dict[str, Any]]) -> tuple[Deployed, dict[str, Any]]:
    """The server's side where all nodes hold shares of one data set, and what environment.json tells of it.

    The server has the data set too, for its test examples and to know who holds what.
    """
    x = federated(config)
    if {one["partition"] for one in known} != {x.partition.sha256()}:
        raise WorkerError("the nodes do not hold shares of the server's data set: other data, flags or code")
    notes = {"engine": "networked", "workers": 1, "nodes": known, "facts": x.facts}
    return Deployed(x.config, x.clean, x.data, x.model, x.device, x.partition, x.proxy), notes


def with_own_data(config: Config, known: list[dict[str, Any]]) -> tuple[Deployed, dict[str, Any]]:
    """The same where the server has no data, and knows no more than how many examples of which shape there are."""
    for k, one in enumerate(known):
        if type(one["n_k"]) is not int or not 0 < one["n_k"] <= MOST_EXAMPLES:
            raise WorkerError(f"client {k} claims {one['n_k']} examples; expected from 1 to {MOST_EXAMPLES:,}")
    shapes = {(*one["shape"], one["classes"]) for one in known}
    if len(shapes) > 1:
        raise WorkerError(f"the clients' examples differ in shape or number of classes: {sorted(shapes)}")
    for name in ("proxy_fraction", "feature_noise"):
        if (value := getattr(config, name)) != DEFAULTS[name]:
            raise FlagError(f"--{name} {value}: is not built for clients with data of their own; leave it out")
    if config.partition not in (DEFAULTS["partition"], "natural"):
        raise FlagError(f"--partition {config.partition}: the clients have data of their own; leave it out")
    config = with_clients(config, len(known))
    if config.num_clients != len(known):
        raise FlagError(f"--num_clients {config.num_clients}: there are {len(known)} nodes; leave the flag out")
    *shape, classes = shapes.pop()
    device = choose_device(config.device)
    make_deterministic(config.precision, device)
    nothing = Split(torch.zeros(2, *shape), torch.zeros(2, dtype=torch.int64))
    data = Dataset(config.dataset, nothing, nothing, classes, source="the clients").to(device)
    partition = sized([one["n_k"] for one in known])
    facts = {"data_sha256": digest(known), "partition_sha256": partition.sha256()}
    notes = {"engine": "networked", "workers": 1, "nodes": known, "facts": facts}
    x = Deployed(config, data, data, build_model(config, data).to(device), device, partition)
    check_buffers(config, dict(x.model.named_buffers()))
    return x, notes


def sized(counts: list[int]) -> Partition:
    """A partition of which only the sizes mean anything."""
    sizes = torch.tensor(counts)
    return Partition(torch.arange(int(sizes.sum())), torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]))


def digest(known: list[dict[str, Any]]) -> str:
    """Of the clients' data, as far as they tell of it, so that a resumed run is refused for other data."""
    return hashlib.sha256(json.dumps([one["data"] for one in known]).encode()).hexdigest()
