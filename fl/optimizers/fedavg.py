"""FedAvg's client and server (McMahan et al. 2017, arXiv 1602.05629, Algorithm 1) as optimizers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from fl.aggregates.mean import WeightedMean
from fl.optimizers.checks import (
    as_pairs,
    examples,
    finite,
    group_rates,
    iterable,
    rate,
    shown,
    tensor_of,
    total,
    writable,
)

Parameters = Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]
Model = Iterable[Tensor] | Mapping[str, Tensor]


class FederatedAvgClient(torch.optim.SGD):
    """Local SGD of ClientUpdate (McMahan et al. 2017, arXiv 1602.05629, Algorithm 1).

    Raises ValueError for a rate that is negative or not finite, in a param group too.
    """

    RATES = ("lr", "momentum", "weight_decay")

    def __init__(self, params: Parameters, lr: float, momentum: float = 0.0, weight_decay: float = 0.0):
        for name, value in zip(self.RATES, (lr, momentum, weight_decay), strict=True):
            rate(name, value)
        params = iterable("params", params, "a model's parameters")
        super().__init__(params, lr, momentum=momentum, weight_decay=weight_decay)  # type: ignore[arg-type]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        group_rates(param_group, self.RATES)
        super().add_param_group(param_group)


class FederatedAvgServer(torch.optim.Optimizer):
    """The server of federated averaging (McMahan et al. 2017, arXiv 1602.05629, Algorithm 1).

    params: the global model's, as for any optimizer; give model.named_parameters(), and model.named_buffers() as
    `buffers`, for clients that send state_dicts. If layers share a tensor, or a buffer is not persistent, these lists
    and a state_dict differ; then have clients send dicts of the same names.
    Raises ValueError for two tensors with one name, and for buffers beside parameters without names.
    """

    def __init__(self, params: Parameters, buffers: Iterable[tuple[str, Tensor]] = ()):
        self.buffers = named(buffers)
        super().__init__(iterable("params", params, "a model's parameters"), {})
        if self.buffers and self.names is None:
            raise ValueError("buffers: without the parameters' names no state_dict fits; give model.named_parameters()")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        twice = [name for name, times in Counter([*(self.names or []), *self.buffers]).items() if times > 1]
        if twice:
            self.param_groups.pop()
            raise ValueError(f"two tensors of the server are named {', '.join(twice)}; expected a name for each")

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and deepcopy: what torch keeps of any optimizer, and the buffers."""
        return super().__getstate__() | {"buffers": self.buffers}

    @property
    def parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    @property
    def names(self) -> list[str] | None:
        """The parameters' names, or None when they came without."""
        if "param_names" not in self.param_groups[0]:
            return None
        return [name for group in self.param_groups for name in group["param_names"]]

    @torch.no_grad()
    def step(self, updates: Iterable[tuple[float, Model]]) -> None:  # type: ignore[override]
        """Set the global model to sum of n_k / n w_k, and every client's tensors to the global model.

        updates: (n_k, w_k) of each client that reported; n_k: its number of training examples, w_k: its
        parameters, or its state_dict, whose floating buffers are averaged and integer ones maximised.
        Raises TypeError or ValueError, and changes nothing, for an update that is not finite, does not fit, could
        not be written to, or is of another kind than the others, and for a mean that is not finite.
        """
        pairs = as_pairs("update", updates, "parameters")
        if not pairs:
            raise ValueError("no updates: there is nothing to average")
        n_ks = [examples(f"update {i}: n_k", n_k) for i, (n_k, _) in enumerate(pairs)]
        total("updates", n_ks)
        models = [self._checked(f"update {i}", w_k) for i, (_, w_k) in enumerate(pairs)]
        for i, w_k in enumerate(models):
            if w_k.keys() != models[0].keys():
                raise ValueError(f"update {i}: has {len(w_k)} tensors where update 0 has {len(models[0])}; "
                                 "expected state_dicts of all clients, or parameters of all")  # fmt: skip
        own = self._own(models[0])
        for name, tensor in own.items():
            writable(f"the server's {name}", tensor)
        mean = WeightedMean(own, len(models), max(n_ks))
        for n_k, w_k in zip(n_ks, models, strict=True):
            mean.add({name: for_mean(tensor, own[name]).unsqueeze(0) for name, tensor in w_k.items()}, [n_k])
        result = self._server_update(mean.result(math.fsum(n_ks)))
        targets = [own, *models]
        # Clients may hold the model in a narrower dtype than the server, in which it overflows.
        for name, dtype in dict.fromkeys((name, tensor.dtype) for w in targets for name, tensor in w.items()):
            finite(f"the new {name}, in {dtype},", result[name].to(dtype))
        for w in targets:
            for name, tensor in w.items():
                tensor.detach().copy_(result[name])

    def _named_own(self) -> dict[str, Tensor]:
        keys = self.names or [str(i) for i in range(len(self.parameters))]
        return dict(zip(keys, self.parameters, strict=True)) | self.buffers

    def _own(self, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The global model's tensors by the names that an update has."""
        return {name: tensor for name, tensor in self._named_own().items() if name in like}

    def _server_update(self, mean: dict[str, Tensor]) -> dict[str, Tensor]:
        return mean

    def _checked(self, who: str, w_k: Any) -> dict[str, Tensor]:
        """The update's tensors by name, in the server's order."""
        if isinstance(w_k, Mapping):
            if self.names is None:
                raise ValueError(f"{who}: a state_dict; give the server model.named_parameters() to match its names")
            tensors, expected = dict(w_k), self._named_own()
        else:
            given = list(iterable(who, w_k, "parameters or a state_dict"))
            if len(given) != len(self.parameters):
                raise ValueError(f"{who}: has {len(given)} parameters; expected {len(self.parameters)}")
            tensors = dict(zip(self.names or [str(i) for i in range(len(given))], given, strict=True))
            expected = self._own(tensors)
        missing, unknown = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
        if missing or unknown:
            what = [f"lacks {', '.join(sorted(missing))}"] * bool(missing)
            what += [f"has {', '.join(sorted(map(str, unknown)))}, unknown to the server"] * bool(unknown)
            raise ValueError(f"{who}: {' and '.join(what)}")
        for name, own in expected.items():
            tensor = tensor_of(f"{who}: {name}", tensors[name], own.shape)
            writable(f"{who}: {name}", tensor)
            if tensor.dtype != own.dtype and not (tensor.is_floating_point() and own.is_floating_point()):
                raise ValueError(f"{who}: {name} is {tensor.dtype}; expected {own.dtype}")
            finite(f"{who}: {name}", tensor)
        return {name: tensors[name] for name in expected}


def named(buffers: Any) -> dict[str, Tensor]:
    """model.named_buffers() as a dict. Raises TypeError for anything else, such as model.buffers()."""
    given = buffers.items() if isinstance(buffers, Mapping) else buffers
    pairs = list(iterable("buffers", given, "model.named_buffers()"))
    for pair in pairs:
        match pair:
            case (str(), Tensor()):
                continue
        raise TypeError(f"buffers: {shown(pair)}; expected pairs of a name and a tensor, as model.named_buffers()")
    return dict(pairs)


def for_mean(tensor: Tensor, own: Tensor) -> Tensor:
    """On the server's device, and in float64 if it comes in another precision: not all of them mix with each other."""
    return tensor.detach().to(own.device, tensor.dtype if tensor.dtype == own.dtype else torch.float64)
