"""Federated optimizers for anyone's training code, without the runner: torch.optim.Optimizer subclasses.

    server = FederatedAvgServer(model.parameters())
    client = FederatedAvgClient(client_model.parameters(), lr=0.1)    # on every client
    client.zero_grad(); loss_fn(client_model(x), y).backward(); client.step()
    server.step([(n_1, client_model_1.parameters()), ...])            # average, then redistribute

A whole round of FSVRG stands in FSVRGClient's docstring.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fl.aggregate import WeightedMean

Parameters = Iterable[Tensor] | Iterable[tuple[str, Tensor]]
Model = Iterable[Tensor] | Mapping[str, Tensor]


class FederatedAvgClient(torch.optim.SGD):
    """Local SGD of ClientUpdate (McMahan et al. 2017, arXiv 1602.05629, Algorithm 1)."""

    def __init__(self, params: Parameters, lr: float, momentum: float = 0.0, weight_decay: float = 0.0):
        super().__init__(params, lr, momentum=momentum, weight_decay=weight_decay)  # type: ignore[arg-type]


class FederatedAvgServer(torch.optim.Optimizer):
    """The server of federated averaging (McMahan et al. 2017, arXiv 1602.05629, Algorithm 1).

    params: the global model's, as for any optimizer; give model.named_parameters(), and model.named_buffers() as
    `buffers`, for clients that send state_dicts.
    """

    def __init__(self, params: Parameters, buffers: Iterable[tuple[str, Tensor]] = ()):
        given: list[Any] = list(params)
        named = bool(given) and isinstance(given[0], tuple)
        self.names = [name for name, _ in given] if named else None
        self.buffers = dict(buffers)
        super().__init__([p for _, p in given] if named else given, {})

    @property
    def parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def step(self, updates: Sequence[tuple[float, Model]]) -> None:  # type: ignore[override]
        """Set the global model to sum of n_k / n w_k, and every client's tensors to the global model.

        updates: (n_k, w_k) of each client that reported; n_k: its number of training examples, w_k: its
        parameters, or its state_dict, whose floating buffers are averaged and integer ones maximised.
        Raises ValueError, and changes nothing, for an update that is not finite or does not fit.
        """
        models = [self._checked(i, n_k, w_k) for i, (n_k, w_k) in enumerate(updates)]
        if not models:
            raise ValueError("no updates: there is nothing to average")
        mean = WeightedMean(self._own(models[0]), len(models), max(float(n_k) for n_k, _ in updates))
        for (n_k, _), w_k in zip(updates, models, strict=True):
            mean.add({name: tensor.detach().unsqueeze(0) for name, tensor in w_k.items()}, [float(n_k)])
        result = self._server_update(mean.result())
        for own in (self._own(result), *models):
            for name, tensor in own.items():
                tensor.copy_(result[name])

    def _own(self, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The global model's tensors by the names that an update has."""
        keys = self.names or [str(i) for i in range(len(self.parameters))]
        return {k: v for k, v in (dict(zip(keys, self.parameters, strict=True)) | self.buffers).items() if k in like}

    def _server_update(self, mean: dict[str, Tensor]) -> dict[str, Tensor]:
        return mean

    def _checked(self, i: int, n_k: float, w_k: Model) -> dict[str, Tensor]:
        who = f"update {i}"
        if isinstance(n_k, bool) or not isinstance(n_k, Real) or not math.isfinite(n_k) or n_k <= 0:
            raise ValueError(f"{who}: n_k is {n_k!r}; expected a positive number of examples")
        if isinstance(w_k, Mapping):
            if self.names is None:
                raise ValueError(f"{who}: a state_dict; give the server model.named_parameters() to match its names")
            tensors = dict(w_k)
            expected = dict(zip(self.names, self.parameters, strict=True)) | self.buffers
        else:
            tensors = {str(j) if self.names is None else name: tensor for j, (name, tensor) in self._by_place(who, w_k)}
            expected = self._own(tensors)
        missing, unknown = set(expected) - set(tensors), set(tensors) - set(expected)
        if missing or unknown:
            what = [f"lacks {', '.join(sorted(missing))}"] * bool(missing)
            what += [f"has {', '.join(sorted(unknown))}, unknown to the server"] * bool(unknown)
            raise ValueError(f"{who}: {' and '.join(what)}")
        for name, tensor in tensors.items():
            if tensor.shape != expected[name].shape:
                raise ValueError(f"{who}: {name} is {tuple(tensor.shape)}; expected {tuple(expected[name].shape)}")
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise ValueError(f"{who}: {name} is not finite")
        return {name: tensors[name] for name in expected}

    def _by_place(self, who: str, w_k: Iterable[Tensor]) -> list[tuple[int, tuple[str, Tensor]]]:
        given = list(w_k)
        if len(given) != len(self.parameters):
            raise ValueError(f"{who}: has {len(given)} parameters; expected {len(self.parameters)}")
        names = self.names or [""] * len(given)
        return list(enumerate(zip(names, given, strict=True)))


