"""The parts of an experiment that flags name: each is looked up, and made from the flags.

A user-supplied part (FILE.py:NAME) is checked, and so is what it returns; an error ends the run with one
line. Built-in parts are not checked, except that every model is tried on two examples.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from data.dataset import Dataset
from data.partition import Partition
from fl import returned
from fl.aggregates.robust import Robust
from fl.aggregates.total import Aggregate
from fl.algorithms.algorithm import Algorithm, alike
from fl.config import FLAGS, Config
from fl.names import blaming, entry_of, is_own, named, refuse
from fl.returned import kind_of
from fl.rng import seeded
from fl.state import RoundStart
from fl.transforms.attack import attack
from fl.transforms.clip import clip
from fl.transforms.compress import compress
from fl.transforms.noise import noise
from fl.transforms.transform import Transform, on_plain_tensors, same_model, same_round

MODEL = "a function (shape, classes) -> torch.nn.Module"
PARTITION = "a function (labels, num_clients, seed, flags by their names) -> data.partition.Partition"
RULE = "a function (models (m, P), weights (m,), config) -> model (P,)"
AGGREGATE = f"{RULE}, or a class with add, gather and result"
ALGORITHM = "a fl.algorithms.algorithm.Algorithm"
LIKE_W = "with the names, shapes and dtypes of w_t and without gradients"
COSTS = "a dict of what JSON can hold, of whose keys only the bytes are those that every record has"
RECORD = "a dict of what JSON can hold, without keys that every record has"
KEPT = "Kept whose server is {name: {name: tensor}}"
TRANSFORM = "a fl.transforms.transform.Transform, or a function (config) -> Transform"


def build_model(config: Config, data: Dataset) -> nn.Module:
    """The network of --model with its first weights, on the CPU. Raises FlagError.

    It is built from a stream of its own: the same first weights on every device and for every partition.
    """
    flag, value = "model", config.model
    build = callable_of(flag, value, MODEL)
    # One of ours may not fit the examples: a network for images has no use for the rows of a table.
    expected = MODEL if is_own(flag, value) else f"another --model for examples of shape {data.shape}"
    with seeded(config.seed, "model"):
        with blaming(flag, value, expected, own=True):
            flags = flags_of(build, config, after=2, optional=not is_own(flag, value))
            model: nn.Module = build(data.shape, data.classes, **flags)
        _check_model(value, model, data)
    # Convolutions are faster with the channels innermost; nothing else changes.
    return model.to(memory_format=torch.channels_last)


def _check_model(value: str, model: nn.Module, data: Dataset) -> None:
    """Refuse what is no network for this data set. A copy of the network is tried on two examples."""
    if not isinstance(model, nn.Module):
        refuse("model", value, f"returned {kind_of(model)}; expected {MODEL}")
    if not any(p.requires_grad for p in model.parameters()):
        refuse("model", value, "has no parameters to train")
    if any(is_lazy(v) for v in (*model.parameters(), *model.buffers())):
        refuse("model", value, f"has lazy layers; give them their sizes, which follow from the shape {data.shape}")
    if not all(isinstance(v, Tensor) and not v.is_complex() for v in model.state_dict().values()):
        refuse("model", value, "has more than tensors of real numbers in its state_dict")
    x, y = data.batch(data.test, slice(0, 2))
    shape = (len(y), data.classes, *y.shape[1:])
    with torch.no_grad(), blaming("model", value, f"inputs {tuple(x.shape)} to logits {shape}", own=True):
        logits = copy.deepcopy(model).eval()(x)
    if not isinstance(logits, Tensor) or logits.shape != shape or not logits.is_floating_point():
        refuse("model", value, f"made {kind_of(logits)} of inputs {tuple(x.shape)}; expected logits {shape}")


def split(config: Config, data: Dataset) -> Partition:
    """The partition of --partition. Arguments after the third are the flags of the same names. Raises FlagError."""
    flag, value = "partition", config.partition
    partitioner = callable_of(flag, value, PARTITION)
    with blaming(flag, value, PARTITION):
        names = list(inspect.signature(partitioner).parameters)[3:]
    for name in names:
        if name not in FLAGS and name != "clients":
            refuse(flag, value, f"its argument {name} is no flag; expected {PARTITION}")
    labels = data.labels
    flags = flags_of(partitioner, config, after=3)
    if "clients" in names:
        flags["clients"] = data.clients
    with blaming(flag, value, PARTITION):
        partition: Partition = partitioner(labels, config.num_clients, config.seed, **flags)
    if is_own(flag, value):
        if not isinstance(partition, Partition):
            refuse(flag, value, f"returned {kind_of(partition)}; expected {PARTITION}")
        with blaming(flag, value, PARTITION):
            sizes, owned = partition.sizes.tolist(), partition.indices.sort().values
            whole = owned.dtype == torch.int64 and torch.equal(owned, torch.arange(len(labels)))
        if len(sizes) != (config.num_clients or len(sizes)) or min(sizes, default=0) < 1:
            made = f"made {len(sizes)} clients of {min(sizes, default=0)} or more examples"
            refuse(flag, value, f"{made}; expected --num_clients {config.num_clients} of 1 or more")
        if not whole:
            refuse(flag, value, f"expected an owner for each of the {len(labels)} examples, and only one")
    return partition


def aggregate_of(config: Config) -> Callable[[RoundStart], Aggregate]:
    """A function from a round's start to the Aggregate that combines its models: --aggregate. Raises FlagError."""
    if config.secure_aggregation:
        from fl.aggregates.secure.aggregate import Secure  # here, because it needs a package that may be missing

        return Secure
    rule = _rule_of(config)
    if not isinstance(rule, type):
        return partial(Robust, rule)
    return partial(_OwnAggregate, config.aggregate, rule) if is_own("aggregate", config.aggregate) else rule


