"""Attacks and transforms by name: --attack, --transform. fl/transforms/transform.py says what a transform is.

The names stand here without their modules, so that reading the flags imports no torch.
"""

from __future__ import annotations

from fl.entry import Entry, Flags, Table
from fl.errors import FlagError


def someone_attacks(config: Flags) -> None:
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
