"""The run folder: what a run writes, and where it resumes."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fl import checkpoint
from fl.config import Config, identity, read_config
from fl.device import device_name
from fl.errors import FlagError, RunFolderError
from fl.files import locked, write_atomic
from fl.names import own_files
from fl.records import OURS, summarise
from fl.rounds import Round
from fl.task import Task


class RunFolder:
    """One run's folder, locked while it is open.

    facts: hashes of what the run trains on, kept in environment.json and compared on resume.
    notes: what else environment.json tells, such as the engine. rounds: how many the run is to have.
    After entering, `start` is the Round to go on from (None: from the beginning) and `records` are those
    already there.
    """

    def __init__(
        self, config: Config, script: str, task: Task, facts: dict[str, str], notes: dict[str, Any], rounds: int
    ):
        self.config, self.script, self.task, self.rounds = config, script, task, rounds
        self.facts, self.notes = facts, notes
        self.start: Round | None = None
        self.last: Round | None = None
        self.records: list[dict[str, Any]] = []
        self.earlier_seconds = 0.0
        self.saved_round = -1
        self.stack = ExitStack()
        self.began = time.perf_counter()

    def __enter__(self) -> RunFolder:
        with self.stack:
            try:
                self.path = self._open()
                self.stack.enter_context(locked(self.path / ".lock", wait=False))
                self._begin()
            except BlockingIOError:
                raise RunFolderError(f"{self.path}: another process is writing this run") from None
            except OSError as error:
                raise RunFolderError(f"{error.filename or '--run_dir'}: {error.strerror}") from None
            self.stack = self.stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        with self.stack:
            # Whatever ended the run, no completed round is lost, unless it was the disk that ended it.
            if self.last and self.last.t > self.saved_round:
                with suppress(OSError) if kind else nullcontext():
                    self._save_checkpoint()

    def _open(self) -> Path:
        c = self.config
        if c.run_dir is None:
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            base = Path(c.out_dir) / "-".join(filter(None, (stamp, self.script, c.name)))
            base.parent.mkdir(parents=True, exist_ok=True)
            for again in range(1, 1000):
                path = base if again == 1 else base.with_name(f"{base.name}-{again}")
                with suppress(FileExistsError):
                    path.mkdir()
                    return path
            raise RunFolderError(f"{base}: a thousand runs have this name; choose another --name")
        path = Path(c.run_dir)
        if path.is_dir() and any(path.iterdir()):
            if (path / "config.json").exists() and not c.resume:
                read_config(path)  # refuses a folder whose config.json is something else's
            elif not any((path / name).exists() for name in (*OURS, ".lock")):
                raise RunFolderError(f"--run_dir {path}: holds files that are not a run's; choose another folder")
            if not (c.resume or c.overwrite):
                raise RunFolderError(f"--run_dir {path}: holds a run; add --resume or --overwrite")
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _begin(self) -> None:
        for name in OURS:
            for stale in self.path.glob(f".{name}.*.tmp"):  # of a process that was killed while it wrote
                stale.unlink()
        if self.config.overwrite:
            for name in OURS:
                (self.path / name).unlink(missing_ok=True)
        resumed_at = self._restore() if self.config.resume else []
        # What was drawn and summed up speaks of an earlier end.
        (self.path / "summary.json").unlink(missing_ok=True)
        flags = dataclasses.asdict(self.config) | {"device": str(self.task.device), "run_dir": str(self.path)}
        self._write_json("config.json", {"script": self.script} | flags)
        self._write_json("environment.json", self._environment() | {"resumed_at_round": resumed_at})
        self.metrics = open(self.path / "metrics.jsonl", "ab")  # noqa: SIM115
        self.stack.callback(self._close_metrics)
        self.metrics_sha256 = hashlib.sha256((self.path / "metrics.jsonl").read_bytes())

    def _restore(self) -> list[int]:
        """Read the checkpoint and cut metrics.jsonl back to it. Returns the rounds at which the run was resumed."""
        environment, metrics = self.path / "environment.json", self.path / "metrics.jsonl"
        before = self._read_json(environment) if environment.exists() else {}
        for key, value in self.facts.items():
            if before.get(key, value) != value:
                raise RunFolderError(f"{environment}: the run had {key} {before[key]}, now it is {value}")
        now = self._environment()
        facts = ("torch", "device_name", "threads", "own_files")
        changed = [key for key in facts if before.get(key, now[key]) != now[key]]
        if changed:
            print(f"warning: {', '.join(changed)} changed since the run began: bits may differ", file=sys.stderr)
        resumed_at = before.get("resumed_at_round")
        if not isinstance(resumed_at, list):
            resumed_at = []
        path = self.path / "checkpoint.pt"
        if not path.exists():
            metrics.unlink(missing_ok=True)
            return resumed_at
        saved = checkpoint.load(path)
        # Flags that came after the run began had their defaults.
        defaults = identity(Config(), self.script)
        if defaults | saved["identity"] != identity(self.config, self.script):
            raise RunFolderError(
                f"{self.path / 'config.json'}: holds other flags than {path.name}, whose run it is not"
            )
        expected = {name: (tensor.shape, tensor.dtype) for name, tensor in self.task.w.items()}
        if {name: (tensor.shape, tensor.dtype) for name, tensor in saved["w"].items()} != expected:
            raise RunFolderError(f"{path}: holds another model than --model {self.config.model}")
        content = metrics.read_bytes()[: saved["metrics_bytes"]] if metrics.exists() else b""
        if hashlib.sha256(content).hexdigest() != saved["metrics_sha256"]:
            raise RunFolderError(f"{metrics}: is not what the run wrote before its checkpoint; restore it from a copy")
        write_atomic(metrics, content)
        self.records = [json.loads(line) for line in content.splitlines()]
        evaluated = self.records[-1]["test_accuracy"] is not None
        if self.rounds < saved["round"] + (not evaluated):
            flag = "--global_epoch" if self.script == "federated" else "--epoch"
            raise FlagError(
                f"{flag} {self.rounds}: the run in {self.path} has {saved['round']} rounds already"
                + ("" if evaluated else ", and the last is not evaluated; ask for one more")
            )
        w = {name: tensor.to(self.task.device) for name, tensor in saved["w"].items()}
        self.start = self.last = Round(saved["round"], self.records[-1], w, saved["carry"])
        self.saved_round, self.earlier_seconds = saved["round"], saved["wall_seconds"]
        return [*resumed_at, saved["round"]]

    @property
    def wall_seconds(self) -> float:
        """Time spent in this run, over all its resumptions, up to the last checkpoint of each."""
        return self.earlier_seconds + time.perf_counter() - self.began

    def append(self, done: Round) -> None:
        """Write the round's line, and a checkpoint if one is due. Raises RunFolderError if the disk refuses."""
        line = (json.dumps(finite(done.record), allow_nan=False) + "\n").encode()
        try:
            self.metrics.write(line)
            self.metrics.flush()
            self.metrics_sha256.update(line)
            self.records.append(done.record)
            self.last = done
            if done.t % self.config.checkpoint_every == 0:
                self._save_checkpoint()
        except OSError as error:
            raise RunFolderError(f"{self.path}: cannot be written ({error.strerror})") from None

    def _save_checkpoint(self) -> None:
        assert self.last
        os.fsync(self.metrics.fileno())  # the checkpoint pins its hash
        content = {
            "identity": identity(self.config, self.script),
            "round": self.last.t,
            "w": self.last.w,
            "carry": self.last.carry,
            "metrics_bytes": self.metrics.tell(),
            "metrics_sha256": self.metrics_sha256.hexdigest(),
            "wall_seconds": self.wall_seconds,
        }
        checkpoint.save(self.path / "checkpoint.pt", content)
        self.saved_round = self.last.t

    def _close_metrics(self) -> None:
        # Each line was flushed when it was written; if the disk refused one, that error is on its way already.
        with suppress(OSError):
            self.metrics.close()

    def picture(self, name: str, draw: Callable[[Path], None]) -> None:
        """Draw into the folder; a picture that cannot be written is no reason to lose a run."""
        try:
            draw(self.path / name)
        except OSError as error:
            print(f"warning: {self.path / name} not written ({error.strerror})", file=sys.stderr)

    def finish(self) -> dict[str, Any]:
        """Write the model and summary.json; returns the summary."""
        assert self.last
        summary = finite(
            summarise(self.records, self.config.target_accuracy)
            | {
                "wall_seconds": self.wall_seconds,
                "model_sha256": checkpoint.model_sha256(self.last.w),
                "parameters": self.task.parameters,
            }
        )
        try:
            if self.last.t > self.saved_round:
                self._save_checkpoint()
            buffer = io.BytesIO()
            torch.save({name: tensor.cpu().contiguous() for name, tensor in self.last.w.items()}, buffer)
            write_atomic(self.path / "model.pt", buffer.getvalue())
            self._write_json("summary.json", summary)
        except OSError as error:
            raise RunFolderError(f"{self.path}: cannot be written ({error.strerror})") from None
        return summary

    def _environment(self) -> dict[str, Any]:
        versions: dict[str, str | None] = {}
        for package in ("torchvision", "tqdm", "matplotlib"):
            with suppress(metadata.PackageNotFoundError):
                versions[package] = metadata.version(package)
        return {
            "python": platform.python_version(),
            "torch": torch.__version__,
            **versions,
            "platform": platform.platform(),
            "device": str(self.task.device),
            "device_name": device_name(self.task.device),
            "threads": torch.get_num_threads(),
            "git_commit": git_commit(),
            "data_source": self.task.data.source,
            "precision": self.config.precision,
            "own_files": own_files(self.config),
            **self.notes,
            **self.facts,
        }

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        write_atomic(self.path / name, (json.dumps(content, indent=2) + "\n").encode())

    def _read_json(self, path: Path) -> dict[str, Any]:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise RunFolderError(f"{path}: corrupt: not JSON; delete it to go on without it")
        return content


def finite(record: dict[str, Any]) -> dict[str, Any]:
    """The record with non-finite numbers as None, for JSON has no other word for them."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()
    }


def git_commit() -> str | None:
    """The commit of the code that runs, with "+changes" if the tree differs from it; None outside a checkout."""
    here = Path(__file__).resolve().parents[1]
    if not (here / ".git").exists() or shutil.which("git") is None:
        return None
    try:
        run = [
            subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10)
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.TimeoutExpired):
        return None
    if run[0].returncode:
        return None
    return run[0].stdout.strip() + ("+changes" if run[1].stdout.strip() else "")