class _OwnAggregate:
    """An aggregate of the user's own class, whose result is refused if it is no model."""

    def __init__(self, value: str, make: Callable[[RoundStart], Any], now: RoundStart):
        self.value = value
        with blaming("aggregate", value, AGGREGATE):
            self.aggregate = make(now)

        def good(made: Any, denominator: float) -> bool:
            return returned.is_like(made, now.w)

        self.add, self.gather = self.aggregate.add, self.aggregate.gather
        self.result = returned.checked("aggregate", value, "result", self.aggregate.result, f"a model {LIKE_W}", good)

    @property
    def costs(self) -> dict[str, Any]:
        """A property, because they are read after `result`, which may be what sets them."""
        found = returned.checked(
            "aggregate", self.value, "costs", lambda: self.aggregate.costs, COSTS, returned.are_costs
        )
        return dict(found()) if hasattr(self.aggregate, "costs") else {}


def _rule_of(config: Config) -> Callable[..., Any]:
    """What --aggregate names: a rule, or a class of aggregates such as the mean's.

    A rule is a function (models (m, P), weights (m,), config) -> model (P,).
    """
    flag, value = "aggregate", config.aggregate
    cheaper = entry_of(flag, value).instead
    rule = callable_of(flag, (cheaper and cheaper(config)) or value, AGGREGATE)
    if not is_own(flag, value):
        return rule
    if isinstance(rule, type):
        if not all(callable(getattr(rule, name, None)) for name in ("add", "gather", "result")):
            refuse(flag, value, f"lacks some of add, gather and result; expected {AGGREGATE}")
        return rule

    @wraps(rule)
    def checked(models: Tensor, weights: Tensor, config: Config) -> Tensor:
        with blaming(flag, value, RULE):
            model = rule(models, weights, config)
        if not isinstance(model, Tensor) or model.shape != models.shape[1:]:
            refuse(flag, value, f"returned {kind_of(model)} of models {tuple(models.shape)}; expected {RULE}")
        return model.detach().to(models)

    return checked


