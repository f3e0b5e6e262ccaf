"""What a client does: it answers the server's questions from the data of its own machine.

The node's own settings say which data it uses, and no message can make it use other files. The server's flags name the
kind of data set, and the node says where it lies (--node-config of its SuperNode):

    data-dir="/srv/images"                      all training examples there are this client's
    data-dir="/srv/mnist" partition=3           of a data set that all nodes have, the share of client 3: for trials

Each message is answered by a new process, which reads the data again. Nothing is kept between two messages.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import torch

from data.partition import Partition
from deploy import common
from fl.client import gradient_sum, load_state
from fl.config import Config
from fl.engines.sequential import Sequential
from fl.environment import git_commit
from fl.errors import DataError
from fl.evaluate import evaluate as evaluated
from fl.experiment import Experiment, federated, prepare
from fl.group import Group
from fl.noise import key_of
from fl.state import Correction, Kept, RoundStart, Told

Settings = Mapping[str, Any]


def answer(what: str, content: Any, settings: Settings) -> dict[str, Any]:
    """The answer to one question. Raises RunnerError for data that cannot be used, KeyError for an unknown question."""
    config, k = local_flags(content["flags"], settings), int(content["k"])
    if settings.get("partition", k) != k:
        raise DataError(f"this node holds the share {settings['partition']}, and was asked as client {k}")
    if what == "learn":
        return {"learnt": None if "partition" in settings else common.learn(config)}
    return ANSWERS[what](experiment(config, k, settings, content["common"]), k, content)


def local_flags(flags: dict[str, Any], settings: Settings) -> Config:
    """The server's flags, with this machine's data and device."""
    known: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in flags.items()}
    config = Config(**known)
    data_dir, device = settings.get("data-dir", config.data_dir), settings.get("device", "auto")
    return replace(config, data_dir=str(data_dir), device=str(device), run_dir=None, resume=False)


def experiment(config: Config, k: int, settings: Settings, agreed: Any) -> Experiment:
    """The data and the model as a simulation has them, of which only client k's examples are used.

    agreed: what clients with data of their own have in common, see common.py.
    """
    if "partition" in settings:
        return federated(config)
    data, model, device = prepare(config, load=lambda config: common.load(config, agreed))
    n = len(data.train)
    return Experiment(config, data, data, model, device, Partition(torch.arange(n), torch.tensor([0] * (k + 1) + [n])))


def facts(x: Experiment, k: int, content: Any) -> dict[str, Any]:
    """What the server must know before the first round; no example is among it."""
    return {
        "n_k": len(x.partition[k]), "test": len(x.data.test), "shape": list(x.data.shape), "classes": x.data.classes,
        "partition": x.partition.sha256(), "data": x.data.only(x.partition[k]).sha256(),
        "torch": torch.__version__, "python": platform.python_version(),
        "commit": git_commit(), "threads": torch.get_num_threads(), "pid": os.getpid(),
    }  # fmt: skip


def train(x: Experiment, k: int, content: Any) -> dict[str, Any]:
    """ClientUpdate(k, w_t), and what the transforms make of it before it leaves the machine."""
    now = round_start(x, k, content)
    correction = Correction(**{field.name: content["correction"][field.name] for field in fields(Correction)})
    told = Told(on_device(correction, x.device), moved(content["start"], x.device))
    update = Sequential(x.model, x.data, x.partition, x.config).client_update(k, now, told)
    for transform in x.transforms:
        update = transform.client(now, update)
    (report,) = update.reports
    return {
        "w": {name: tensor[0] for name, tensor in update.w.items()}, "n_k": report.n_k, "examples": report.examples,
        "steps": report.steps, "loss": float(report.loss), "clipped": report.clipped,
    }  # fmt: skip


def gradient(x: Experiment, k: int, content: Any) -> dict[str, Any]:
    """n_k times the gradient of the mean loss over the client's examples at w_t."""
    load_state(x.model, moved(content["w"], x.device))
    return {"gradient": gradient_sum(x.model, x.data, x.partition[k].to(x.device))}


def evaluate(x: Experiment, k: int, content: Any) -> dict[str, Any]:
    """Accuracy and loss of the model over this machine's test targets, and how many there are."""
    load_state(x.model, moved(content["w"], x.device))
    accuracy, loss = evaluated(x.model, x.data, Group())
    return {"accuracy": accuracy, "loss": loss, "counted": x.data.test.counted}


ANSWERS: dict[str, Callable[[Experiment, int, Any], dict[str, Any]]] = {
    "facts": facts, "train": train, "gradient": gradient, "evaluate": evaluate,
}  # fmt: skip


def round_start(x: Experiment, k: int, content: Any) -> RoundStart:
    w = moved(content["w"], x.device)
    kept = Kept(server={name: moved(state, x.device) for name, state in content["kept"].items()})
    return RoundStart(
        x.config, int(content["t"]), w, kept, x.trained, int(content["n"]), {k: len(x.partition[k])},
        noise_key=key_of(x.config, Group()), frozen=x.frozen,
    )  # fmt: skip


def on_device(correction: Correction, device: torch.device) -> Correction:
    """`scale` is a tensor, `pull` a number, and the others are states."""
    scale = None if correction.scale is None else correction.scale.to(device)
    states = {name: moved(getattr(correction, name), device) for name in ("centre", "drift", "anchor")}
    return replace(correction, scale=scale, **states)


def moved(state: Any, device: torch.device) -> Any:
    return state and {name: tensor.to(device) for name, tensor in state.items()}
