"""Secure aggregation, the protocol: shares, keys and masks, the exact sum, and what a masked update looks like."""

from __future__ import annotations

import itertools
import os
import random

import numpy as np
import pytest

pytest.importorskip("cryptography", reason="needs the package of sh requirements.sh secure")

from cryptography.exceptions import InvalidTag

from fl.aggregates.secure.client import Client
from fl.aggregates.secure.fixed_point import RANGE, decoded, encoded, scale_of
from fl.aggregates.secure.keys import add_masks, agreed, opened, private, public_of, sealed, stream_of
from fl.aggregates.secure.server import Server
from fl.aggregates.secure.shamir import PRIME, SHARE_BYTES, lagrange, secret_of, shares

# Chi-square with 255 degrees of freedom exceeds this once in 8 million times, so that the 8 bytes of a word give one
# false alarm in a million. The keys are drawn anew each time.
SUSPICIOUS = 389.1


def test_any_t_shares_give_the_secret_back():
    secret = os.urandom(32)
    for t, n in ((1, 1), (1, 3), (2, 3), (3, 5), (5, 5)):
        made = dict(enumerate(shares(secret, t, n, os.urandom(40 * (t - 1))), 1))
        assert {len(share) for share in made.values()} == {SHARE_BYTES}
        for some in itertools.permutations(made, t):
            assert secret_of({x: made[x] for x in some}) == secret
    assert secret_of(dict(enumerate(shares(b"\xff" * 32, 2, 2, os.urandom(40)), 1))) == b"\xff" * 32
    with pytest.raises(ValueError, match="not the shares"):
        secret_of({1: (2**256).to_bytes(SHARE_BYTES, "big")})


def test_fewer_than_t_shares_say_nothing():
    """t - 1 shares fit every secret: for each there is one more share with which they give it."""
    secret, drawn = os.urandom(32), os.urandom(80)
    made = dict(enumerate(shares(secret, 3, 5, drawn), 1))
    one, other = (int.from_bytes(part, "big") for part in (drawn[:40], drawn[40:]))  # each coefficient has its own
    for x, share in made.items():
        assert int.from_bytes(share, "big") == (int.from_bytes(secret, "big") + one * x + other * x * x) % PRIME
    two = {x: int.from_bytes(made[x], "big") for x in (2, 5)}
    *weights, last = lagrange((*two, 1))
    known = sum(weight * share for weight, share in zip(weights, two.values(), strict=True))
    for wanted in (bytes(32), os.urandom(32), secret):
        third = ((int.from_bytes(wanted, "big") - known) * pow(last, -1, PRIME) % PRIME).to_bytes(SHARE_BYTES, "big")
        assert secret_of({2: made[2], 5: made[5], 1: third}) == wanted
        assert (third == made[1]) == (wanted == secret)


