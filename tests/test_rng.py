from collections import Counter

import torch

from fl.rng import derive, seeded, select_clients, shuffles, visit_draws

CPU = torch.device("cpu")


def test_every_stream_is_a_permutation_of_its_own():
    orders = shuffles(0, [(k, p) for k in range(20) for p in range(5)], 17, CPU)
    assert (orders.sort(dim=1).values == torch.arange(17)).all()
    assert len({tuple(order) for order in orders.tolist()}) == 100


def test_a_stream_does_not_depend_on_the_others_asked_for():
    together = shuffles(3, [(0, 0), (7, 2), (1, 1)], 50, CPU)
    assert torch.equal(together[1], shuffles(3, [(7, 2)], 50, CPU)[0])


def test_permutations_are_uniform():
    orders = shuffles(0, [(k, 0) for k in range(6000)], 3, CPU)
    counts = Counter(map(tuple, orders.tolist()))
    assert len(counts) == 6
    # 1000 expected of each; five standard deviations of the binomial are 144.
    assert all(abs(count - 1000) < 144 for count in counts.values())


def test_splitmix64_matches_its_published_outputs():
    # Reference outputs for state 1234567, from the public-domain C code of Vigna.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    import fl.rng

    z = 1234567
    outputs = []
    for _ in published:
        z = (z + (fl.rng.GOLDEN % 2**64)) % 2**64
        x = z
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
        outputs.append(x ^ (x >> 31))
    assert outputs == published
    signed = [x - 2**64 if x >= 2**63 else x for x in outputs]
    expected = sorted(range(4), key=signed.__getitem__)
    original = fl.rng.derive
    fl.rng.derive = lambda *key: 1234567
    try:
        assert shuffles(0, [(0, 0)], 4, CPU)[0].tolist() == expected
        assert visit_draws(0, [(0, 0)], 4, CPU)[0].tolist() == signed
    finally:
        fl.rng.derive = original


def test_draws_of_a_visit_belong_to_its_seed_client_pass_and_position():
    together = visit_draws(3, [(0, 0), (7, 2), (1, 1)], 50, CPU)
    assert torch.equal(together[1], visit_draws(3, [(7, 2)], 50, CPU)[0])
    assert torch.equal(together[1, :9], visit_draws(3, [(7, 2)], 9, CPU)[0])
    streams = [(k, e) for k in range(5) for e in range(5)]
    draws = torch.stack([visit_draws(seed, streams, 40, CPU) for seed in range(3)])
    assert draws.unique().numel() == draws.numel() == 3 * 25 * 40
    for bit in (0, 1, 31, 32, 63):  # five standard deviations
        assert abs(float((draws >> bit & 1).double().mean()) - 0.5) < 5 * 0.5 / 3000**0.5


def test_draws_say_nothing_of_the_order_of_visits():
    """Were both sorted from the same numbers, the first visits would have the smallest draws."""
    draws, order = visit_draws(0, [(0, 0)], 50, CPU)[0], shuffles(0, [(0, 0)], 50, CPU)[0]
    assert not torch.equal(draws.argsort(), order)


def test_cohorts_are_redrawn_every_round_and_every_client_is_drawn_equally_often():
    cohorts = [select_clients(0, t, 10, 3) for t in range(1, 2001)]
    assert all(len(set(cohort)) == 3 and cohort == sorted(cohort) for cohort in cohorts)
    assert len({tuple(cohort) for cohort in cohorts}) == 120  # all of 10 choose 3
    drawn = Counter(k for cohort in cohorts for k in cohort)
    assert all(abs(drawn[k] - 600) < 5 * (2000 * 0.3 * 0.7) ** 0.5 for k in range(10))


def test_streams_differ_by_seed_purpose_and_key():
    keys = [(s, p, t, k) for s in range(3) for p in ("cohort", "batches") for t in range(5) for k in range(5)]
    assert len({derive(*key) for key in keys}) == len(keys)
    assert derive(0, "a", 11, 1) != derive(0, "a", 1, 11)


def test_seeded_leaves_the_global_generator_as_it_was():
    before = torch.get_rng_state()
    with seeded(5, "model"):
        inside = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(5, "model"):
        assert torch.equal(torch.rand(3), inside)
