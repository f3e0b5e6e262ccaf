"""The flags of clients' own tests and own models: a part of the table in fl/config.py, which is one with the others.

All of them are off by default. docs/personalisation.md says what each figure means.
"""

from __future__ import annotations

import dataclasses

from fl.flags.flag import FEDERATED, FREE, SWITCH, Need, flag, integer, number

GROUP = "Personalisation"
TESTED = Need("needs a --client_test_fraction, so that clients have something to be tested on", lambda c: c.client_test_fraction > 0)  # fmt: skip


def has_client_tests(config: Personal) -> bool:
    """Whether clients are tested once the rounds are over."""
    return bool(config.client_eval_every or config.personalise_epochs or config.local_only)


@dataclasses.dataclass(frozen=True)
class Personal:
    """What clients are tested on, and what they make of the model for themselves."""

    # fmt: off
    client_test_fraction: float = flag(0.0, GROUP, number(0, 1, "[0, 1)"),
        "share of its own examples that each client keeps for a test, and is never trained on", reads=FEDERATED)
    client_eval_every: int = flag(0, GROUP, integer(0, " (0: never)"),
        "rounds between tests of the model on each client's own test examples (and after the last); 0 is never", reads=FEDERATED,
        needs=[TESTED], experiment=False)
    personalise_epochs: int = flag(0, GROUP, integer(0, " (0: none)", high=10**9),
        "passes over its own data in which each client tunes the final model for itself", reads=FEDERATED,
        needs=[TESTED], resume=FREE, experiment=False)
    personal_layers: int = flag(0, GROUP, integer(0, " (0: none)"),
        "how many of the last layers are each client's own and never sent (FedPer)", reads=FEDERATED)
    local_only: bool = flag(False, GROUP, SWITCH,
        "after the rounds, train each client on its own data alone, too, for as many passes as a client has made on average", reads=FEDERATED,
        needs=[TESTED], resume=FREE, experiment=False)
    # fmt: on
