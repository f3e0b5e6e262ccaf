"""Who is called to a round, and who answers: known before anyone trains, because it follows from the seed alone."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from data.partition import Partition
from fl.accountant import clients_called
from fl.config import DEFAULTS, Config
from fl.devices import HOUR, STATES, comes_and_goes, devices_of, eligible, fate_of, has_clock, most_eligible
from fl.errors import FlagError
from fl.flags.conditions import has_speeds
from fl.flags.privacy import is_noisy
from fl.flags.security import fewest_reports
from fl.rng import derive, select_clients, uniforms

MOST_HOURS = 24  # that a server waits for m eligible clients
EVENTS = ("decline_rate", "dropout_rate", "straggler_rate", "over_select", "min_reports", "round_deadline")


class Cohort(NamedTuple):
    """The clients of a round by what happens to them, each list ascending. Only clients that report are trained.

    called: S_t, or more clients with --over_select. reporting: their updates arrive in time. declined: they take no
    part. dropped: they drop out after they got the model. late: they would report after the end of the round.
    epochs: by client, its number of epochs if that is below E. seconds: simulated time since the end of the previous
    round; None if nothing takes time. abandoned: whether too few clients report, so that the model stays the same.
    """

    called: Sequence[int] = ()
    reporting: Sequence[int] = ()
    declined: Sequence[int] = ()
    dropped: Sequence[int] = ()
    late: Sequence[int] = ()
    epochs: Mapping[int, int] = {}
    seconds: float | None = None
    abandoned: bool = False

    @property
    def got_the_model(self) -> int:
        return len(self.called) - len(self.declined)

    def record(self) -> dict[str, Any]:
        """Keys for the round's line in metrics.jsonl; those without content are left out."""
        named = {"declined": self.declined, "dropped": self.dropped, "late": self.late}
        line: dict[str, Any] = {key: list(clients) for key, clients in named.items() if clients}
        if line or self.abandoned:
            line = {"called": list(self.called), **line}
        if self.abandoned:
            line["abandoned"] = True
        return line if self.seconds is None else line | {"simulated_seconds": self.seconds}


NOBODY = Cohort()


def cohort(config: Config, partition: Partition, t: int, clock: float, transfer: tuple[int, int]) -> Cohort:
    """S_t of Algorithm 1, and who of them reports.

    partition: what the clients hold in this round. clock: simulated seconds at which the round before was over.
    transfer: bytes of the model to a client, and of the update from it. Where the server adds noise no round is
    abandoned, because that would tell without noise that somebody was missing.
    """
    S_t, waited = call(config, len(partition), t, clock)
    if is_eventful(config):
        met, lasted = what_becomes_of(S_t, config, partition, t, transfer)
    else:
        met, lasted = Cohort(S_t, S_t), 0.0
    if len(met.reporting) < fewest(config, met.got_the_model):
        met = met._replace(reporting=[], epochs={}, abandoned=True)
    return met._replace(seconds=waited + lasted) if has_clock(config) else met


def call(config: Config, K: int, t: int, clock: float) -> tuple[list[int], float]:
    """The clients that are called, ascending, and the simulated seconds that the server waited before it called them.

    m clients drawn uniformly without replacement, or more with --over_select. With --sampling poisson each client is
    drawn with probability m / K, and there may be more than m, or none.
    """
    m = config.num_select_clients
    wanted = clients_called(config)
    if comes_and_goes(config):
        return called_when_eligible(config, t, clock, m, wanted)
    if config.sampling == "poisson":
        return (uniforms(config.seed, "cohort", t, n=K) < m / K).nonzero().flatten().tolist(), 0.0
    return select_clients(config.seed, t, K, wanted), 0.0


