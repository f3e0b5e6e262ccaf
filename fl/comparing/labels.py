"""Words for runs: what tells several apart, for a legend, and what they share, for a title. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fl.check import is_read, readers_of
from fl.comparing.compared import Experiment
from fl.config import DEFAULTS, FLAGS, NAMES, Config, names_in
from fl.errors import FlagError
from fl.flags.entry import Entry
from fl.flags.flag import FEDERATED, SWITCH
from fl.names import entry_of, is_own

# How a flag with its value is said; the letters are the paper's. Any other is said as NAME=VALUE, or, where its values
# are names, as the name alone.
SAID: dict[str, str] = {
    "num_clients": "K={}", "num_select_clients": "m={}", "global_epoch": "T={}", "local_epoch": "E={}",
    "batch_size": "B={}", "init_lr": "lr={}", "epoch": "{} epochs", "shards_per_client": "{} shards a client",
    "labels_per_client": "{} labels a client", "label_sets": "labels {}", "min_examples": "{} examples at least",
    "attack": "{} attack", "attackers": "attackers={}", "normalise": "normalise={}", "augment": "augment={}",
    "clip_norm": "C={}", "noise_multiplier": "z={}", "target_epsilon": "epsilon={}",
    "compress": "compress={}", "compress_bits": "{} bits", "compress_density": "density={}",
    "data_drift": "data {}", "drift_share": "share={}", "drift_rounds": "in {} rounds",
    "stop_at_target": "stopped there", "target_accuracy": "to {}", "stop_below": "if below {}",
}  # fmt: skip

# A title shows these flags in this order, if they do something in the run. Of all other flags it shows those in GROUPS
# that are not at their defaults.
DEFINING = (
    "algorithm", "model", "dataset", "partition", "shards_per_client", "labels_per_client", "label_sets", "alpha",
    "num_clients",
    "num_select_clients", "local_epoch", "batch_size", "optimizer", "init_lr", "proximal_mu", "server_lr", "trim",
    "byzantine", "attack", "attackers", "attack_scale", "compress", "compress_bits", "compress_density",
    "data_drift", "drift_share", "drift_rounds",
)  # fmt: skip
OFF = ("compress", "data_drift")  # of DEFINING, those that a title leaves out at their default, "none"
GROUPS = ("Federation", "Algorithm", "Privacy", "Compression", "Devices and links", "Training", "Model and data")
ALSO, SEEN = ("precision",), ("global_epoch",)  # shown though not in GROUPS; left out, because the x axis shows it

Values = dict[str, Any]  # of flags, by name
UNSET = object()  # the value of a flag that its owner, such as the algorithm, sets by itself


def labelled(experiments: Sequence[Experiment], given: Sequence[str] = ()) -> dict[str, Experiment]:
    """The experiments by their labels: those that are `given`, in this order, or else what tells them apart.

    Raises FlagError for more or fewer than there are experiments, for two that are equal, and for what is no text.
    """
    if not given:
        return dict(zip(distinguished(experiments), experiments, strict=True))
    for label in given:
        if not label.strip() or not label.isprintable():
            raise FlagError(f"--label {label!a}: expected a word or more, on one line")
        if given.count(label) > 1:
            raise FlagError(f"--label {label}: is given twice; experiments need different labels")
    if len(given) != len(experiments):
        names = ", ".join(distinguished(experiments))
        raise FlagError(
            f"--label {given[-1]}: is label {len(given)} of {len(experiments)}; expected one for each experiment, "
            f"in this order: {names}"
        )
    return dict(zip(given, experiments, strict=True))


def distinguished(experiments: Sequence[Experiment]) -> list[str]:
    """A label for each experiment: the flags that differ among those in which they do something, and no two alike."""
    labels = telling_apart(experiments, plain)
    if len(set(labels)) < len(labels):
        labels = telling_apart(experiments, exact)
    # They may still be alike where they differ in what no flag says, such as the run that was matched.
    seen = [labels[: at + 1].count(label) for at, label in enumerate(labels)]
    return [f"{label} #{number}" if number > 1 else label for label, number in zip(labels, seen, strict=True)]


def telling_apart(experiments: Sequence[Experiment], figure: Callable[[Any], str]) -> list[str]:
    """The flags that differ, in words, with numbers as `figure` says them."""
    flags = [free(experiment) for experiment in experiments]
    differing = [name for name in FLAGS if len({own[name][0] for own in flags if name in own}) > 1]
    baselines = [experiment.key["script"] == "baseline" for experiment in experiments]
    matches = {experiment.key.get("matched") for experiment in experiments if experiment.key["script"] == "baseline"}
    labels: list[str] = []
    for experiment, own, is_baseline in zip(experiments, flags, baselines, strict=True):
        names = [name for name in differing if name in own]
        words = [text for name in names if (text := word(name, own[name][1], figure))]
        federated_only = any(FLAGS[name].metadata["reads"] == FEDERATED for name in names)
        if is_baseline:
            words.insert(0, "baseline")
        elif not words or (any(baselines) and not federated_only):
            words.insert(0, experiment.key["algorithm"])
        if is_baseline and len(matches) > 1 and "matched" in experiment.key:
            # Runs of several seeds match a run each.
            matched = " and ".join(dict.fromkeys(Path(run.flags["match"]).name for run in experiment.runs))
            words.append(f"matched to {matched if matched.isprintable() else ascii(matched)}")
        label = ", ".join(words)
        if experiment.key["diverged"]:
            label += " (diverged)"
        elif not experiment.key["finished"]:
            label += f" (unfinished, round {experiment.key['round']})"
        labels.append(label)
    return labels


def free(experiment: Experiment) -> dict[str, tuple[Any, Any]]:
    """By flag, a pair: what to compare between experiments, and the value. Only flags that the user can choose freely.

    These are the flags that do something in the experiment, without those that a name, such as an algorithm, fixes. If
    a flag depends on such a name and has the default that goes with it, UNSET is compared instead of its value.
    """
    key = experiment.key
    entries: list[Entry] = [entry_of(name, one) for name in NAMES if name in key for one in names_in(key[name])]
    fixed = {name for entry in entries for name in entry.fixes}
    usual = {name: DEFAULTS[name] for name in FLAGS if readers_of(name)}
    for entry in entries:
        usual |= entry.defaults
    return {
        name: (UNSET if name in usual and usual[name] == key[name] else key[name], key[name])
        for name in FLAGS
        if name in key and name not in fixed
    }


def plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def exact(value: Any) -> str:
    """As `plain`, with all digits where six are not enough."""
    return repr(value) if isinstance(value, float) and float(plain(value)) != value else plain(value)


def word(name: str, value: Any, figure: Callable[[Any], str] = plain) -> str:
    """ "E=5", "scaffold", "sign_flip attack", "no attack"; nothing for a switch that is off."""
    kind = FLAGS[name].metadata["kind"]
    if kind is SWITCH:
        return SAID.get(name, name.replace("_", " ")) if value else ""
    if value is None or value == ():
        return f"no {name}"
    if name == "batch_size" and value == 0:
        value = "all"
    text = "+".join(map(figure, value)) if isinstance(value, tuple) else figure(value)
    return SAID.get(name, "{}" if kind.metavar == "NAME" else f"{name}={{}}").format(text)


def shared_title(experiments: Sequence[Experiment]) -> str:
    """What the runs share: of each flag the value, where all that read it have the same; and all their seeds.

    What belongs to a name that only some of them have is said with this name: "dirichlet: alpha=0.1".
    """
    keys = [experiment.key for experiment in experiments]
    same: Values = {}
    for name in FLAGS:
        values = {key[name] for key in keys if name in key}
        if len(values) == 1:
            same[name] = values.pop()
    of_some: list[str] = []
    for name, value in list(same.items()):
        owners = [one for key in keys if name in key for one in owners_of(name, key)]
        if owners and not any(table in same for table, _ in owners):
            del same[name]
            if is_said(name, value):
                of_some.append(f"{' and '.join(dict.fromkeys(one for _, one in owners))}: {word(name, value)}")
    scripts = {key["script"] for key in keys}
    seeds = {run.flags["seed"] for experiment in experiments for run in experiment.runs}
    return title(same, scripts, seeds, of_some)


def owners_of(name: str, key: Values) -> list[tuple[str, str]]:
    """The (flag, value) pairs of an experiment that read --name, such as ("algorithm", "fedprox") for proximal_mu."""
    chosen = [(table, key[table]) for table in readers_of(name) if table in key]
    return [(table, str(one)) for table, one in chosen if one in readers_of(name)[table] or is_own(table, one)]


def run_title(config: Config, script: str) -> str:
    """What defines one run: a line for the title of its pictures."""
    flags = {name: value for name, value in asdict(config).items() if is_read(name, config, script)}
    return title(known_to_matter(flags, config), {script}, {config.seed})


def partition_title(config: Config) -> str:
    """What defines a partition."""
    names = ["dataset", "partition", *(n for n in FLAGS if "partition" in readers_of(n)), "num_clients"]
    flags = {n: getattr(config, n) for n in names if is_read(n, config, "federated")}
    said = [word(n, v) for n, v in known_to_matter(flags, config).items() if is_said(n, v)]
    return ", ".join([*said, said_seeds([config.seed])])


def known_to_matter(flags: Values, config: Config) -> Values:
    """The flags without those at their defaults that nothing but user-supplied code may read, which nobody knows."""
    chosen = {table: names_in(getattr(config, table)) for table in NAMES}
    doubtful = [
        name
        for name in flags
        if flags[name] == DEFAULTS[name]
        and (tables := readers_of(name))
        and not any(one in tables[table] for table in tables for one in chosen[table])
    ]
    return {name: value for name, value in flags.items() if name not in doubtful}


def title(flags: Values, scripts: Collection[str], seeds: Collection[int], of_some: Sequence[str] = ()) -> str:
    """ "fedavg, 2nn on mnist, shards, 2 shards a client, K=100, m=10, E=1, B=10, sgd, lr=0.1, seeds 0 to 2"."""
    names = [name for name in (*DEFINING, *FLAGS) if flags.get(name) is not None and is_said(name, flags[name])]
    said = {name: word(name, flags[name]) for name in names}
    if "model" in said and "dataset" in said:
        said["model"] += f" on {said.pop('dataset')}"
    centralised = [] if "federated" in scripts else ["centralised"]
    return ", ".join([*centralised, *filter(None, said.values()), *of_some, said_seeds(seeds)])


def is_said(name: str, value: Any) -> bool:
    """Whether a title has the flag: the defining ones always, others of their groups where they were changed."""
    group = FLAGS[name].metadata["group"]
    changed = value != DEFAULTS[name] and bool(FLAGS[name].metadata["experiment"])
    return (name in DEFINING and name not in OFF) or (
        changed and (group in GROUPS or name in ALSO) and name not in SEEN
    )


def said_seeds(seeds: Collection[int]) -> str:
    """ "seed 3", "seeds 0 to 4", "seeds 0, 2, 7"."""
    ordered = sorted(seeds)
    if len(ordered) == 1:
        return f"seed {ordered[0]}"
    if len(ordered) > 2 and ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"seeds {ordered[0]} to {ordered[-1]}"
    if len(ordered) > 8:
        return f"{len(ordered)} seeds"
    return "seeds " + ", ".join(map(str, ordered))
