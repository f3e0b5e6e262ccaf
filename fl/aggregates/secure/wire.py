"""The messages of the protocol as bytes, and how long they are. Imports neither torch nor cryptography."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fl.aggregates.secure.shamir import SHARE_BYTES

KEY_BYTES = 32  # an X25519 key
ID_BYTES = 4  # a client's number
WORD_BYTES = 8  # a masked value
SEALED_BYTES = 2 * SHARE_BYTES + 16  # a share of each of two secrets, and the seal


def letters(to_or_from: Mapping[int, bytes]) -> bytes:
    """Messages of equal length, each after the number of the client that it goes to or comes from."""
    return b"".join(k.to_bytes(ID_BYTES, "big") + message for k, message in to_or_from.items())


def unpacked(data: bytes, length: int) -> dict[int, bytes]:
    """The reverse, of messages of that length."""
    step = ID_BYTES + length
    starts = range(0, len(data), step)
    return {int.from_bytes(data[i : i + ID_BYTES], "big"): data[i + ID_BYTES : i + step] for i in starts}


def numbers(clients: Sequence[int]) -> bytes:
    return letters(dict.fromkeys(clients, b""))


def bytes_of_one(n: int, values: int) -> tuple[int, int]:
    """What a client gets beside the model, and what it sends, if n share keys and all of them answer to the end.

    values: of the model's update, without the weight that is sent after them.
    """
    keys, mail = (n - 1) * (ID_BYTES + 2 * KEY_BYTES), (n - 1) * (ID_BYTES + SEALED_BYTES)
    down = keys + mail + n * ID_BYTES
    up = 2 * KEY_BYTES + mail + (values + 1) * WORD_BYTES + n * SHARE_BYTES
    return down, up