class FeatureCounts(NamedTuple):
    """phi_k of a client: in how many of its n examples each feature is not zero. counts (d,) float64."""

    counts: Tensor
    n: int


class FSVRGServer(FederatedAvgServer):
    """The server of FSVRG (Konecny et al. 2016, arXiv 1610.02527, Algorithm 4): w_t + A (mean - w_t).

    A = diag(K / omega_j), omega_j the number of clients that have feature j, applies to the first parameter, whose
    last dimension is the features; to the others, as in dense deep models to all, the identity does.
    """

    def get_phi_and_compute_A(self, phis: Sequence[FeatureCounts]) -> tuple[Tensor, Tensor]:
        """phi (d,), the share of all examples that have a feature, and A (d,); 1 for features nobody has.

        Raises ValueError when the clients' numbers of features differ.
        """
        if len({len(phi_k.counts) for phi_k in phis}) != 1:
            raise ValueError(f"clients have {[len(phi_k.counts) for phi_k in phis]} features; expected equal numbers")
        counts = torch.stack([phi_k.counts for phi_k in phis])  # (K, d)
        phi = counts.sum(0) / sum(phi_k.n for phi_k in phis)
        omega = (counts > 0).sum(0)
        A = torch.where(omega > 0, len(phis) / omega.clamp_min(1), 1.0).to(counts.dtype)
        self.state[self.parameters[0]] = {"phi": phi, "A": A}
        return phi, A

    def mean_gradient(self, gradients: Sequence[tuple[float, Iterable[Tensor]]]) -> list[Tensor]:
        """sum of n_k / n times client k's mean gradient at w_t: the full gradient for FSVRGClient.start_round."""
        given = [(float(n_k), list(tensors)) for n_k, tensors in gradients]
        n = sum(n_k for n_k, _ in given)
        return [torch.stack([n_k / n * g for (n_k, _), g in zip(given, column, strict=True)]).sum(0)
                for column in zip(*(tensors for _, tensors in given), strict=True)]  # fmt: skip

    def _server_update(self, mean: dict[str, Tensor]) -> dict[str, Tensor]:
        own = self._own(mean)
        first = self.parameters[0]
        for name, p in own.items():
            if p is first and first in self.state and p.shape[-1:] == self.state[first]["A"].shape:
                mean[name] = p + self.state[first]["A"].to(p) * (mean[name] - p)
        return mean