def algorithm_of(config: Config) -> Algorithm:
    """The algorithm of --algorithm. Raises FlagError."""
    flag, value = "algorithm", config.algorithm
    algorithm = named(flag, value)
    if not is_own(flag, value):
        return replace(algorithm, weights=alike) if config.noise_multiplier else algorithm
    if not isinstance(algorithm, Algorithm):
        refuse(flag, value, f"is {kind_of(algorithm)}; expected {ALGORITHM}")
    for name in ("tell", "weights", "server", "prepare"):
        if not callable(getattr(algorithm, name)):
            refuse(flag, value, f"has a {name} that is no function; expected {ALGORITHM}")
    if not returned.are_transfers(algorithm.transfers):
        refuse(flag, value, f"transfers is {algorithm.transfers!r}; expected two integers from 0 to 1,000")
    checks: dict[str, tuple[str, Callable[..., bool]]] = {
        "tell": ("a Told whose tensors are stacked as fl/state.py says", returned.is_told),
        "weights": ("for each report 0 or a number from 2^-20 to 2^29", returned.are_weights),
        "server": (f"(a model {LIKE_W}, a {KEPT})", returned.is_model_and_kept),
        "prepare": ("a RoundStart", lambda made, *_: isinstance(made, RoundStart)),
    }
    return returned.with_checks(flag, value, algorithm, checks)


def transforms_of(config: Config) -> list[Transform]:
    """The transforms that the flags ask for, in the order in which they are applied to an update. Raises FlagError.

    The attack comes first: what an attacker sends takes the same way as everyone's update. Clipping and noise come
    after all that the user does, so that nothing there makes an update longer again. Compression comes last, because
    whatever changed an update after it would send other values than those whose bytes are counted.
    """
    named_ones = [_transform(config, value) for value in config.transform]
    ours = (clip(config), noise(config), compress(config))
    return [transform for transform in (attack(config), *named_ones, *ours) if transform]


def _transform(config: Config, value: str) -> Transform:
    flag = "transform"
    transform = named(flag, value)
    if not isinstance(transform, Transform):
        make = callable_of(flag, value, TRANSFORM)
        with blaming(flag, value, TRANSFORM):
            transform = make(config)
    if not isinstance(transform, Transform):
        refuse(flag, value, f"returned {kind_of(transform)}; expected {TRANSFORM}")
    if not is_own(flag, value):
        return transform
    transform = replace(transform, client=on_plain_tensors(transform.client))
    if config.noise_multiplier and (transform.server is not same_model or transform.finish is not same_round):
        refuse(flag, value, "may use more than the noisy mean on the server; leave it out with --noise_multiplier")
    checks: dict[str, tuple[str, Callable[..., bool]]] = {
        "client": ("an Update for the same clients, each tensor (S, ...) of w_t's shape and dtype", returned.is_update),
        "server": (f"a model {LIKE_W}", lambda made, now, mean: returned.is_like(made, now.w)),
        "finish": (f"a Got with a mean {LIKE_W}, and a {KEPT}", returned.is_got),
        "keeps": (f"a {KEPT}", lambda made, *_: returned.is_kept(made, 1)),
        "record": (RECORD, lambda made, *_: returned.is_record(made)),
        "bytes": ("an int from 0 to 2^53", lambda count, *_: isinstance(count, int) and 0 <= count <= 2**53),
    }
    return returned.with_checks(flag, value, transform, checks)


def flags_of(function: Callable[..., Any], config: Config, after: int, optional: bool = True) -> dict[str, Any]:
    """By name, the values of the flags that are named like arguments of the function; the first `after` do not count.

    optional: whether arguments with a default get the flag's value, too.
    """
    parameters = list(inspect.signature(function).parameters.values())[after:]
    names = [one.name for one in parameters if one.name in FLAGS and (optional or one.default is one.empty)]
    return {name: getattr(config, name) for name in names}


def callable_of(flag: str, value: str, expected: str) -> Callable[..., Any]:
    found = named(flag, value)
    if not callable(found) or isinstance(found, nn.Module):
        refuse(flag, value, f"is {kind_of(found)}; expected {expected}")
    return found  # type: ignore[no-any-return]
