"""Checkpoints that are whole or refused, and the hash that names a model."""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path
from typing import Any

import torch

from fl.errors import RunFolderError, reason
from fl.records.files import write_atomic
from fl.records.strict_json import read_regular
from fl.state import State

MARK = b"\nsha256 "  # after the torch file: this and the hexadecimal SHA-256 of all before it
TAIL = len(MARK) + 64


def save(path: Path, content: Any) -> None:
    """Write `content` (tensors, numbers, strings, dicts, lists) atomically, with its SHA-256 behind it."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    payload = buffer.getvalue()
    write_atomic(path, payload + MARK + hashlib.sha256(payload).hexdigest().encode())


def load(path: Path) -> Any:
    """Read what `save` wrote, on the CPU. Raises RunFolderError if a byte of it has changed.

    Anyone can write a file that ends with the right SHA-256, so the caller must check the content.
    """
    try:
        raw = read_regular(path)
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be read ({reason(error)})") from None
    payload, tail = raw[:-TAIL], raw[-TAIL:]
    found = hashlib.sha256(payload).hexdigest()
    if tail != MARK + found.encode():
        raise RunFolderError(
            f"{path}: corrupt: its content has SHA-256 {found}, not the one it ends with; "
            "delete it and --resume to start the run again, or restore it from a copy"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of what it is about to refuse
            return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch makes of a file that it did not write
        raise RunFolderError(f"{path}: not a checkpoint ({reason(error)[:160]})") from None


def model_sha256(w: State) -> str:
    """SHA-256 over the sorted names, shapes and bytes of a state_dict."""
    digest = hashlib.sha256()
    for name in sorted(w):
        tensor = w[name].detach().cpu().contiguous()
        digest.update(f"{name} {list(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
