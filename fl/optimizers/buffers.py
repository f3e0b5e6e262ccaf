"""Buffers, such as BatchNorm's statistics, across a call that must leave no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook


@contextmanager
def buffers_put_back() -> Iterator[None]:
    """Within it, every module that this thread calls gets its buffers back at the end, as if it had not been called.

    An optimizer knows the parameters and not their modules, so each module is looked at as it is called.
    """
    before: dict[nn.Module, dict[str, tuple[Tensor, Tensor]]] = {}
    thread = get_ident()

    def keep(module: nn.Module, inputs: Any) -> None:
        if get_ident() == thread and module not in before:
            for part in module.modules():
                named = part.named_buffers(recurse=False)
                before.setdefault(part, {name: (buffer, buffer.detach().clone()) for name, buffer in named})

    handle = register_module_forward_pre_hook(keep)
    try:
        yield
    finally:
        handle.remove()
        for module, buffers in before.items():
            for name, (buffer, value) in buffers.items():
                with torch.no_grad():
                    buffer.copy_(value)
                setattr(module, name, buffer)
