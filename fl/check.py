"""All flags together: defaults that follow from other flags, and what one flag asks of another. Imports no torch.

The conditions themselves stand in the table of flags (fl/config.py) and in the entries of what flags name
(fl/flags/entry.py). Only what makes one value of several flags is worked out here: --match, and the size of a cohort.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from fl.accountant import check_private, with_noise
from fl.aggregates.secure.allowed import check_secure
from fl.config import DEFAULTS, FLAGS, MATCHED, NAMES, Config, names_in
from fl.config_file import read_config
from fl.errors import FlagError, RunFolderError
from fl.flags.flag import listed
from fl.names import check_names, entry_of, is_own, made_of
from fl.records.reading import newest_runs

LATEST = "latest"  # for --match, the newest federated run
# Flags with which fewer than m clients may report.
THINNING = ("sampling", "charging", "unmetered", "idle", "decline_rate", "dropout_rate", "round_deadline")


def resolve(given: dict[str, Any], script: str = "federated") -> Config:
    """Defaults that depend on other flags, and checks that need more than one flag."""
    given = with_matched(given, script)
    for name in NAMES:
        for value in names_in(given.get(name, DEFAULTS[name])):
            given = with_defaults(given, name, value, reads=script in FLAGS[name].metadata["reads"])
    given = given | {"num_select_clients": cohort_size(given)}
    given = with_rate(given)
    config = Config(**given)
    check(config, given)
    return with_noise(config)


def with_matched(given: dict[str, Any], script: str) -> dict[str, Any]:
    """The given flags; for a baseline with --match also flags of the matched run, unless they are given."""
    if "match" not in given:
        return given
    folder = given["match"]
    if script != "baseline":
        raise FlagError(f"--match {folder}: only run_baseline.py trains to match a run")
    if folder == LATEST and not Path(folder).is_dir():
        folder = latest(given.get("out_dir", DEFAULTS["out_dir"]))
        given = given | {"match": folder}
    if not Path(folder).is_dir():
        raise FlagError(f"--match {folder}: no such folder; expected that of a federated run, or {LATEST}")
    recorded = read_config(folder)
    if recorded["script"] != "federated":
        raise FlagError(f"--match {folder}: that is a {recorded['script']} run; expected a federated one")
    if "dataset" not in given:
        check_names(folder, {"dataset": recorded["dataset"]}, script)
    generating = made_of(given.get("dataset", recorded["dataset"]))
    names = dict.fromkeys([*MATCHED, *generating])
    taken = {name: recorded[name] for name in names if name not in given}
    is_other = given.get("optimizer", recorded["optimizer"]) != recorded["optimizer"]
    if is_other or entry_of("algorithm", recorded["algorithm"]).own_rate:
        taken.pop("init_lr", None)  # a learning rate suits only the optimizer and the algorithm that it was chosen for
    check_names(folder, taken, script)
    config = Config(**(taken | given))
    # Leave out flags that do nothing here, such as --momentum if the baseline is given another optimizer.
    used = {n for n in taken if n in generating or (is_possible(n, config) and is_asked_for(n, config))}
    return {name: taken[name] for name in used} | given


def latest(out_dir: str) -> str:
    """The folder of the federated run in `out_dir` that was last written to. Raises FlagError if there is none."""
    for folder in newest_runs(Path(out_dir)):
        with suppress(RunFolderError):
            if read_config(folder)["script"] == "federated":
                return str(folder)
    raise FlagError(f"--match {LATEST}: there is no federated run in {out_dir}; name a run's folder, or see --out_dir")


def cohort_size(given: dict[str, Any]) -> int:
    """m, which --client_fraction says as well; 0 if neither K nor m is known yet."""
    K, fraction = given.get("num_clients", Config.num_clients), given.get("client_fraction")
    if fraction is None:
        return int(given.get("num_select_clients") or min(Config.num_select_clients, K))
    if "num_select_clients" in given:
        raise FlagError(f"--client_fraction {fraction:g}: --num_select_clients says the same; give one of the two")
    return max(round(fraction * K), 1) if K else 0  # round, not int: int(0.29 * 100) is 28


def with_clients(config: Config, K: int) -> Config:
    """The flags with K and m filled in, if it was left to the data set to say how many clients there are.

    Raises FlagError for flags that K clients do not allow.
    """
    if config.num_clients:
        return config
    given: dict[str, Any] = {"num_clients": K}
    if config.client_fraction is not None:
        given["client_fraction"] = config.client_fraction
    elif config.num_select_clients:
        given["num_select_clients"] = config.num_select_clients
    config = replace(config, num_clients=K, num_select_clients=cohort_size(given))
    check(config, given)
    return with_noise(config)


def with_defaults(given: dict[str, Any], name: str, value: str, reads: bool) -> dict[str, Any]:
    """The flags with those that the entry of --name sets. reads: whether the script does anything with it."""
    entry = entry_of(name, value)
    if reads:
        for other, fixed in entry.fixes.items():
            if given.get(other, fixed) != fixed:
                raise FlagError(f"--{other} {given[other]}: --{name} {value} is {entry.meaning}; leave the flag out")
        given = {**given, **entry.fixes}
    return {**entry.defaults, **given}


def with_rate(given: dict[str, Any]) -> dict[str, Any]:
    """The flags with a rate for SGD if they have none: the default is Adam's, and far too small for it."""
    if given.get("optimizer") != "sgd" or "init_lr" in given:
        return given
    return given | {"init_lr": entry_of("model", given.get("model", DEFAULTS["model"])).sgd_lr}


