"""Which device a run uses, and the settings under which equal seeds give equal bits there."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Sequence
from contextlib import suppress

import torch

from fl.errors import FlagError


def choose_device(name: str) -> torch.device:
    """The device of --device; auto is CUDA, or else the CPU. Raises FlagError if it is not here.

    Apple's MPS is used only if it is asked for, because nothing here was ever run on it.
    """
    here = ["cpu"]
    if torch.backends.mps.is_available():
        here.append("mps")
    if torch.cuda.is_available():
        here = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *here]
    if name == "auto":
        name = here[0]
    if name not in here:
        raise FlagError(f"--device {name}: not on this machine; expected one of auto, {', '.join(here)}")
    return torch.device(name)


def keep_freed_memory() -> None:
    """Have glibc reuse large blocks instead of giving them back to the system and faulting them in again.

    A training step frees and allocates its activations; a third of a convolutional step's time on a CPU was spent
    on page faults. Elsewhere than on glibc this does nothing.
    """
    with suppress(OSError, AttributeError, TypeError):  # TypeError: on Windows a library must have a name
        libc = ctypes.CDLL(None)
        M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def make_deterministic(precision: str, device: torch.device) -> None:
    """Make torch's results repeat bit for bit, in the arithmetic of --precision. Call this before any call of CUDA.

    Raises FlagError for tf32 where there is none.
    """
    if precision == "tf32" and device.type != "cuda":
        raise FlagError(f"--precision tf32: exists on CUDA only, and the device is {device}; expected fp32 or bf16")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_deterministic_debug_mode("warn")  # as use_deterministic_algorithms, which imports the compiler
    # A debugging aid that costs a pass over memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    # Autocast for the whole run; its cache of cast weights would outlive the steps that change them.
    torch.set_autocast_cache_enabled(False)
    torch.set_autocast_dtype(device.type, torch.bfloat16)
    torch.set_autocast_enabled(device.type, precision == "bf16")


def send(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The numbers as a tensor on the device. On CUDA this does not wait until the GPU has finished its earlier work."""
    return torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda").to(device, non_blocking=True)


def accumulator_dtype(device: torch.device) -> torch.dtype:
    """float64, for sums; Apple's GPUs have none."""
    return torch.float32 if device.type == "mps" else torch.float64


def device_name(device: torch.device) -> str:
    """The hardware behind the device, for the records."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
        return models[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()
