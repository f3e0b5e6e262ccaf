"""Whether torchrun started this process, by the environment variables that it sets. Imports no torch."""

from __future__ import annotations

import os
from typing import NamedTuple

from fl.config import Config
from fl.errors import FlagError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class Launch(NamedTuple):
    """The place of this process among `world_size`, and among those of its machine."""

    rank: int
    world_size: int
    local_rank: int


def torchrun() -> Launch | None:
    """What torchrun says, or None if it did not start this process. Raises FlagError if it makes no sense."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise FlagError(f"{name}: not set, though RANK and WORLD_SIZE are; use torchrun, or unset these two")
    _number("MASTER_PORT", 0, 65535)
    size = _number("WORLD_SIZE", 1, 2**31 - 1)
    return Launch(_number("RANK", 0, size - 1), size, _number("LOCAL_RANK", 0, size - 1))


def _number(name: str, low: int, high: int) -> int:
    text = os.environ.get(name, "0")
    if not text.isdecimal() or not text.isascii() or len(text) > 10 or not low <= int(text) <= high:
        raise FlagError(
            f"{name} {text}: expected an integer from {low} to {high} in this environment variable, which torchrun "
            "sets; unset RANK to train in one process"
        )
    return int(text)


def check_launch(config: Config, script: str) -> None:
    """Refuse what several processes under torchrun cannot do. Raises FlagError."""
    launch = torchrun()
    if launch is None or launch.world_size == 1:
        return
    if script == "baseline":
        raise FlagError("torchrun: run_baseline.py trains in one process, and each would train it all; use python3")
    if config.workers:
        raise FlagError(f"--workers {config.workers}: torchrun has started {launch.world_size} processes already")
    if config.engine not in ("auto", "distributed"):
        raise FlagError(f"--engine {config.engine}: torchrun starts several processes; use distributed")
