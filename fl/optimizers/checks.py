"""What the optimizers accept. Every check says which argument it is about, what that was and what was expected."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor


def iterable(what: str, given: Any, expected: str) -> Any:
    """What was given. Raises TypeError when nobody can iterate over it."""
    try:
        iter(given)
    except TypeError:
        raise TypeError(f"{what}: {shown(given)}; expected {expected}") from None
    return given


def as_pairs(what: str, given: Any, of: str) -> list[tuple[Any, Any]]:
    """The (n_k, tensors) pairs that each of the clients sent. Raises TypeError for anything else."""
    pairs = list(iterable(f"{what}s", given, f"(n_k, {of}) pairs"))
    for i, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"{what} {i}: {shown(pair)}; expected a pair (n_k, {of})")
    return [(n_k, tensors) for n_k, tensors in pairs]


def examples(what: str, n: Any) -> float:
    """A positive number of examples. Raises ValueError."""
    value = as_float(n)
    if not 0 < value < math.inf:
        raise ValueError(f"{what} is {shown(n)}; expected a positive number of examples")
    return value


def total(what: str, counts: Sequence[float]) -> float:
    """The sum of the n_k. Raises ValueError when it overflows, because every share n_k / n would be 0."""
    n = sum(counts)
    if n == math.inf:
        raise ValueError(f"{what}: the n_k add up to more than a float can hold; divide them all by the same number")
    return n


def rate(what: str, value: Any) -> float:
    """What may multiply a step: a finite number, 0 or more. Raises ValueError."""
    number = as_float(value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{what} is {shown(value)}; expected a finite number, 0 or more")
    return number


def group_rates(group: Any, names: Sequence[str]) -> None:
    """The rates that a param group sets for itself. torch.optim.SGD looks at none of these."""
    for name in names:
        if isinstance(group, dict) and name in group:
            rate(f"param group: {name}", group[name])


def tensor_of(what: str, given: Any, shape: torch.Size) -> Tensor:
    """A tensor with that shape. Raises TypeError or ValueError."""
    if not isinstance(given, Tensor):
        raise TypeError(f"{what}: {shown(given)}; expected a tensor")
    if given.shape != shape:
        raise ValueError(f"{what} is {tuple(given.shape)}; expected {tuple(shape)}")
    return given


def finite(what: str, tensor: Tensor) -> None:
    if tensor.dtype.itemsize == 1:  # PyTorch before 2.15 has no isfinite for float8
        tensor = tensor.float()
    if not tensor.isfinite().all():
        raise ValueError(f"{what} is not finite")


def writable(what: str, tensor: Tensor) -> None:
    """Raises ValueError for a tensor into which `copy_` could not write a model, or would write it wrongly."""
    if tensor.layout != torch.strided or tensor.is_meta:
        raise ValueError(f"{what} is {tensor.layout} on {tensor.device}; expected a dense tensor that holds its values")
    if tensor.is_complex():
        raise ValueError(f"{what} is {tensor.dtype}; expected real numbers, such as torch.view_as_real gives")
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        raise ValueError(f"{what} is a tensor of inference mode, which cannot be written to; give a clone of it")
    if overlaps_itself(tensor):
        raise ValueError(f"{what} has values that share memory, as after expand; give a clone of it")


def overlaps_itself(tensor: Tensor) -> bool:
    """Whether two of its values may lie at the same place.

    They do not where each stride is longer than all that the shorter strides span together. An exotic as_strided
    tensor may break that rule and still have a place for each of its values; it counts as overlapping here.
    """
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride <= reach:
            return tensor.numel() > 0
        reach += stride * (size - 1)
    return False


def gradient(what: str, given: Any, parameters: Sequence[Tensor]) -> list[Tensor]:
    """A finite dense tensor per parameter, in its dtype and on its device; None, of frozen parameters, becomes zeros.

    Raises TypeError or ValueError for what does not fit.
    """
    tensors = list(iterable(what, given, "one tensor per parameter"))
    if len(tensors) != len(parameters):
        raise ValueError(f"{what}: has {len(tensors)} tensors; expected {len(parameters)}, one per parameter")
    result = []
    for i, (p, g) in enumerate(zip(parameters, tensors, strict=True)):
        if g is not None:
            tensor_of(f"{what}: {i}", g, p.shape)
            if g.is_complex() and not p.is_complex():
                raise ValueError(f"{what}: {i} is {g.dtype}; expected real numbers, as the parameter's")
        result.append(dense(g, p).to(p))
        finite(f"{what}: {i}", result[-1])
    return result


def dense(grad: Tensor | None, p: Tensor) -> Tensor:
    """p's gradient as a dense tensor: an embedding's may be sparse, and a frozen parameter has none."""
    return torch.zeros_like(p) if grad is None else grad.detach().to_dense()


def as_float(value: Any) -> float:
    """NaN for what is no real number and infinity for integers beyond floats, so that one comparison refuses both."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def shown(value: Any) -> str:
    """A number as it is written, anything else by the name of its type, so that a message stays one line."""
    if isinstance(value, int) and as_float(value) == math.inf:
        return "an integer too large for a float"
    return repr(value) if value is None or isinstance(value, Real) else type(value).__name__
