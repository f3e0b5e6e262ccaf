"""What a message holds: tensors and words as bytes. Reading them runs no code, whoever wrote them.

The tensors travel as safetensors, whose header says their types, shapes and places. What they belong to, nested dicts
and lists of numbers and words, is JSON in the same header.
"""

from __future__ import annotations

import json
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

PLAIN = (str, int, float, bool, type(None))


def pack(content: Any) -> bytes:
    """`content`: dicts with keys that are words or numbers, lists, tuples, tensors, numbers, words, None.

    A tensor that occurs more than once, in whichever shape, is sent once: FedProx's centre is w, and costs nothing.
    """
    tensors: dict[str, Tensor] = {}
    places: dict[Any, str] = {}  # by where in memory a tensor lies, and how

    def outline(part: Any) -> Any:
        if isinstance(part, Tensor):
            strides = [(size, stride) for size, stride in zip(part.shape, part.stride(), strict=True) if size > 1]
            place = places.setdefault((part.data_ptr(), part.dtype, *strides), str(len(places)))
            if place not in tensors:
                tensors[place] = part.detach().reshape(-1).to("cpu", copy=True)
            return {"tensor": place, "shape": list(part.shape)}
        if isinstance(part, dict):
            return {"dict": [[key, outline(value)] for key, value in part.items()]}
        if isinstance(part, list | tuple):
            return [outline(one) for one in part]
        assert isinstance(part, PLAIN), type(part)
        return part

    words = json.dumps(outline(content))
    return bytes(save(tensors, metadata={"content": words}))


def unpack(message: bytes) -> Any:
    """What `pack` was given, tuples as lists, tensors on the CPU. Raises ValueError for anything else."""
    try:
        length = int.from_bytes(message[:8], "little")
        words = json.loads(message[8 : 8 + length])["__metadata__"]["content"]
        tensors = load(message)
        return _filled(json.loads(words), tensors)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, RecursionError) as error:
        raise ValueError(f"no message of ours ({type(error).__name__})") from None


def _filled(part: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(part, list):
        return [_filled(one, tensors) for one in part]
    if not isinstance(part, dict):
        return part
    if part.keys() == {"tensor", "shape"}:
        return tensors[part["tensor"]].view(part["shape"])
    if part.keys() != {"dict"}:
        raise ValueError("an object that is neither a dict nor a tensor")
    return {key: _filled(value, tensors) for key, value in part["dict"]}
