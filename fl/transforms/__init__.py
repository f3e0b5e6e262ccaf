"""Attacks, compressors and transforms by name: --attack, --compress, --transform.

fl/transforms/transform.py says what a transform is. The names stand here without their modules, so that reading
the flags imports no torch.
"""

from __future__ import annotations

from fl.errors import FlagError
from fl.flags.entry import Entry, Flags, Table


def someone_attacks(config: Flags) -> None:
    if config.attackers > 0 and round(config.attackers * config.num_clients) == 0:
        raise FlagError(f"--attackers {config.attackers:g}: is none of --num_clients {config.num_clients}")


# --attack: how malicious clients attack. All attacks are in one file, because they share the choice of the attackers.
ATTACKS: Table = {
    "label_flip": Entry("fl.transforms.attack:attack", check=someone_attacks),
    "sign_flip": Entry("fl.transforms.attack:attack", reads=("attack_scale",), check=someone_attacks),
    "gaussian": Entry("fl.transforms.attack:attack", reads=("attack_scale",), check=someone_attacks),
    "scaled": Entry("fl.transforms.attack:attack", reads=("attack_scale",), check=someone_attacks),
}

# --compress: functions (config) -> fl.transforms.compressors.Compressor, or None. Their messages have the values of all
# layers, so none may stay with the clients.
SHARED: dict[str, int] = {"personal_layers": 0}
COMPRESSORS: Table = {
    "none": "fl.transforms.compressors:none",
    "quantise": Entry("fl.transforms.compressors:quantise", needs=SHARED, reads=("compress_bits",)),
    "top_k": Entry("fl.transforms.compressors:top_k", needs=SHARED, reads=("compress_density",)),
    "random_mask": Entry("fl.transforms.compressors:random_mask", needs=SHARED, reads=("compress_density",)),
    "sign": Entry("fl.transforms.compressors:sign", needs=SHARED),
}

# --transform: a Transform, or a function (config) -> Transform. There are none by name yet, only the user's own.
TRANSFORMS: Table = {}
