"""Updates in fewer bytes: --compress. What the four compressors do stands in fl/transforms/compressors.py."""

from __future__ import annotations

from typing import Any

import torch

from fl.config import Config
from fl.names import named
from fl.rng import derive
from fl.state import Got, Kept, RoundStart, State, Update, floating
from fl.transforms.compressors import Compressor, Sizes
from fl.transforms.transform import Transform


def compress(config: Config) -> Transform | None:
    """Replace each client's model by the one that the server decodes from its bytes; None for --compress none.

    That is w + the decoded Delta, where Delta = w_k - w. Integer buffers are sent uncompressed. With error feedback,
    client k adds to Delta the residual of its last update that counted: what compression left out of it. The new
    residual is kept for its next update. If an update is rejected or its round is abandoned, the old residual stays.
    """
    made: Compressor | None = named("compress", config.compress)(config)
    if made is None:
        return None
    compressor = made

    @torch.no_grad()
    def client(now: RoundStart, update: Update) -> Update:
        base, clients = floating(now.w), [report.client for report in update.reports]
        S = len(clients)
        sizes = sizes_of(now.w)
        delta = torch.cat([(update.w[name] - w).reshape(S, -1) for name, w in base.items()], 1)  # (S, P)
        kept = update.kept
        if compressor.feeds_back:
            for row, k in zip(delta, clients, strict=True):
                if (residual := now.kept.of(k, RESIDUAL)) is not None:
                    row.add_(residual.to(row.device))
        seeds = [derive(config.seed, "compress", now.t, k) for k in clients]
        sent = compressor.expand(compressor.shrink(delta, sizes, seeds), sizes)
        if compressor.feeds_back:
            left = delta.sub_(sent).cpu()
            kept = {k: kept.get(k, {}) | {RESIDUAL: row.clone()} for k, row in zip(clients, left, strict=True)}
        parts = zip(base.items(), sent.split(sizes, 1), strict=True)
        w = update.w | {name: w + part.view(-1, *w.shape) for (name, w), part in parts}
        return update._replace(w=w, kept=kept)

    def length(w: State) -> int:
        """Bytes of one client's update."""
        dtype = flat(w).dtype
        integers = sum(tensor.nbytes for name, tensor in w.items() if name not in floating(w))
        return compressor.length(sizes_of(w), dtype.itemsize) + integers

    def keeps(w: State) -> Kept:
        return Kept(clients={0: {RESIDUAL: flat(w)}} if compressor.feeds_back else {})

    def record(now: RoundStart, got: Got) -> dict[str, Any]:
        return {"compressed_bytes": len(now.sizes) * length(now.w)}

    return Transform(client=client, bytes=length, keeps=keeps, record=record)


RESIDUAL = "residual"  # under which client k keeps the difference, (P,)


def sizes_of(w: State) -> Sizes:
    """Lengths of the floating tensors, in the model's order."""
    return [tensor.numel() for tensor in floating(w).values()]


def flat(w: State) -> torch.Tensor:
    """(P,): the floating tensors one after another."""
    return torch.cat([tensor.flatten() for tensor in floating(w).values()])
