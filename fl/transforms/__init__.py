"""What happens to an update between the client that trained it and the server that averages it.

Reading the flags imports no torch, so the attacks stand here by name, without their module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fl.entry import Entry, Table
from fl.errors import FlagError

if TYPE_CHECKING:
    from fl.config import Config
    from fl.state import RoundStart, State, Update


def same_update(now: RoundStart, update: Update) -> Update:
    return update


def same_model(now: RoundStart, mean: State) -> State:
    return mean


@dataclass(frozen=True)
class Transform:
    """client(now, update): what S clients send instead; the tensors of the update may be changed in place.

    server(now, mean): what the server makes of the mean, in the reverse order of the transforms.
    bytes(state): of a client's upload, where they are not those of the plain model.
    """

    client: Callable[[RoundStart, Update], Update] = same_update
    server: Callable[[RoundStart, State], State] = same_model
    bytes: Callable[[State], int] | None = None


def someone_attacks(config: Config) -> None:
    if config.attackers > 0 and round(config.attackers * config.num_clients) == 0:
        raise FlagError(f"--attackers {config.attackers:g}: is none of --num_clients {config.num_clients}")


# --attack: what some clients do to harm. All of them in one file, for they share who attacks.
ATTACKS: Table = {
    "label_flip": Entry("fl.transforms.attack:attack", check=someone_attacks),
    "sign_flip": Entry("fl.transforms.attack:attack", reads=("attack_scale",), check=someone_attacks),
    "gaussian": Entry("fl.transforms.attack:attack", reads=("attack_scale",), check=someone_attacks),
    "scaled": Entry("fl.transforms.attack:attack", reads=("attack_scale",), check=someone_attacks),
}

# --transform: a Transform, or a function (config) -> Transform. There are none by name yet, only the user's own.
TRANSFORMS: Table = {}


def transforms_of(config: Config) -> list[Transform]:
    """Those that the flags ask for, in the order in which an update meets them; none costs nothing.

    The attack comes first: what an attacker sends takes the same way as everyone's update.
    """
    from fl.parts import own_transforms
    from fl.transforms.attack import attack

    return [transform for transform in (attack(config), *own_transforms(config)) if transform]
