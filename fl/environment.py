"""environment.json: what a run ran on and with, when it began and whenever it was resumed."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fl.device import device_name
from fl.errors import RunFolderError, reason
from fl.experiment import Experiment
from fl.names import own_files
from fl.noise import generator
from fl.records.strict_json import loads, read_regular

# A run's bits depend on these, beside its flags.
SHAPE_THE_BITS = ("torch", "device_name", "threads", "git_commit", "own_files")


def environment(x: Experiment) -> dict[str, Any]:
    """Versions, machine, code and data of this process."""
    versions: dict[str, str | None] = {}
    for package in ("torchvision", "tqdm", "matplotlib"):
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    noise = generator(x.config)
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        **versions,
        "platform": platform.platform(),
        "device": str(x.device),
        "device_name": device_name(x.device),
        "threads": torch.get_num_threads(),
        "git_commit": git_commit(),
        "data_source": x.data.source,
        "precision": x.config.precision,
        "own_files": own_files(x.config),
    } | ({"noise": noise} if noise else {})


def git_commit() -> str | None:
    """The commit of the code that runs, with "+changes" if the tree differs from it; None outside a checkout."""
    here = Path(__file__).resolve().parents[1]
    if not (here / ".git").exists() or shutil.which("git") is None:
        return None
    # git sets GIT_DIR and others for its hooks, and they may name another repository; a folder above this one may hold
    # another, too. And looking at the tree must not lock the index, because the user may be about to commit.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    variables |= {"GIT_CEILING_DIRECTORIES": str(here.parent), "GIT_OPTIONAL_LOCKS": "0"}
    try:
        head, status = (
            subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10, env=variables)
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    if head.returncode or status.returncode:
        return None
    return head.stdout.strip() + ("+changes" if status.stdout.strip() else "")


def read_environment(folder: Path) -> dict[str, Any]:
    """The environment.json of a run folder, empty if there is none. Raises RunFolderError if it is damaged."""
    path = folder / "environment.json"
    if not path.exists():
        return {}
    try:
        content = loads(read_regular(path))
        if not isinstance(content, dict):
            raise ValueError("not an object")
        rounds, changes = content.get("resumed_at_round", []), content.get("resumed_with", [])
        if not (isinstance(rounds, list) and all(type(t) is int for t in rounds)):
            raise ValueError("resumed_at_round is not a list of rounds")
        if not (isinstance(changes, list) and all(isinstance(change, dict) for change in changes)):
            raise ValueError("resumed_with is not a list of objects")
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be read ({reason(error)})") from None
    except ValueError as error:
        raise RunFolderError(f"{path}: corrupt: {reason(error)}; delete it to go on without it") from None
    return content


def check_facts(folder: Path, before: dict[str, Any], facts: dict[str, Any]) -> None:
    """Raise RunFolderError if what the run trains on is not what it was; a list of it may have grown."""
    for key, value in facts.items():
        was = before.get(key, value)
        grown = isinstance(was, list) and isinstance(value, list) and value[: len(was)] == was
        if was != value and not grown:
            shown = " ".join(str(was).split())[:80]
            raise RunFolderError(
                f"{folder / 'environment.json'}: the run had {key} {shown}, now it is {str(value)[:80]}; "
                "restore what it was, or choose another --run_dir"
            )


def changes(before: dict[str, Any], now: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """What is different from when the run began, facts apart."""
    return {key: value for key, value in now.items() if key not in facts and before.get(key, value) != value}


def warning(before: dict[str, Any], changed: dict[str, Any]) -> str | None:
    """One line on changes after which the result may differ in its last bits from that of an uninterrupted run."""
    told = [
        f"{key} {' '.join(str(before[key]).split())[:200]}, now {changed[key]}"
        for key in SHAPE_THE_BITS
        if key in changed and before[key] is not None
    ]
    return f"bits may differ, as this changed since the run began: {'; '.join(told)}" if told else None


def resumed(before: dict[str, Any], now: dict[str, Any], facts: dict[str, Any], t: int) -> dict[str, Any]:
    """environment.json of a run that goes on after round t: as when it began, and what was different each time since.

    resumed_with has an object for each of resumed_at_round; runs of earlier versions did not write it.
    """
    rounds, earlier = before.get("resumed_at_round", []), before.get("resumed_with", [])
    earlier = [{} for _ in rounds[len(earlier) :]] + earlier
    resumptions = {"resumed_at_round": [*rounds, t], "resumed_with": [*earlier, changes(before, now, facts)]}
    return now | before | facts | resumptions