def check(config: Config, given: dict[str, Any], is_begun: bool = False) -> None:
    """Raise FlagError for flags in `given` that would do nothing, because they are probably mistakes.

    is_begun: whether these are the flags of a run that is being resumed; some conditions are then not checked again.
    """
    for name in FLAGS:
        if name in given and given[name] is not False:
            said = f"--{name}" if given[name] is True else f"--{name} {given[name]}"
            for need in FLAGS[name].metadata["needs"]:
                if not need.holds(config):
                    raise FlagError(f"{said}: {need.words.format(config=config)}")
            if not is_asked_for(name, config) and name not in made_of(config.dataset):
                needed = [f"--{table} {listed(readers)}" for table, readers in readers_of(name).items()]
                raise FlagError(f"{said}: needs {', or '.join(needed)}")
    for name in NAMES:
        for value in names_in(getattr(config, name)):
            check_entry(config, given, name, value, is_begun)
    check_inputs(config)
    if {"noise_multiplier", "target_epsilon"} <= given.keys():
        raise FlagError(f"--noise_multiplier {config.noise_multiplier:g}: says what --target_epsilon says; give one")
    check_private(config)
    check_secure(config)


def check_entry(config: Config, given: dict[str, Any], name: str, chosen: str, is_begun: bool) -> None:
    """Raise FlagError if another flag has a value that the entry of `chosen`, a value of --name, does not allow.

    If the needed value is the other flag's default, the error is about the other flag, which was given; otherwise it is
    about --name, which needs the other flag.
    """
    entry = entry_of(name, chosen)
    for other, needed in entry.needs.items():
        value = getattr(config, other)
        if value == needed:
            continue
        if needed == DEFAULTS[other] and other in given:
            raise FlagError(f"--{other} {value}: needs another --{name}")
        if needed != DEFAULTS[other] and name in given:
            raise FlagError(f"--{name} {chosen}: needs --{other} {needed}")
    if is_begun or not config.num_clients:
        return
    if entry.check:
        entry.check(config)
    if entry.reports:
        check_reports(config, f"--{name} {chosen}", entry.reports(config))


def check_reports(config: Config, said: str, needed: int) -> None:
    """Raise FlagError if a round may count although fewer than `needed` clients report."""
    for name in THINNING:
        value = getattr(config, name)
        if value != DEFAULTS[name] and config.min_reports < needed:
            raise FlagError(
                f"--{name} {value}: with it fewer than --num_select_clients may report, and {said} needs {needed} to "
                f"withstand anything; give --min_reports {needed}, so that rounds with fewer are abandoned"
            )


def check_inputs(config: Config) -> None:
    """Refuse a model of ours for a data set of ours whose inputs it cannot read."""
    if is_own("model", config.model) or is_own("dataset", config.dataset):
        return
    tokens = entry_of("dataset", config.dataset).tokens
    if entry_of("model", config.model).tokens != tokens:
        other = "model" if tokens else "dataset"  # of which fewer fit
        fit = [name for name in FLAGS[other].metadata["kind"].table if entry_of(other, name).tokens]
        reads = f"cannot read the tokens of --dataset {config.dataset}" if tokens else "reads nothing but tokens"
        raise FlagError(f"--model {config.model}: {reads}; choose --{other} {listed([*fit, 'FILE.py:NAME'])}")


def is_read(name: str, config: Config, script: str) -> bool:
    """Whether the flag does anything in that run."""
    reads = script in FLAGS[name].metadata["reads"] or name in entry_of("dataset", config.dataset).made_of
    # What a user-supplied data set follows from is not known here, because nothing of the user's is executed.
    own = is_own("dataset", config.dataset) and FLAGS[name].metadata["group"] == "Federation"
    reads = reads or (own and getattr(config, name) != DEFAULTS[name])
    return reads and is_possible(name, config) and is_asked_for(name, config)


def is_possible(name: str, config: Config) -> bool:
    """Whether all conditions in the flag's `needs` are met."""
    return all(need.holds(config) for need in FLAGS[name].metadata["needs"])


def is_asked_for(name: str, config: Config) -> bool:
    """Whether one of the chosen names, such as the algorithm, reads the flag; True if the flag belongs to no name.

    User-supplied code counts as reading every flag that belongs to names of its kind, because nobody knows what it
    reads.
    """
    tables = readers_of(name)
    chosen = [(table, one) for table in tables for one in names_in(getattr(config, table))]
    return not tables or any(one in tables[table] or is_own(table, one) for table, one in chosen)


def readers_of(name: str) -> dict[str, list[str]]:
    """By flag, which of its values read --name: {"algorithm": ["fedprox"]} for proximal_mu; {} for most flags."""
    tables = {table: FLAGS[table].metadata["kind"].table for table in NAMES}
    readers = {table: [one for one in tables[table] if name in entry_of(table, one).reads] for table in NAMES}
    return {table: names for table, names in readers.items() if names}


def defaults_of(name: str) -> dict[str, Any]:
    """By name in a table, the default that --name has under it: {"fedadam": 0.01, ...} for server_lr."""
    tables = {table: FLAGS[table].metadata["kind"].table for table in readers_of(name)}
    own = {one: entry_of(table, one).defaults for table, names in tables.items() for one in names}
    return {one: defaults[name] for one, defaults in own.items() if name in defaults}


def rates(config: Config) -> list[str]:
    """The flags to lower when training diverges, with their values."""
    everyones, of_names = [], []
    for name in (name for name in FLAGS if FLAGS[name].metadata["rate"]):
        value, tables = getattr(config, name), readers_of(name)
        if not tables:
            everyones.append(f"--{name} {value:g}")
        elif value is not None and (value != DEFAULTS[name] or any(getattr(config, t) in tables[t] for t in tables)):
            of_names.append(f"--{name} {value:g}")
    return everyones + of_names
