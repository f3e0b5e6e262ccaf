"""Whether what a part of the user's own returned is what it should be."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

from fl.names import blaming, refuse
from fl.records.reading import TAKEN
from fl.state import Correction, Got, Kept, Report, RoundStart, State, Told, Update

T = TypeVar("T")
PLAIN = (Tensor, bool, int, float, str, type(None))  # what torch.load reads without executing anything


def with_checks(flag: str, value: str, part: T, checks: Mapping[str, tuple[str, Callable[..., bool]]]) -> T:
    """The part, with functions that end the run if they return a wrong value.

    checks: by the function's name, what it must return, in words, and a function that says whether it did.
    """
    functions = {name: getattr(part, name) for name in checks}
    return replace(part, **{  # type: ignore[type-var]
        name: checked(flag, value, name, function, *checks[name]) for name, function in functions.items() if function
    })  # fmt: skip


def checked(
    flag: str, value: str, name: str, function: Callable[..., Any], expected: str, good: Callable[..., bool]
) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any) -> Any:
        with blaming(flag, value, f"{name} to return {expected}"):
            made = function(*args)
            right = good(made, *args)
        if not right:
            refuse(flag, value, f"{name} returned {kind_of(made)}; expected {expected}")
        return made

    return call


def kind_of(value: object) -> str:
    """What a value is, for a message."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    return "None" if value is None else f"an object of {type(value).__module__}.{type(value).__qualname__}"


def is_told(made: Any, now: RoundStart, clients: Sequence[int]) -> bool:
    """Whether the correction has all parameters, and `start` none but the model's, each for one or all of S clients."""
    if not isinstance(made, Told) or not isinstance(made.correction, Correction):
        return False
    c, S = made.correction, len(clients)
    whole = [state for state in (c.centre, c.anchor, c.drift) if state is not None]
    return (
        isinstance(c.pull, float | int)
        and all(are_stacked(state, now.w, 1) for state in (c.centre, c.anchor) if state is not None)
        and all(are_stacked(state, now.w, S) for state in (c.drift, made.start) if state is not None)
        and all(state.keys() >= set(now.trained) for state in whole)
        and (c.scale is None or (isinstance(c.scale, Tensor) and c.scale.shape == (S,)))
    )


def are_stacked(made: Any, w: State, S: int) -> bool:
    """Whether these are some of the model's tensors in its dtypes, each for S clients or one for all of them."""
    return isinstance(made, dict) and all(
        name in w
        and isinstance(v, Tensor)
        and v.dtype == w[name].dtype
        and v.shape in ((1, *w[name].shape), (S, *w[name].shape))
        for name, v in made.items()
    )


def are_weights(weights: Any, now: RoundStart, reports: Any) -> bool:
    """As many as reports, of sizes that the mean can add up exactly (fl/aggregates/mean.py); 0 leaves a client out."""
    return len(weights) == len(reports) and all(
        float(weight) == 0 or 2.0**-20 <= float(weight) <= 2.0**29 for weight in weights
    )


def are_transfers(made: Any) -> bool:
    """How many models a client gets, and sends."""
    return isinstance(made, tuple) and len(made) == 2 and all(isinstance(n, int) and 0 <= n <= 1000 for n in made)


def is_model_and_kept(made: Any, now: RoundStart, got: Any) -> bool:
    K = now.config.num_clients
    return isinstance(made, tuple) and len(made) == 2 and is_like(made[0], now.w) and is_kept(made[1], K)


def is_got(made: Any, now: RoundStart, got: Any) -> bool:
    return isinstance(made, Got) and is_like(made.mean, now.w) and is_kept(made.kept, now.config.num_clients)


def is_update(made: Any, now: RoundStart, update: Update) -> bool:
    S = len(update.reports)
    like = {name: w.expand(S, *w.shape) for name, w in now.w.items()}
    if not isinstance(made, Update) or not all(isinstance(report, Report) for report in made.reports):
        return False
    return len(made.reports) == S and is_like(made.w, like) and are_plain(made.kept, now.config.num_clients)


def is_like(made: Any, like: State) -> bool:
    """Tensors with the names, shapes and types of the others, through which no gradient would flow."""
    return (
        isinstance(made, dict)
        and made.keys() == like.keys()
        and all(isinstance(v, Tensor) and not v.requires_grad for v in made.values())
        and all((v.shape, v.dtype) == (like[name].shape, like[name].dtype) for name, v in made.items())
    )


def is_kept(made: Any, K: int) -> bool:
    """Whether a checkpoint of K clients can hold it: the server's part as {name: {name: tensor}}, clients' plain."""
    return (
        isinstance(made, Kept)
        and all(isinstance(name, str) and isinstance(state, dict) for name, state in made.server.items())
        and all(isinstance(v, Tensor) for state in made.server.values() for v in state.values())
        and are_plain(made.clients, K)
    )


def are_plain(clients: Any, K: int) -> bool:
    """What some of K clients keep: by client a dict, not empty, of tensors, numbers, words, dicts and sequences."""

    def is_plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(type(key) in (str, int) and is_plain(inner) for key, inner in value.items())
        return all(map(is_plain, value)) if type(value) in (list, tuple) else type(value) in PLAIN

    return isinstance(clients, dict) and all(
        type(k) is int and 0 <= k < K and type(state) is dict and state and is_plain(state)
        for k, state in clients.items()
    )


def is_record(made: Any) -> bool:
    """Whether it can stand in a line of metrics.jsonl. Raises TypeError or ValueError for what JSON cannot hold."""
    if not isinstance(made, dict) or not all(isinstance(key, str) and key not in TAKEN for key in made):
        return False
    json.dumps(made, allow_nan=False)
    return True


def are_costs(made: Any) -> bool:
    """As `is_record`, but the bytes that are sent may be counted anew."""
    counts = {"uplink_bytes", "downlink_bytes"} & made.keys()
    rest = {key: value for key, value in made.items() if key not in counts}
    return is_record(rest) and all(isinstance(made[key], int) and 0 <= made[key] <= 2**53 for key in counts)


def are_owners(clients: object, n: int) -> bool:
    """Whether these are the clients of n examples, numbered from 0 without a gap."""
    if not isinstance(clients, Tensor) or (clients.shape, clients.dtype) != ((n,), torch.int64):
        return False
    if clients.device.type != "cpu":
        return False
    owners = clients.unique()
    return torch.equal(owners, torch.arange(len(owners)))
