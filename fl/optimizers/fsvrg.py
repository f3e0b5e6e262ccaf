"""FSVRG's client and server (Konecny et al. 2016, arXiv 1610.02527, Algorithm 4) as optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from fl.optimizers.buffers import buffers_put_back
from fl.optimizers.checks import as_pairs, dense, examples, finite, gradient, group_rates, iterable, rate, shown, total
from fl.optimizers.features import FeatureCounts, along_features, count_features, phi_and_A, place_of_features, scaling
from fl.optimizers.fedavg import FederatedAvgServer, Parameters


class FSVRGServer(FederatedAvgServer):
    """The server of FSVRG (Konecny et al. 2016, arXiv 1610.02527, Algorithm 4): w_t + A (mean - w_t).

    A = diag(K / omega_j), where omega_j is the number of clients that have feature j. It scales one parameter only: the
    first, where vectors whose length is not d, such as biases, are skipped. That parameter must have a weight for each
    of the d features: in its last dimension, as nn.Linear (out, d) or a vector (d,), or else in the first of two, as
    nn.EmbeddingBag (d, out); a square matrix is taken as nn.Linear's. All other parameters are set to the mean, and so
    are all parameters before get_phi_and_compute_A is called.
    """

    def get_phi_and_compute_A(self, phis: Iterable[FeatureCounts]) -> tuple[Tensor, Tensor]:
        """phi (d,), the share of all examples that have a feature, and A (d,), both float64; A is 1 where nobody has.

        phis: what compute_nonzero_features_on_node_phi_k gave on each of the K clients.
        Raises TypeError or ValueError for counts that no n examples have, numbers of features that differ between
        clients, and a first parameter without a dimension of d.
        """
        phi, A = phi_and_A(phis)
        place_of_features(self.parameters, len(A))
        remember(self, phi=phi, A=A)
        return phi, A

    @torch.no_grad()
    def mean_gradient(self, gradients: Iterable[tuple[float, Iterable[Tensor | None]]]) -> list[Tensor]:
        """sum of n_k / n times client k's mean gradient at w_t: the full gradient for FSVRGClient.start_round.

        gradients: (n_k, tensors) of each client, one tensor per parameter of the server; None counts as zeros.
        Raises TypeError or ValueError for what is not finite or does not fit.
        """
        pairs = as_pairs("gradient", gradients, "gradients")
        if not pairs:
            raise ValueError("no gradients: there is nothing to average")
        n_ks = [examples(f"gradient {i}: n_k", n_k) for i, (n_k, _) in enumerate(pairs)]
        n = total("gradients", n_ks)
        given = [gradient(f"gradient {i}", tensors, self.parameters) for i, (_, tensors) in enumerate(pairs)]
        mean = [torch.stack([n_k / n * g for n_k, g in zip(n_ks, column, strict=True)]).sum(0)
                for column in zip(*given, strict=True)]  # fmt: skip
        for i, g in enumerate(mean):
            finite(f"the mean of gradient {i}", g)
        return mean

    def _server_update(self, mean: dict[str, Tensor]) -> dict[str, Tensor]:
        A = shared(self).get("A")
        if A is None:
            return mean
        weights = self.parameters[place_of_features(self.parameters, len(A))]
        A = along_features(A, weights)
        return {name: p + A * (mean[name] - p) if p is weights else mean[name] for name, p in self._own(mean).items()}


class FSVRGClient(torch.optim.Optimizer):
    """Local steps of FSVRG (Konecny et al. 2016, arXiv 1610.02527, Algorithm 4).

        w <- w - lr / n_k (S_k (g(w) - g(w_t)) + grad f(w_t)),    S_k = diag(phi_j / phi_kj)

    lr is that of the param group, as a scheduler sets it. S_k applies as A does in FSVRGServer. One whole round:

        phi, A = server.get_phi_and_compute_A([c.compute_nonzero_features_on_node_phi_k(x) for c, x in ...])  # once
        # every client: the gradient of its mean loss at w_t
        client.zero_grad(); loss_fn(model(data), targets).backward()
        gradients.append((n_k, client.gradients()))
        # every client: w_t is where it stands now, and the server's mean is the full gradient
        client.start_round(server.mean_gradient(gradients))
        for x, y in examples:
            def closure():
                client.zero_grad(); loss = loss_fn(model(x), y); loss.backward(); return loss
            closure()
            client.step(phi, closure)    # calls closure once more, at w_t
        server.step([(n_k, model.parameters()) for ... in clients])

    Frozen parameters may be among the client's; they stay where they are. The call at w_t leaves the buffers of
    modules, such as BatchNorm's statistics, as they were, so that a minibatch moves them once.
    """

    _scaled: tuple[Any, ...] | None = None  # S_k, and all that it was made of

    def __init__(self, params: Parameters, lr: float):
        if rate("lr", lr) == 0:
            raise ValueError(f"lr is {lr}; expected a positive number")
        super().__init__(iterable("params", params, "a model's parameters"), {"lr": lr})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        group_rates(param_group, ["lr"])
        super().add_param_group(param_group)

    @property
    def parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def compute_nonzero_features_on_node_phi_k(self, data: Tensor) -> FeatureCounts:
        """phi_k of the client's data (n_k, d), dense or sparse; also tells the client its n_k.

        Without it S_k is the identity and n_k is 1. Raises TypeError or ValueError for other data, and for a first
        parameter without a dimension of d.
        """
        phi_k = count_features(data)
        place_of_features(self.parameters, len(phi_k.counts))
        remember(self, phi_k=phi_k.counts / phi_k.n, n_k=phi_k.n)
        return phi_k

    @torch.no_grad()
    def gradients(self) -> list[Tensor]:
        """A dense copy of each parameter's .grad, or zeros where it has none: for FSVRGServer.mean_gradient."""
        return [dense(p.grad, p).clone() for p in self.parameters]

    @torch.no_grad()
    def start_round(self, gradients: Iterable[Tensor | None]) -> None:
        """w_t is where the parameters are now; gradients: the full gradient there, a tensor or None per parameter.

        Raises TypeError or ValueError, and changes nothing, for what is not finite or does not fit.
        """
        self._begin(gradient("gradient", gradients, self.parameters))

    @torch.no_grad()
    def step(self, phi: Tensor, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One variance-reduced update from the gradients in .grad. Returns the closure's loss at w_t, or None.

        phi (d,): the server's. closure: clears the gradients and computes those of the same minibatch again, as for
        torch.optim.LBFGS; it is called at w_t, and may be left out only for the first step from w_t, where both
        gradients are the same. Its call leaves .grad and the buffers of modules as they were. Without any
        `start_round` w_t is where the very first step began, and its gradient stands in for the full one.
        Raises RuntimeError when the closure is needed and missing, or when a parameter has joined since w_t, and
        TypeError or ValueError for a phi or a rate that cannot be; then, and when the closure raises, nothing moves.
        """
        parameters = self.parameters
        S, h = self._S(phi), self._rates()
        moved = shared(self).get("moved", False)
        anchors = [self.state[p]["anchor"] for p in parameters if p in self.state]
        if anchors and len(anchors) < len(parameters):
            raise RuntimeError("step: a parameter has joined since start_round; call start_round again")
        if closure is None and moved:
            raise RuntimeError("step: needs the closure once the parameters have left w_t; or call start_round")
        if closure is not None and not callable(closure):
            raise TypeError(f"closure: {shown(closure)}; expected a function, or None for the first step from w_t")
        frozen = [p.grad is None and not p.requires_grad for p in parameters]
        grads, loss = [None if p.grad is None else p.grad.detach().clone() for p in parameters], None
        g = [dense(grad, p) for grad, p in zip(grads, parameters, strict=True)]
        # At w_t itself both gradients are the same, even where the closure draws anew, as for dropout.
        at_anchor = g
        if closure is not None:
            there, loss = self._gradients_at(anchors or parameters, grads, closure)
            at_anchor = there if moved else g
        if not anchors:
            self._begin(g)
        for i, p in enumerate(parameters):
            if frozen[i]:
                continue
            change = g[i] - at_anchor[i]
            if i in S:
                change = change * S[i]
            p.sub_(change + self.state[p]["full"], alpha=h[i])
        remember(self, moved=True)
        return loss

    def _begin(self, full: list[Tensor]) -> None:
        for p, g in zip(self.parameters, full, strict=True):
            self.state[p] |= {"anchor": p.detach().clone(), "full": g.detach().clone()}
        remember(self, moved=False)

    def _rates(self) -> list[float]:
        """h_k = lr / n_k of every parameter: each group has a rate of its own, which a scheduler may have changed."""
        n_k, rates = shared(self).get("n_k", 1), []
        for i, group in enumerate(self.param_groups):
            lr = rate(f"param group {i}: lr", group["lr"])
            for p in group["params"]:
                if p.is_floating_point() and lr > torch.finfo(p.dtype).max:
                    raise ValueError(f"param group {i}: lr is {lr}; expected a number that {p.dtype} can hold")
                rates.append(lr / n_k)
        return rates

    def _S(self, phi: Tensor) -> dict[int, Tensor]:
        """S_k by the index of its parameter; cached, because phi and phi_k stay the same for all steps of a round."""
        phi_k, p = shared(self).get("phi_k"), self.parameters[0]
        version = phi._version if isinstance(phi, Tensor) and not phi.is_inference() else 0
        of = (id(phi), version, id(phi_k), p.dtype, p.device)
        if self._scaled is None or self._scaled[0] != of:
            S = scaling(phi, phi_k, self.parameters)
            self._scaled = of, S, phi, phi_k  # which keeps their ids from being given to others
        return self._scaled[1]

    def _gradients_at(self, anchors: Sequence[Tensor], grads: Sequence[Tensor | None], closure: Callable[[], Any]
                      ) -> tuple[list[Tensor], Any]:  # fmt: skip
        """The gradients at w_t, and the closure's loss there. Parameters, .grad (to `grads`), buffers are put back."""
        parameters = self.parameters
        here = [p.detach().clone() for p in parameters]
        try:
            for p, w in zip(parameters, anchors, strict=True):
                p.copy_(w)
            with buffers_put_back(), torch.enable_grad():
                loss = closure()
            return [dense(p.grad, p) for p in parameters], loss
        finally:
            for p, w, grad in zip(parameters, here, grads, strict=True):
                p.copy_(w)
                p.grad = grad


def shared(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What belongs to no single parameter. torch saves and loads it as it is, and rounds nothing to a model's dtype."""
    state: dict[Any, Any] = optimizer.state
    return state.get("shared", {})


def remember(optimizer: torch.optim.Optimizer, **values: Any) -> None:
    state: dict[Any, Any] = optimizer.state
    state["shared"] = shared(optimizer) | values