def what_becomes_of(
    S_t: Sequence[int], config: Config, partition: Partition, t: int, transfer: tuple[int, int]
) -> tuple[Cohort, float]:
    """Who of those called declines, drops out, is late or reports, and the seconds until the round is over.

    The round is over with the m-th report. If fewer than m come, it is over at the deadline, or without a deadline when
    nobody is left to wait for. With --sampling poisson the server waits for all, because it must not matter how many
    others were drawn.
    """
    most = len(partition) if config.sampling == "poisson" else config.num_select_clients
    fates = {k: fate_of(config, t, k) for k in S_t}
    sizes = dict(zip(S_t, partition.sizes_of(S_t), strict=True))
    epochs, needed = {}, {}
    for k, fate in fates.items():
        if fate.is_slow and config.straggler_epochs:
            epochs[k] = config.straggler_epochs
        work = epochs.get(k, config.local_epoch) * sizes[k] * (config.straggler_slowdown if fate.is_slow else 1.0)
        needed[k] = seconds_needed(config, k, work, transfer)
    declined = [k for k in S_t if fates[k].declines]
    dropped = [k for k in S_t if fates[k].vanishes is not None and not fates[k].declines]
    staying = sorted(set(S_t) - {*declined, *dropped}, key=lambda k: (needed[k], fates[k].turn))
    deadline = math.inf if config.round_deadline is None else config.round_deadline
    reporting = [k for k in staying[:most] if needed[k] <= deadline]
    if len(reporting) == most:
        lasted = needed[reporting[-1]]
    elif config.round_deadline is not None:
        lasted = deadline
    else:
        lasted = max(
            [needed[k] for k in staying] + [(fates[k].vanishes or 0) * needed[k] for k in dropped], default=0.0
        )
    late = sorted(set(staying) - set(reporting))
    epochs = {k: E for k, E in epochs.items() if k in reporting}
    return Cohort(S_t, sorted(reporting), declined, dropped, late, epochs), lasted


def fewest(config: Config, n: int) -> int:
    """The least number of reports that a round needs if n clients take part in it; with fewer it is abandoned."""
    return 0 if is_noisy(config) else max(config.min_reports, fewest_reports(config, n))


def is_eventful(config: Config) -> bool:
    """Whether a called client may do anything but report, or take time for it."""
    return has_speeds(config) or any(getattr(config, name) != DEFAULTS[name] for name in EVENTS)


def called_when_eligible(config: Config, t: int, clock: float, m: int, wanted: int) -> tuple[list[int], float]:
    """Up to `wanted` clients drawn from those who can be called, and the seconds that the server waited for m of them.

    It looks once an hour. After a day without m eligible clients it calls those who are there.
    """
    for hours in range(MOST_HOURS + 1):
        there = eligible(config, clock + hours * HOUR).nonzero().flatten().tolist()
        if len(there) >= m:
            break
    drawn = random.Random(derive(config.seed, "cohort", t)).sample(there, min(wanted, len(there)))
    return sorted(drawn), hours * HOUR


def seconds_needed(config: Config, k: int, examples: float, transfer: tuple[int, int]) -> float:
    """How long client k takes to get the model, to train on so many examples, and to send its update."""
    devices, (down, up) = devices_of(config), transfer
    return (
        down / float(devices.down_bytes_per_second[k])
        + examples / float(devices.examples_per_second[k])
        + up / float(devices.up_bytes_per_second[k])
    )


def check_cohorts(config: Config, partition: Partition, transfer: tuple[int, int]) -> None:
    """Raise FlagError if no round can be expected to have the reports that it needs."""
    if comes_and_goes(config) and (most := most_eligible(config)) < (least := fewest(config, 0)):
        said = f"--min_reports {least}" if least == config.min_reports else "--secure_aggregation"
        raise FlagError(
            f"{said}: {most:.2g} of the {len(partition)} clients are eligible at the best "
            f"hour; raise {', '.join(f'--{state}' for state in STATES)} or --num_clients"
        )
    if config.round_deadline is not None:
        E, clients = config.straggler_epochs or config.local_epoch, range(len(partition))
        sizes = partition.sizes.tolist()
        needed = sorted(seconds_needed(config, k, E * sizes[k], transfer) for k in clients)
        least = max(1, fewest(config, clients_called(config)))
        if needed[least - 1] > config.round_deadline:
            raise FlagError(
                f"--round_deadline {config.round_deadline:g}: the fastest {least} clients need "
                f"{needed[least - 1]:.3g} seconds; allow more"
            )
