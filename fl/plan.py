"""What a run will do, before it does it: --dry_run, and the lengths of the progress bar."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from fl.accountant import clients_called, described
from fl.aggregates.secure.fixed_point import scale_of
from fl.client import steps_of
from fl.config import Config
from fl.environment import read_environment
from fl.errors import RunFolderError
from fl.estimate import rough, seconds_a_central_step, seconds_a_step, seconds_an_evaluation
from fl.experiment import Experiment
from fl.flags.changing import has_drift
from fl.flags.security import fewest_reports
from fl.records.reading import is_finished, read_records
from fl.streams import warn

MOST_CLIENTS_LISTED = 20
MOST_ROUNDS_COUNTED = 1000


def round_steps(x: Experiment, t: int) -> int:
    """Gradient steps of all the clients of round t."""
    S_t = x.cohort(t)
    sizes = zip(S_t.reporting, x.partition_at(t).sizes_of(S_t.reporting), strict=True)
    return sum(steps_of(x.config, n_k, S_t.epochs.get(k)) for k, n_k in sizes)


def matched_examples(config: Config) -> list[int] | None:
    """Examples of each round of the run that --match names, or None without it.

    A resumed run keeps the numbers that it began with, whatever has become of the other run since, and adds those of
    the rounds that the other run has had after them. Raises RunFolderError when there are no records to match.
    """
    if config.match is None:
        return None
    kept = _kept_examples(Path(config.run_dir)) if config.resume and config.run_dir else None
    folder = Path(config.match)
    try:
        records = read_records(folder)
    except RunFolderError:
        if kept is None:
            raise
        return kept
    there = [record["examples"] for record in records[1:]]
    if kept is None or (len(there) > len(kept) and there[: len(kept)] == kept):
        if not is_finished(folder, records):
            warn(f"--match {folder}: is not finished; its {len(there)} rounds so far count")
        return there
    if there != kept[: len(there)]:
        warn(
            f"--match {folder}: holds another run than when this one began; "
            f"continuing with the {len(kept)} rounds that were noted at that time"
        )
    return kept


def _kept_examples(folder: Path) -> list[int] | None:
    """What a baseline has noted of the run that it matches; runs of earlier versions noted nothing."""
    kept = read_environment(folder).get("matched_examples")
    if kept is not None and not (isinstance(kept, list) and all(type(count) is int and count >= 0 for count in kept)):
        raise RunFolderError(f"{folder / 'environment.json'}: corrupt: matched_examples is not a list of counts")
    return kept


def boundaries(config: Config, n: int, matched: Sequence[int] | None = None) -> Sequence[int]:
    """Examples processed by the end of each record of the baseline: of epochs over n, or of the rounds it matches."""
    return range(n, n * (config.epoch + 1), n) if matched is None else list(accumulate(matched))


def stream_steps(config: Config, n: int, ends: Sequence[int], t: int) -> int:
    """Gradient steps of record t of the baseline, but for the batches cut at a record's ends."""
    if not 1 <= t <= len(ends):
        return 0
    B = min(config.batch_size or n, n)
    return -(-(ends[t - 1] - (ends[t - 2] if t > 1 else 0)) // B)


def all_steps(x: Experiment) -> int:
    """Gradient steps of all rounds; of more than MOST_ROUNDS_COUNTED, extrapolated from the first ones."""
    T = x.config.global_epoch
    exact = min(T, MOST_ROUNDS_COUNTED)
    return sum(round_steps(x, t) for t in range(1, exact + 1)) * T // max(exact, 1)


def federated_plan(x: Experiment, engine: str, workers: int) -> str:
    config, partition = x.config, x.partition
    sizes, m, T = partition.sizes, config.num_select_clients, config.global_epoch
    E, B, K, n = config.local_epoch, config.batch_size, len(partition), x.n
    u = E * n / (K * B) if B else float(E)
    down, up = x.transfer_bytes
    steps = all_steps(x)
    counts, summary = x.label_counts, x.heterogeneity
    lines = [
        *_what(x),
        f"partition     {config.partition}, sha256 {partition.sha256()}",
        f"clients       K = {K}, m = {m} a round; n_k from {int(sizes.min())} to {int(sizes.max())}, n = {n}",
        *_held_out(x),
        "labels        {} to {} a client, median {}; ".format(*(summary["labels"][i] for i in (0, 2, 1)))
        + f"total variation {summary['total_variation']:.4f} from the whole",
        f"local work    E = {E}, B = {B or 'the whole data set'}, u = E n / (K B) = {u:g} steps a client a round",
        f"rounds        T = {T}: {'' if T <= MOST_ROUNDS_COUNTED else 'about '}{steps:,} gradient steps in all",
        f"time          {_time(x, seconds_a_step(x, engine, workers), steps, T, workers)}",
        f"engine        {engine_line(engine, workers)}",
        f"algorithm     {config.algorithm}, aggregate {config.aggregate}, attack {config.attack or 'none'}",
        *described(config),
        *_secure(x),
        *_changing(config),
        f"bytes a round {clients_called(config) * down:,} down, {m * up:,} up",
        "client    n_k  examples of each label",
    ]
    for k in range(min(K, MOST_CLIENTS_LISTED)):
        lines.append(f"{k:6d} {int(sizes[k]):6d}  " + " ".join(f"{count:5d}" for count in counts[k].tolist()))
    if K > MOST_CLIENTS_LISTED:
        lines.append(f"   ... and {K - MOST_CLIENTS_LISTED:,} more")
    return "\n".join(lines)


def _secure(x: Experiment) -> list[str]:
    """What secure aggregation needs and what it rounds, if it is on."""
    if not x.config.secure_aggregation:
        return []
    n = clients_called(x.config)
    return [
        f"secure sum    {fewest_reports(x.config, n)} of {n} must report; values of the mean are coded to within "
        f"{2.0 ** -(scale_of(x.n) + 1):.1g}"
    ]


def _changing(c: Config) -> list[str]:
    """How the data change over rounds, if they do."""
    if not has_drift(c):
        return []
    return [f"data drift    {c.data_drift}: a share of {c.drift_share:g}, {c.drift_rounds:,} rounds"]


def baseline_plan(x: Experiment, ends: Sequence[int]) -> str:
    config, n = x.config, x.n
    B = min(config.batch_size or n, n)
    steps = (
        len(ends) * -(-n // B)
        if config.match is None
        else sum(stream_steps(config, n, ends, t) for t in range(1, len(ends) + 1))
    )
    last = ends[-1] if ends else 0
    length = f"matching {config.match}" if config.match else f"{config.epoch} epochs"
    return "\n".join(
        [
            *_what(x),
            f"local work    B = {config.batch_size or 'the whole data set'}, {n} examples in one place",
            f"rounds        {len(ends)} ({length}): {last:,} examples, about {steps:,} gradient steps in all",
            f"time          {_time(x, seconds_a_central_step(x), steps, len(ends))}",
            "bytes a round 0 down, 0 up",
        ]
    )


def _held_out(x: Experiment) -> list[str]:
    """What clients are tested on, if there are such examples."""
    if x.held_out is None:
        return []
    sizes = x.held_out.sizes
    return [f"held out      {int(sizes.sum()):,} examples, on which {int((sizes > 0).sum()):,} clients are tested"]


def engine_line(engine: str, workers: int) -> str:
    return engine + (f" in {workers} processes" if workers > 1 else "")


def _time(x: Experiment, a_step: float, steps: int, rounds: int, workers: int = 1) -> str:
    """The time of the run, and what it is made of. Evaluations are shared out over the processes, and so are steps."""
    an_evaluation = seconds_an_evaluation(x) / workers
    total = steps * a_step + evaluations(x.config, rounds) * an_evaluation
    return f"{rough(total)}: {a_step * 1e3:.3g} ms a step, {an_evaluation:.2g} s an evaluation; timed just now"


def evaluations(config: Config, rounds: int) -> int:
    return 1 + -(-rounds // config.eval_every)


def _what(x: Experiment) -> list[str]:
    config, data = x.config, x.data
    return [
        f"data          {data.name}: {len(data.train):,} training and {len(data.test):,} test examples, "
        f"from {data.source}",
        f"model         {config.model}, {x.parameters:,} parameters, {x.model_bytes:,} bytes, on {x.device}",
        f"optimizer     {config.optimizer}, eta = {config.init_lr:g} x {config.lr_decay:g} a round",
    ]
