"""FedPer: the last layers of the model are each client's own, and never leave it: --personal_layers.

Arivazhagan, Aggarwal, Singh and Choudhary 2019, "Federated Learning with Personalization Layers", arXiv 1912.00818,
algorithm 1. There a client's own layers begin at random; here they begin as those of w_0, the same for everyone. Base
and own layers are trained together, by the same optimizer, as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from fl.algorithms.algorithm import Algorithm
from fl.client import tensors_of
from fl.errors import FlagError
from fl.state import Correction, Kept, RoundStart, State, Told, Update, along
from fl.transforms.transform import Transform

OWN = "personal"  # under which client k keeps its layers


def personal_names(model: nn.Module, layers: int) -> list[str]:
    """The tensors of the last `layers` layers, by their names in the state_dict: parameters, and buffers beside them.

    A layer is a module that has parameters itself, in the order in which the model was put together. Raises FlagError
    unless at least one layer is left to be shared.
    """
    if not layers:
        return []
    with_parameters = {
        prefix: module for prefix, module in model.named_modules() if any(True for _ in module.parameters(False))
    }
    if layers >= len(with_parameters):
        raise FlagError(
            f"--personal_layers {layers}: the model has {len(with_parameters)} layers, and one at least must be "
            "shared; lower it, or choose another --model"
        )
    last = list(with_parameters)[-layers:]
    theirs = {id(p) for prefix in last for p in with_parameters[prefix].parameters(False)}
    for prefix, module in with_parameters.items():
        if prefix not in last and any(id(p) in theirs for p in module.parameters(False)):
            raise FlagError(
                f"--personal_layers {layers}: the layer {prefix or 'of the whole model'} shares a parameter "
                "with them; choose another number"
            )
    return [name for name in tensors_of(model) if name.rpartition(".")[0] in last]


def withhold(names: Sequence[str]) -> Transform:
    """Each client keeps those tensors of its model, and sends those of w_t, which it got, in their place.

    So all updates agree in these tensors, whatever --aggregate and other transforms do with the rest, and the server's
    stay those of w_0. If the client's own tensors are not finite, they are sent as they are, so that the whole update
    is rejected.
    """

    @torch.no_grad()
    def client(now: RoundStart, update: Update) -> Update:
        finite = are_finite([update.w[name] for name in names])
        kept = {
            report.client: update.kept.get(report.client, {})
            | {OWN: {name: update.w[name][i].to("cpu", copy=True) for name in names}}
            for i, report in enumerate(update.reports)
        }
        return sent(now, update, names, finite)._replace(kept=kept)

    def server(now: RoundStart, mean: State) -> State:
        return mean | {name: now.w[name] for name in names}

    def keeps(w: State) -> Kept:
        return Kept(clients={0: {OWN: {name: w[name] for name in names}}})

    return Transform(client=client, server=server, keeps=keeps)


def are_finite(stacks: Sequence[Tensor]) -> Tensor:
    """(S,): whether all of a client's tensors are finite; stacks: (S, ...) each."""
    return torch.stack([stack.reshape(len(stack), -1).isfinite().all(1) for stack in stacks]).all(0)


def sent(now: RoundStart, update: Update, names: Sequence[str], finite: Tensor) -> Update:
    """The update with the tensors of w_t under those names, but for clients whose own are not `finite` (S,)."""
    w = {name: torch.where(along(finite, update.w[name]), now.w[name], update.w[name]) for name in names}
    return update._replace(w=update.w | w)


def withhold_again(names: Sequence[str]) -> Transform:
    """The last transform of all: whatever an attack or noise has put into those tensors does not leave the client."""

    @torch.no_grad()
    def client(now: RoundStart, update: Update) -> Update:
        return sent(now, update, names, are_finite([update.w[name] for name in names]))

    return Transform(client=client)


def starting_with_own(names: Sequence[str], algorithm: Algorithm) -> Algorithm:
    """The same algorithm, in which each client starts with the layers that it has kept.

    A pull towards w_t, such as FedProx's, draws the shared layers there, and a client's own ones to where they start.
    """

    def tell(now: RoundStart, clients: Sequence[int]) -> Told:
        told, own = algorithm.tell(now, clients), layers_of(now, clients, names)
        start = (told.start or {}) | own
        return Told(_pulled_to_own(now, told.correction, own), start)

    return replace(algorithm, tell=tell)


def layers_of(now: RoundStart, clients: Sequence[int], names: Sequence[str]) -> State:
    """What the clients keep, (S, ...) each; that of w_t before their first round."""
    kept = [now.kept.of(k, OWN) for k in clients]
    return {
        name: torch.stack([now.w[name] if own is None else own[name].to(now.w[name]) for own in kept]) for name in names
    }


def _pulled_to_own(now: RoundStart, correction: Correction, own: State) -> Correction:
    """pull (w - own) for the clients' own layers, as pull (w - centre) and a drift of pull (centre - own)."""
    if correction.centre is None:
        return correction
    drift = correction.drift or {name: torch.zeros_like(w).unsqueeze(0) for name, w in now.parameters.items()}
    moved = {
        name: drift[name] + correction.pull * (correction.centre[name] - own[name])
        for name in own
        if name in correction.centre
    }
    return replace(correction, drift=drift | moved)
