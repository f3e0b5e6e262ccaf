"""Clip each client's change w_k - w to a norm of at most C: --clip_norm. With --clip_quantile, C is adapted each round.

Clipping: McMahan, Ramage, Talwar and Zhang 2018, "Learning Differentially Private Recurrent Language Models",
arXiv 1710.06963, "flat clipping". Adaptive clipping: Andrew, Thakkar, McMahan and Ramaswamy 2021, "Differentially
Private Learning with Adaptive Clipping", arXiv 1905.03871, algorithm 1 with the geometric update and its rate 0.2:

    C <- C exp(-0.2 (b - gamma)),    b = the share of clients that were not clipped

Where the server adds noise, it adds some to this share as well, and divides by m whoever reported: with b_k 1 or 0, the
noisy share is 1/2 + (sum of (b_k - 1/2) + sigma_b N(0, 1)) / m, as in the paper.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fl.accountant import count_noise
from fl.config import Config
from fl.device import accumulator_dtype
from fl.noise import normals
from fl.state import Got, Kept, RoundStart, State, Update, along
from fl.transforms.transform import Transform

RATE = 0.2  # eta_C of Andrew et al. 2021


def norm_at(now: RoundStart) -> float:
    """C of the round."""
    kept = now.kept.server.get("clip")
    return float(kept["norm"]) if kept else now.config.clip_norm or math.inf


def lengths(now: RoundStart, update: Update) -> Tensor:
    """(S,): the L2 norm of each w_k - w over all parameters together, added up in float64 where there is one."""
    kind = accumulator_dtype(next(iter(now.w.values())).device)
    parts = [
        torch.linalg.vector_norm((update.w[name] - w).reshape(len(update.reports), -1), dim=1, dtype=kind)
        for name, w in now.parameters.items()
    ]
    return torch.linalg.vector_norm(torch.stack(parts), dim=0)


@torch.inference_mode()  # an engine's models may be tensors of that mode
def shorten(now: RoundStart, update: Update) -> Update:
    """w_k <- w + min(1, C / |w_k - w|) (w_k - w). If the norm is at most C, w_k stays the same, bit for bit.

    Buffers stay as they are: no step made them, and fl/accountant.py refuses them where noise is asked for.
    """
    norms = lengths(now, update)
    scale = (norm_at(now) / norms).clamp(max=1)  # (S,); an infinite norm gives NaN below, and the update is rejected
    long = (scale < 1).tolist()
    if any(long):
        for name, w in now.parameters.items():
            w_k = update.w[name]
            torch.lerp(w.unsqueeze(0), w_k, along(scale.to(w_k.dtype), w_k), out=w_k)
    reports = [r._replace(clipped=float(cut)) for r, cut in zip(update.reports, long, strict=True)]
    return update._replace(reports=reports)


def follow_the_quantile(now: RoundStart, got: Got) -> Got:
    """The next round's C, which the server keeps."""
    c, C = now.config, norm_at(now)
    unclipped = [1 - report.clipped for report in got.reports]
    if c.noise_multiplier:
        noise = count_noise(c) * float(normals(now.noise_key, "count", now.t, n=1))
        share = 0.5 + (sum(b - 0.5 for b in unclipped) + noise) / c.num_select_clients
    elif unclipped:
        share = sum(unclipped) / len(unclipped)
    else:
        return got
    C *= math.exp(-RATE * (share - float(c.clip_quantile or 0)))
    return replace(got, kept=got.kept.with_server(clip={"norm": torch.tensor(C)}))


def record(now: RoundStart, got: Got) -> dict[str, Any]:
    """C of the round, and the share of clients that were clipped."""
    line: dict[str, Any] = {"clip_norm": norm_at(now)} if now.t else {}
    if got.reports:
        line["clipped"] = sum(report.clipped for report in got.reports) / len(got.reports)
    return line


def keeps(w: State) -> Kept:
    return Kept({"clip": {"norm": torch.tensor(1.0)}})


def clip(config: Config) -> Transform | None:
    """None without --clip_norm."""
    if config.clip_norm is None:
        return None
    if config.clip_quantile is None:
        return Transform(client=shorten, record=record)
    return Transform(client=shorten, finish=follow_the_quantile, keeps=keeps, record=record)