class FSVRGClient(torch.optim.Optimizer):
    """Local steps of FSVRG (Konecny et al. 2016, arXiv 1610.02527, Algorithm 4).

        w <- w - lr / n_k (S_k (g(w) - g(w_t)) + grad f(w_t)),    S_k = diag(phi_j / phi_kj)

    S_k applies as A does in FSVRGServer. One whole round:

        phi, A = server.get_phi_and_compute_A([c.compute_nonzero_features_on_node_phi_k(x) for c, x in ...])  # once
        # every client: the gradient of its mean loss at w_t
        client.zero_grad(); loss_fn(model(data), targets).backward()
        gradients.append((n_k, [p.grad.clone() for p in model.parameters()]))
        # every client: w_t is where it stands now, and the server's mean is the full gradient
        client.start_round(server.mean_gradient(gradients))
        for x, y in examples:
            def closure():
                client.zero_grad(); loss_fn(model(x), y).backward()
            closure()
            client.step(phi, closure)    # calls closure once more, at w_t
        server.step([(n_k, model.parameters()) for ... in clients])
    """

    def __init__(self, params: Parameters, lr: float):
        if not lr > 0:
            raise ValueError(f"lr is {lr}; expected a positive number")
        super().__init__(params, {"lr": lr, "n_k": 1, "moved": False})  # type: ignore[arg-type]

    @property
    def parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def compute_nonzero_features_on_node_phi_k(self, data: Tensor) -> FeatureCounts:
        """phi_k of the client's data (n_k, d), dense or sparse; also tells the client its n_k."""
        if data.dim() != 2 or len(data) == 0:
            raise ValueError(f"data is {tuple(data.shape)}; expected (n_k, features) with n_k >= 1")
        if data.is_sparse or data.layout != torch.strided:
            data = data.to_sparse_coo().coalesce()
            present = data.indices()[1][data.values() != 0]
            counts = torch.bincount(present, minlength=data.shape[1]).double()
        else:
            counts = (data != 0).sum(0).double()
        for group in self.param_groups:
            group["n_k"] = len(data)
        self.state[self.parameters[0]]["phi_k"] = counts / len(data)
        return FeatureCounts(counts, len(data))

    @torch.no_grad()
    def start_round(self, gradient: Sequence[Tensor]) -> None:
        """w_t is where the parameters are now; gradient: the full gradient there, a tensor a parameter."""
        gradient = list(gradient)
        if [g.shape for g in gradient] != [p.shape for p in self.parameters]:
            raise ValueError("gradient: shapes differ from the parameters'")
        for p, g in zip(self.parameters, gradient, strict=True):
            self.state[p] |= {"anchor": p.detach().clone(), "full": g.detach().clone()}
        self.param_groups[0]["moved"] = False

    @torch.no_grad()
    def step(self, phi: Tensor, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One variance-reduced update from the gradients in .grad.

        phi (d,): the server's. closure: clears the gradients and computes those of the same minibatch again, as for
        torch.optim.LBFGS; it is called at w_t, and may be left out only for the first step from w_t, where both
        gradients are the same. Without any `start_round` w_t is where the very first step began, and its gradient
        stands in for the full one. Raises RuntimeError when the closure is needed and missing.
        """
        parameters = self.parameters
        g = [torch.zeros_like(p) if p.grad is None else p.grad.detach().clone() for p in parameters]
        if "anchor" not in self.state[parameters[0]]:
            self.start_round(g)
        at_anchor = g
        if self.param_groups[0]["moved"]:
            if closure is None:
                raise RuntimeError("step: needs the closure once the parameters have left w_t; or call start_round")
            at_anchor = self._gradients_at_anchor(closure)
        for i, p in enumerate(parameters):
            change = g[i] - at_anchor[i]
            phi_k = self.state[p].get("phi_k")
            if i == 0 and phi_k is not None and p.shape[-1:] == phi.shape == phi_k.shape:
                # A feature that the client never sees has no gradient to scale.
                change = change * torch.where(phi_k > 0, phi / phi_k.clamp_min(1e-300), 1.0).to(p)
            rate = self.param_groups[0]["lr"] / self.param_groups[0]["n_k"]
            p.sub_(change + self.state[p]["full"], alpha=rate)
        self.param_groups[0]["moved"] = True

    def _gradients_at_anchor(self, closure: Callable[[], Any]) -> list[Tensor]:
        here = [p.detach().clone() for p in self.parameters]
        for p in self.parameters:
            p.copy_(self.state[p]["anchor"])
        with torch.enable_grad():
            closure()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad.detach().clone() for p in self.parameters]
        for p, w in zip(self.parameters, here, strict=True):
            p.copy_(w)
        return gradients
