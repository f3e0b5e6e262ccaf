"""Read a checkpoint, and check that it has the form of one that this very run would have written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fl.client import first_names, make_optimizer
from fl.config import Config, identity
from fl.errors import RunFolderError
from fl.experiment import Experiment
from fl.names import is_own
from fl.records import checkpoint
from fl.records.client_files import ClientFiles
from fl.returned import is_kept
from fl.state import Got, Kept, Report, RoundStart, State


@dataclass(frozen=True)
class Saved:
    """The end of a round, and how much of metrics.jsonl had been written by then."""

    round: int
    w: State
    kept: Kept
    metrics_bytes: int
    metrics_sha256: str
    wall_seconds: float


def restore(path: Path, script: str, x: Experiment, files: ClientFiles) -> Saved:
    """Read the checkpoint at `path`, on the CPU. Raises RunFolderError unless this run could have written it.

    Its SHA-256 only says that nothing changed since it was written, not that a run wrote it: everything that the
    run will look up in it is checked here, before anything in the folder changes.
    """
    content = checkpoint.load(path)
    try:
        return _checked(content, path, script, x, files)
    except ValueError as error:
        raise RunFolderError(
            f"{path}: not a checkpoint of this run ({error}); "
            "delete it and --resume to start the run again, or restore it from a copy"
        ) from None


def _checked(content: Any, path: Path, script: str, x: Experiment, files: ClientFiles) -> Saved:
    config = x.config
    content = _of(dict, content, "its content")
    kinds = {"identity": dict, "w": dict, "kept": dict, "round": int, "metrics_bytes": int, "metrics_sha256": str,
             "wall_seconds": float}  # fmt: skip
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
            f"{path.with_name('config.json')}: its flags are not those of {path.name}, which is from another run"
        )
    like = {name: tensor.cpu() for name, tensor in x.w.items()}
    # Earlier versions kept what layers share under each of its names.
    w = {name: tensor for name, tensor in w.items() if first_names(x.model).get(name, name) == name}
    try:
        _match(w, like, "w")
    except ValueError as error:
        raise RunFolderError(f"{path}: holds another model than --model {config.model} ({error})") from None
    if not all(tensor.isfinite().all() for tensor in w.values()):
        raise ValueError("w: not finite")
    for key in ("round", "metrics_bytes", "wall_seconds"):
        if not 0 <= content[key] < math.inf:
            raise ValueError(f"{key}: {content[key]}")
    return Saved(
        content["round"], w, _kept(content, x, script, files),
        content["metrics_bytes"], content["metrics_sha256"], content["wall_seconds"],
    )  # fmt: skip


def _kept(content: dict[str, Any], x: Experiment, script: str, files: ClientFiles) -> Kept:
    """What survived the round beside the model, checked."""
    saved = content["kept"]
    rounds = _by_client(saved.get("clients"), x.config, "kept clients")
    if not all(type(t) is int and 0 <= t <= content["round"] for t in rounds.values()):
        raise ValueError("kept clients: not rounds")
    kept = Kept(_of(dict, saved.get("server"), "kept server"), files.load(rounds))
    return _baseline(kept, x) if script == "baseline" else _federated(kept, x)


def _baseline(kept: Kept, x: Experiment) -> Kept:
    if kept.server.keys() != {"optimizer"} or kept.clients:
        raise ValueError("kept: expected the state of one optimizer")
    return Kept({"optimizer": _optimizer(kept.server["optimizer"], _stepped(x), "optimizer")})


def _federated(kept: Kept, x: Experiment) -> Kept:
    free = _keeps_what_it_likes(x.config)
    like = Kept() if free else _kept_after_a_round(x)
    names = set(like.clients.get(0, {})) | ({"optimizer"} if x.config.keep_optimizer_state else set())
    template = _stepped(x) if x.config.keep_optimizer_state else {}
    begun = kept.server or kept.clients.keys() - {k for k, one in kept.clients.items() if set(one) == {"optimizer"}}
    if free and not is_kept(kept, x.config.num_clients):
        raise ValueError("server: expected tensors by two names")
    if begun and not free:
        _match(kept.server, like.server, "server")  # it begins to be filled with the first update that counts
    clients: dict[int, dict[str, Any]] = {}
    for k, state in _by_client(kept.clients, x.config, "clients").items():
        _of(dict, state, f"client {k}")
        if not state or not (free or set(state) <= names):
            raise ValueError(
                f"client {k}: keeps {', '.join(map(str, state)) or 'nothing'}, which its flags do not ask for"
            )
        clients[k] = state
        if "optimizer" in state and template:
            clients[k] = state | {"optimizer": _optimizer(state["optimizer"], template, f"client {k} optimizer")}
        for name in state.keys() - {"optimizer"}:
            if not free:
                _match(state[name], like.clients[0][name], f"client {k} {name}")
    return Kept(kept.server, clients)


def _keeps_what_it_likes(config: Config) -> bool:
    """Whether a part of the user's own decides what is kept. That may differ from round to round."""
    return is_own("algorithm", config.algorithm) or any(is_own("transform", value) for value in config.transform)


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
    """The saved state of an optimizer; its settings are taken from `like`, because they all follow from the flags.

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


def _stepped(x: Experiment) -> dict[str, Any]:
    """The state_dict of a local optimizer after a step, on the CPU."""
    parameters = [torch.zeros_like(p, device="cpu") for p in x.model.parameters()]
    for p in parameters:
        p.grad = torch.zeros_like(p)
    optimizer = make_optimizer(parameters, x.config, x.config.init_lr)
    optimizer.step()
    return optimizer.state_dict()


def _kept_after_a_round(x: Experiment) -> Kept:
    """What the algorithm and the transforms keep after a round of client 0, on the CPU."""
    w = {name: tensor.cpu() for name, tensor in x.w.items()}
    gradient = {name: torch.zeros_like(w[name]) for name in x.trained}  # for an algorithm that asks for it
    now = RoundStart(x.config, 1, w, Kept(), x.trained, 1, {0: 1}, gradient=gradient)
    report = Report(client=0, n_k=1, loss=0.0, examples=1, steps=1)
    models = {name: tensor.unsqueeze(0) for name, tensor in w.items()}
    _, kept = x.algorithm.server(now, Got(w, [report], {}, Kept(), models))
    for transform in x.transforms:
        more = transform.keeps(w)
        kept = kept.with_server(**more.server).with_clients(more.clients)
    return kept
