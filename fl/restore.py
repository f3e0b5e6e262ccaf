"""A checkpoint that a run may go on from: one that looks like what a round of this very run leaves behind."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fl import checkpoint
from fl.algorithms.algorithm import Memory, Situation
from fl.client import Report, State, make_optimizer
from fl.config import Config, identity
from fl.errors import RunFolderError
from fl.parts import algorithm_of
from fl.task import Task


@dataclass(frozen=True)
class Saved:
    """The end of a round, and how much of metrics.jsonl had been written by then."""

    round: int
    w: State
    carry: dict[str, Any]
    metrics_bytes: int
    metrics_sha256: str
    wall_seconds: float


def restore(path: Path, config: Config, script: str, task: Task) -> Saved:
    """Read the checkpoint at `path`, on the CPU. Raises RunFolderError unless this run could have written it.

    Its SHA-256 only says that nothing changed since it was written, not that a run wrote it: everything that the
    run will look up in it is checked here, before anything in the folder changes.
    """
    content = checkpoint.load(path)
    try:
        return _checked(content, path, config, script, task)
    except ValueError as error:
        raise RunFolderError(
            f"{path}: not a checkpoint of this run ({error}); "
            "delete it and --resume to start the run again, or restore it from a copy"
        ) from None


def _checked(content: Any, path: Path, config: Config, script: str, task: Task) -> Saved:
    kinds = {"identity": dict, "w": dict, "carry": dict, "round": int, "metrics_bytes": int, "metrics_sha256": str,
             "wall_seconds": float}  # fmt: skip
    content = _of(dict, content, "its content")
    for key, kind in kinds.items():
        if key not in content:
            raise ValueError(f"no {key}")
        _of(kind, content[key], key)
    flags, w = content["identity"], content["w"]
    if not all(isinstance(value, str | int | float | None) for value in flags.values()):
        raise ValueError("identity: expected flags")
    # Flags that came after the run began had their defaults.
    if identity(Config(), script) | flags != identity(config, script):
        raise RunFolderError(
            f"{path.with_name('config.json')}: holds other flags than {path.name}, whose run it is not"
        )
    like = {name: tensor.cpu() for name, tensor in task.w.items()}
    try:
        _match(w, like, "w")
    except ValueError as error:
        raise RunFolderError(f"{path}: holds another model than --model {config.model} ({error})") from None
    if not all(tensor.isfinite().all() for tensor in w.values()):
        raise ValueError("w: not finite")
    for key in ("round", "metrics_bytes", "wall_seconds"):
        if not 0 <= content[key] < math.inf:
            raise ValueError(f"{key}: {content[key]}")
    carry = content["carry"] | (_baseline if script == "baseline" else _federated)(content["carry"], config, task)
    return Saved(
        content["round"], w, carry, content["metrics_bytes"], content["metrics_sha256"], content["wall_seconds"]
    )


def _baseline(carry: dict[str, Any], config: Config, task: Task) -> dict[str, Any]:
    return {"optimizer": _optimizer(carry.get("optimizer"), _stepped(config, task), "optimizer")}


def _federated(carry: dict[str, Any], config: Config, task: Task) -> dict[str, Any]:
    optimizers = _by_client(carry.get("optimizers"), config, "optimizers")
    if optimizers and not config.keep_optimizer_state:
        raise ValueError("optimizers: kept, without --keep_optimizer_state")
    template = _stepped(config, task) if optimizers else {}
    # Runs of before there were algorithms have no memory.
    memory = _of(dict, carry.get("memory", {"server": {}, "clients": {}}), "memory")
    server, clients = _of(dict, memory.get("server"), "server"), _by_client(memory.get("clients"), config, "clients")
    like = _remembered(config, task)
    if server or clients:  # both begin to be filled in the first round of which an update was accepted
        _match(server, like.server, "server")
    if clients and not like.clients:
        raise ValueError(f"clients: remembered, without need by --algorithm {config.algorithm}")
    for k, state in clients.items():
        _match(state, like.clients[0], f"clients {k}")
    return {
        "optimizers": {k: _optimizer(state, template, f"optimizers {k}") for k, state in optimizers.items()},
        "memory": {"server": server, "clients": clients},
    }


def _of(kind: type, value: Any, where: str) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{where}: expected {kind.__name__}, found {type(value).__name__}")
    return value


def _match(value: Any, like: Any, where: str) -> None:
    """Raise ValueError unless `value` has the types and keys of `like`, and its tensors their shapes and dtypes."""
    _of(type(like), value, where)
    if isinstance(like, dict):
        if value.keys() != like.keys():
            raise ValueError(f"{where}: expected {', '.join(map(str, like)) or 'nothing'}")
        for key in like:
            _match(value[key], like[key], f"{where} {key}")
    if isinstance(like, Tensor):
        if (value.dtype, value.shape) != (like.dtype, like.shape):
            raise ValueError(f"{where}: expected {_said(like)}, found {_said(value)}")
        if not _is_plain(value):
            raise ValueError(f"{where}: not a plain tensor")


def _said(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"


def _is_plain(tensor: Tensor) -> bool:
    """Whether it can be computed with in place: its values are there, each once, and without a gradient."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.requires_grad:
        return False
    return all(stride or size <= 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _by_client(value: Any, config: Config, where: str) -> dict[int, Any]:
    states: dict[int, Any] = _of(dict, value, where)
    if not all(type(k) is int and 0 <= k < config.num_clients for k in states):
        raise ValueError(f"{where}: not by client")
    return states


def _optimizer(saved: Any, like: dict[str, Any], where: str) -> dict[str, Any]:
    """The saved state of an optimizer whose settings are those of `like`, for the flags say all of them.

    Parameters that have not been stepped have no state.
    """
    state = _of(dict, _of(dict, saved, where).get("state"), f"{where} state")
    for index, moments in state.items():
        if index not in like["state"]:
            raise ValueError(f"{where} {index}: no such parameter")
        _match(moments, like["state"][index], f"{where} {index}")
        if "step" in moments and not 0 <= float(moments["step"]) < math.inf:
            raise ValueError(f"{where} {index} step: {float(moments['step'])}")
    return like | {"state": state}


def _stepped(config: Config, task: Task) -> dict[str, Any]:
    """The state_dict of a local optimizer after a step, on the CPU."""
    parameters = [torch.zeros_like(p, device="cpu") for p in task.model.parameters()]
    for p in parameters:
        p.grad = torch.zeros_like(p)
    optimizer = make_optimizer(parameters, config.optimizer, config.init_lr, config.momentum, config.weight_decay)
    optimizer.step()
    return optimizer.state_dict()


def _remembered(config: Config, task: Task) -> Memory:
    """What the algorithm remembers after a round of client 0, on the CPU."""
    w = {name: tensor.cpu() for name, tensor in task.w.items()}
    trained = [name for name, _ in task.model.named_parameters()]
    now = Situation(config, 1, w, trained, 1, {0: 1}, Memory())
    report = Report(client=0, n_k=1, loss=0.0, examples=1, steps=1)
    algorithm = algorithm_of(config)
    algorithm.server(now, w, [report], {name: tensor.unsqueeze(0) for name, tensor in w.items()})
    return now.memory
