"""S_k and A, FSVRG's scaling for sparse features (Konecny et al. 2016, arXiv 1610.02527, section 3.6).

Each is a vector (d,), one number per feature, and multiplies one parameter along the dimension of length d: the first
parameter, where vectors of another length are skipped, because nn.Module lists its own biases before its layers'
weights. The last dimension is tried first, as in nn.Linear (out, d) and in a vector (d,), then the first of two, as in
nn.EmbeddingBag (d, out); a square matrix counts as nn.Linear's. A model without such a dimension is refused, because
the scaling would silently be left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fl.optimizers.checks import examples, iterable, shown, total


class FeatureCounts(NamedTuple):
    """phi_k of a client: in how many of its n examples each feature is not zero. counts (d,) float64."""

    counts: Tensor
    n: int


def count_features(data: Any) -> FeatureCounts:
    """data: (n, d), dense or sparse. Raises TypeError or ValueError for anything else."""
    if not isinstance(data, Tensor):
        raise TypeError(f"data: {shown(data)}; expected a tensor (n_k, features)")
    if data.dim() != 2 or len(data) == 0:
        raise ValueError(f"data is {tuple(data.shape)}; expected (n_k, features) with n_k >= 1")
    if data.layout == torch.strided:
        return FeatureCounts((data != 0).sum(0).double(), len(data))
    data = data.to_sparse_coo().coalesce()
    present = data.indices()[1][data.values() != 0]
    return FeatureCounts(torch.bincount(present, minlength=data.shape[1]).double(), len(data))


def phi_and_A(phis: Iterable[FeatureCounts]) -> tuple[Tensor, Tensor]:
    """phi_j = n_j / n and A_j = K / omega_j, (d,) float64. A is 1 for features nobody has.

    Raises TypeError or ValueError for counts that no n examples have, and when the clients' d differ.
    """
    given = list(iterable("phis", phis, "the FeatureCounts of every client"))
    if not given:
        raise ValueError("phis: no clients; there is nothing to count")
    ns = [checked_n(f"phis: client {i}", phi_k) for i, phi_k in enumerate(given)]
    sizes = [len(phi_k.counts) for phi_k in given]
    if len(set(sizes)) != 1:
        raise ValueError(f"clients have {sizes} features; expected equal numbers")
    device = given[0].counts.device
    counts = torch.stack([phi_k.counts.to(device, torch.float64) for phi_k in given])  # (K, d)
    phi = counts.sum(0) / total("phis", ns)
    omega = (counts > 0).sum(0).to(torch.float64)
    return phi, torch.where(omega > 0, len(given) / omega.clamp_min(1), 1.0)


def checked_n(what: str, phi_k: Any) -> float:
    """The client's n. Raises TypeError or ValueError for counts that no n examples have."""
    if not isinstance(phi_k, FeatureCounts):
        raise TypeError(f"{what}: {shown(phi_k)}; expected FeatureCounts")
    n = examples(f"{what}: n", phi_k.n)
    counts = vector(f"{what}: counts", phi_k.counts)
    if not ((counts >= 0) & (counts <= n) & (counts == counts.round())).all():
        raise ValueError(f"{what}: counts: expected whole numbers from 0 to its n, {shown(phi_k.n)}")
    return n


def scaling(phi: Any, phi_k: Tensor | None, parameters: Sequence[Tensor]) -> dict[int, Tensor]:
    """S_k = phi / phi_k, by the index of the parameter that it multiplies; empty if phi_k is None.

    phi (d,): share of all clients' examples that have each feature. phi_k (d,): the same for this client. Raises
    TypeError or ValueError if phi is not a vector of shares in [0, 1] as long as phi_k, or if it is 0 for a feature
    that this client's data has.
    """
    vector("phi", phi)
    if phi_k is not None and phi.shape != phi_k.shape:
        raise ValueError(f"phi has {len(phi)} features; expected {len(phi_k)}, as this client's data")
    seen = torch.zeros_like(phi) if phi_k is None else phi_k.to(phi.device)
    if not ((phi >= 0) & (phi <= 1) & ((phi > 0) | (seen == 0))).all():
        raise ValueError("phi: expected shares in [0, 1], above 0 for every feature that this client has; give what "
                         "FSVRGServer.get_phi_and_compute_A returned")  # fmt: skip
    if phi_k is None:
        return {}
    # A feature that the client never sees has no gradient to scale.
    S = torch.where(seen > 0, phi / seen.clamp_min(1e-300), 1.0)
    i = place_of_features(parameters, len(S))
    return {i: along_features(S, parameters[i])}


def place_of_features(parameters: Sequence[Tensor], d: int) -> int:
    """The index of the parameter that has a weight for each feature. Raises ValueError when none has."""
    for i, p in enumerate(parameters):
        if p.shape[-1:] == (d,) or (p.dim() == 2 and len(p) == d):
            return i
        if p.dim() > 1:
            raise ValueError(f"the first parameter is {tuple(p.shape)}; expected its last dimension, or the first of "
                             f"two, to be the {d} features; give the features' weights first")  # fmt: skip
    raise ValueError(f"no parameter has a weight for each of the {d} features")


def along_features(values: Tensor, p: Tensor) -> Tensor:
    """values (d,), in p's dtype and shaped to multiply p along its features."""
    return (values if p.shape[-1] == len(values) else values.unsqueeze(1)).to(p)


def vector(what: str, given: Any) -> Tensor:
    """A tensor (d,) of real numbers. Raises TypeError or ValueError."""
    if not isinstance(given, Tensor):
        raise TypeError(f"{what}: {shown(given)}; expected a tensor")
    if given.dim() != 1 or given.is_complex() or given.layout != torch.strided:
        raise ValueError(f"{what} is {tuple(given.shape)}, {given.dtype}; expected a dense vector of real numbers")
    return given
