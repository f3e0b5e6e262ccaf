"""The cryptography of secure aggregation: who can agree on a key, what it expands to, and what it seals.

Everything comes from the package `cryptography`: X25519 (Bernstein 2006, RFC 7748) to agree on keys, AES-256 in counter
mode to expand a key into masks, and ChaCha20-Poly1305 (RFC 8439) to seal what only one client may read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from fl.aggregates.secure.fixed_point import Words

CHUNK = 1 << 13  # words of every mask at once: 64 KiB, which stay in a core's cache
ZEROS = bytes(8 * CHUNK)


def private(secret: bytes) -> X25519PrivateKey:
    """The private key of 32 secret bytes. Making it takes longer than agreeing on a key with it."""
    return X25519PrivateKey.from_private_bytes(secret)


def public_of(own: X25519PrivateKey) -> bytes:
    """The public key that belongs to it, 32 bytes."""
    return own.public_key().public_bytes_raw()


def agreed(own: X25519PrivateKey, public: bytes, purpose: bytes) -> bytes:
    """32 bytes that the owners of two pairs of keys have in common: each has its own private and the other's public."""
    return hashlib.sha256(purpose + own.exchange(X25519PublicKey.from_public_bytes(public))).digest()


def add_masks(words: Words, plus: Sequence[bytes], minus: Sequence[bytes]) -> None:
    """Add to the words, in place, the masks that keys of 32 bytes expand to; subtract those of `minus`."""
    streams = [Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor() for key in (*plus, *minus)]
    buffer = memoryview(bytearray(ZEROS))
    mask = np.frombuffer(buffer, dtype=np.uint64)
    for start in range(0, len(words), CHUNK):
        chunk = words[start : start + CHUNK]
        size = 8 * len(chunk)
        for number, stream in enumerate(streams):
            stream.update_into(ZEROS[:size], buffer[:size])
            if number < len(plus):
                chunk += mask[: len(chunk)]
            else:
                chunk -= mask[: len(chunk)]


def sealed(key: bytes, sender: int, content: bytes) -> bytes:
    """The content, which only someone with the key can read or make. The two owners of a key each seal once with it."""
    return ChaCha20Poly1305(key).encrypt(sender.to_bytes(12, "big"), content, None)


def opened(key: bytes, sender: int, message: bytes) -> bytes:
    """The reverse. Raises cryptography.exceptions.InvalidTag for what that sender has not sealed with the key."""
    return ChaCha20Poly1305(key).decrypt(sender.to_bytes(12, "big"), message, None)


def stream_of(secret: bytes, *number: int) -> Callable[[int], bytes]:
    """A function (count) -> the next `count` bytes of AES-256 in counter mode, keyed with SHA-256(secret, numbers)."""
    key = hashlib.sha256(secret + b"/".join(str(one).encode() for one in number)).digest()
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return lambda count: stream.update(bytes(count))