def test_both_sides_agree_on_a_key():
    """The keys are those of RFC 7748, section 6.1."""
    alice = private(bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"))
    bob = private(bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
    assert public_of(alice).hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert public_of(bob).hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    assert agreed(alice, public_of(bob), b"mask") == agreed(bob, public_of(alice), b"mask")
    keys = {agreed(alice, public_of(bob), b"mask"), agreed(alice, public_of(bob), b"mail"),
            agreed(alice, public_of(private(os.urandom(32))), b"mask")}  # fmt: skip
    assert len(keys) == 3


def test_only_the_key_opens_a_letter_and_only_as_its_senders():
    key = os.urandom(32)
    letter = sealed(key, 7, b"two shares")
    assert opened(key, 7, letter) == b"two shares"
    changed = letter[:-1] + bytes([letter[-1] ^ 1])  # a constant in its place would be the same byte once in 256
    for other, sender, message in ((os.urandom(32), 7, letter), (key, 8, letter), (key, 7, changed)):
        with pytest.raises(InvalidTag):
            opened(other, sender, message)


def test_secrets_differ_by_key_round_and_client_and_go_on():
    key = os.urandom(32)
    sources = ((key, 1, 2), (key, 2, 1), (key, 3, 2), (key, 1, 3), (key, 12), (os.urandom(32), 1, 2))
    first = [stream_of(*source)(32) for source in sources]
    stream = stream_of(key, 1, 2)
    assert len({*first, stream(32), stream(32)}) == len(sources) + 1
    assert stream_of(key, 1, 2)(64)[:32] == first[0]


@pytest.mark.parametrize("length", [1, 8191, 8192, 20_001])
def test_a_mask_that_is_added_and_subtracted_is_gone(length):
    words = np.arange(length, dtype=np.uint64) - np.uint64(3)
    a, b = os.urandom(32), os.urandom(32)
    masked = words.copy()
    add_masks(masked, [a], [b])
    assert (masked != words).all()
    add_masks(masked, [b], [a])
    assert (masked == words).all()


def exchange(clients, t, length, vectors, dropped=()):
    """The whole protocol: what the server has collected from each client, the server, and the sum."""
    server = Server(t, length)
    people = {k: Client(k, t, os.urandom) for k in clients}
    keys = server.advertised({k: one.advertise() for k, one in people.items()})
    mail = server.shared({k: one.share_keys(keys[k]) for k, one in people.items()})
    for k, one in people.items():
        one.receive(mail[k])
    collected = {k: people[k].masked(vectors[k].copy()) for k in clients if k not in dropped}
    for k, vector in collected.items():
        server.collect(k, vector)
    asked = server.who_answers()
    return collected, server, server.unmasked({k: people[k].answer(message) for k, message in asked.items()})


@pytest.mark.parametrize(
    ("n", "t", "gone"), [(2, 2, 0), (3, 2, 0), (3, 2, 1), (5, 3, 2), (9, 5, 4), (9, 9, 0), (7, 1, 6)]
)
def test_the_sum_is_exact_whoever_vanishes(n, t, gone):
    """Of any 64 bits, of clients whose numbers are neither small nor in a row."""
    draw = random.Random(n * 100 + gone)
    clients = sorted(draw.sample(range(2**31), n))
    dropped = draw.sample(clients, gone)
    generator = np.random.default_rng(n)
    vectors = {k: generator.integers(0, 2**64, 3000, dtype=np.uint64) for k in clients}
    collected, _, total = exchange(clients, t, 3000, vectors, dropped)
    expected = sum((vectors[k] for k in collected), start=np.zeros(3000, dtype=np.uint64))
    assert (total == expected).all()
    if len(collected) > 1:  # with their pairwise masks alone the vectors would add up to the sum already
        assert not (sum(collected.values(), start=np.zeros(3000, dtype=np.uint64)) == expected).any()


def test_too_few_are_not_answered_and_do_not_unmask():
    vectors = {k: np.zeros(5, dtype=np.uint64) for k in range(5)}
    with pytest.raises(ValueError, match="2 of the 3 updates that the sum needs"):
        exchange(range(5), 3, 5, vectors, dropped=(0, 1, 2))
    server = Server(3, 5)
    with pytest.raises(ValueError, match="2 of the 3 answers that the sum needs"):
        server.unmasked({0: b"", 1: b""})


def suspicion(words):
    """The largest chi-square of the eight bytes of the words against all values being alike."""
    lanes = np.ascontiguousarray(words).view(np.uint8).reshape(-1, 8)
    expected = len(lanes) / 256
    counts = np.stack([np.bincount(lane, minlength=256) for lane in lanes.T])
    return float((np.square(counts - expected) / expected).sum(1).max())


@pytest.mark.parametrize("what", ["zeros", "an update"])
def test_a_masked_update_looks_uniform(what):
    """By chi-square over each byte of 64-bit words: a false alarm in a million runs for each of the assertions.

    What one client masks twice, in two rounds, differs by a uniform vector as well: no mask comes twice.
    """
    P, clients = 40_000, [3, 11, 12]
    delta = np.zeros(P) if what == "zeros" else np.random.default_rng(0).normal(0, 1e-2, P)
    words = encoded(delta, 600, scale_of(60_000))
    assert suspicion(words) > 100 * SUSPICIOUS  # the test can tell
    (first, _, _), (second, _, _) = (exchange(clients, 2, P + 1, dict.fromkeys(clients, words)) for _ in range(2))
    for k in clients:
        assert suspicion(first[k]) < SUSPICIOUS
        assert suspicion(first[k] - second[k]) < SUSPICIOUS
    assert suspicion(first[3] - first[11]) < SUSPICIOUS  # two clients with the same update
    assert suspicion(first[3] + first[11]) < SUSPICIOUS  # the sum of two of three


def test_the_coding_error_is_as_small_as_it_says():
    generator = np.random.default_rng(1)
    for n, parts in ((12, (7, 4, 1)), (60_000, (600,) * 10), (2**31, (2**30, 2**30))):
        s = scale_of(n)
        assert n * RANGE * 2.0**s <= 2.0**62 < 2 * n * RANGE * 2.0**s
        deltas = [generator.normal(0, 0.1, 2000) for _ in parts]
        total = sum((encoded(d, n_k, s) for d, n_k in zip(deltas, parts, strict=True)), start=np.zeros(2001, np.uint64))
        update, weight = decoded(total, s)
        assert weight == sum(parts)
        exact = sum(n_k * d for n_k, d in zip(parts, deltas, strict=True)) / weight
        assert 0 < np.abs(update / weight - exact).max() <= 2.0 ** -(s + 1) + 1e-15
    full = encoded(np.array([1e30, -1e30, -RANGE]), n, s)
    assert (decoded(full, s)[0] / n).tolist() == [RANGE, -RANGE, -RANGE]  # clipped, and nothing wraps
