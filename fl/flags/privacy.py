"""The flags of clipping and noise: a part of the table in fl/config.py, which is one with the others.

All of them are off by default. docs/privacy.md says what they protect; fl/accountant.py works it out.
"""

from __future__ import annotations

import dataclasses

from fl.flags.flag import FEDERATED, MOST, SWITCH, Need, choice, flag, number

GROUP = "Privacy"


def is_noisy(config: Privacy) -> bool:
    """Whether the server adds noise to the sum of the updates, as much as is known of it by now."""
    return config.noise_multiplier > 0 or config.target_epsilon is not None


def has_noise(config: Privacy) -> bool:
    """Whether anyone adds noise."""
    return is_noisy(config) or config.local_noise > 0


CLIPPED = Need("needs a --clip_norm, which bounds what one client can change", lambda c: c.clip_norm is not None)
NOISE = Need("needs a --noise_multiplier, --target_epsilon or --local_noise", has_noise)


@dataclasses.dataclass(frozen=True)
class Privacy:
    """How clients are drawn, how much one of them can change, and what hides who took part."""

    # fmt: off
    sampling: str = flag("uniform", "Federation", choice(["uniform", "poisson"]),
        "how a round's clients are drawn: m of K without replacement, or each with probability m / K", reads=FEDERATED,
        needs=[
            Need("needs clients that can always be called; leave out --charging, --unmetered and --idle", lambda c: c.sampling == "uniform" or c.charging == c.unmetered == c.idle == "1,1"),
            Need("needs --over_select 1, because a round takes all who are drawn", lambda c: c.sampling == "uniform" or c.over_select == 1),
        ])
    clip_norm: float | None = flag(None, GROUP, number(0, MOST, f"(0, {MOST:g}]"),
        "C, the L2 norm to which a client's w_k - w is shortened; with --clip_quantile that of the first round", reads=FEDERATED)
    clip_quantile: float | None = flag(None, GROUP, number(0, 1, "(0, 1)"),
        "share of clients whose updates C shall leave unclipped; C is adapted to it after every round", reads=FEDERATED, needs=[CLIPPED])
    noise_multiplier: float = flag(0.0, GROUP, number(0, 1e6, "[0, 1e+06]"),
        "z: the server adds normal noise of standard deviation z C to the sum of the updates", reads=FEDERATED, needs=[CLIPPED])
    target_epsilon: float | None = flag(None, GROUP, number(0, 1e6, "(0, 1e+06]"),
        "epsilon after the last round, for which z is worked out", reads=FEDERATED, needs=[CLIPPED])
    delta: float = flag(1e-5, GROUP, number(0, 1, "(0, 1)"), "delta, for which epsilon is stated", reads=FEDERATED, needs=[NOISE])
    local_noise: float = flag(0.0, GROUP, number(0, 1e6, "[0, 1e+06]"),
        "each client adds normal noise to what it sends, of standard deviation this number times C", reads=FEDERATED, needs=[CLIPPED])
    insecure_noise: bool = flag(False, GROUP, SWITCH,
        "noise from --seed, which protects nothing, for tests and repetitions (default: from the system's secure generator)", reads=FEDERATED, needs=[NOISE])
    # fmt: on
