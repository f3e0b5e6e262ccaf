"""The run folder: what a run writes, and where it resumes."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

from fl.client import first_names
from fl.config import Config, identity
from fl.config_file import read_config
from fl.environment import changes, check_facts, environment, read_environment, resumed, warning
from fl.errors import FlagError, RunFolderError, reason
from fl.experiment import Experiment
from fl.personalise import Outcome
from fl.recorded import Round
from fl.records import checkpoint
from fl.records.client_files import ClientFiles
from fl.records.files import clear_stale, locked, temporary_names, write_atomic
from fl.records.journal import Journal
from fl.records.reading import DIVERGED, OURS, fell_below, parse_lines, summarise
from fl.records.strict_json import read_regular
from fl.restore import restore
from fl.streams import warn


class RunFolder:
    """One run's folder, locked while it is open.

    facts: what the run trains on, as hashes or lists, kept in environment.json and compared on resume.
    notes: what else environment.json tells, such as the engine. rounds: how many the run is to have.
    After entering, `start` is the Round to go on from (None: from the beginning) and `records` are those
    already there.
    """

    def __init__(self, script: str, x: Experiment, facts: dict[str, Any], notes: dict[str, Any], rounds: int):
        self.config, self.script, self.x, self.rounds = x.config, script, x, rounds
        self.facts, self.notes = facts, notes
        self.start: Round | None = None
        self.last: Round | None = None
        self.records: list[dict[str, Any]] = []
        self.earlier_seconds = 0.0
        self.saved_round = -1
        self.clients = ClientFiles()
        self.stack = ExitStack()
        self.began = time.perf_counter()

    def __enter__(self) -> RunFolder:
        with self.stack:
            try:
                self.path = self._open()
                self.clients.folder = self.path / "clients"
                self.stack.enter_context(locked(self.path / ".lock", wait=False))
                check_folder(self.path, self.config)  # again, because another run may have come and gone since
                self._begin()
            except BlockingIOError:
                raise RunFolderError(f"{self.path}: another process is writing this run") from None
            except OSError as error:
                raise RunFolderError(f"{error.filename or '--run_dir'}: {reason(error)}") from None
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
        check_folder(path, c)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _begin(self) -> None:
        now = environment(self.x) | self.notes | self.facts
        lines = b""
        if self.config.resume:
            before = read_environment(self.path)
            check_facts(self.path, before, self.facts)
            lines = self._restore()
            if self.start:
                if told := warning(before, changes(before, now, self.facts)):
                    warn(told)
                now = resumed(before, now, self.facts, self.start.t)
        # Up to here nothing has changed. From here on the folder is a run's at every moment: it has a config.json.
        clear_stale(self.path, OURS)
        if self.config.overwrite:
            for name in reversed(OURS[1:]):  # the checkpoint first: without it nothing can go on from the old run
                (self.path / name).unlink(missing_ok=True)
        # These tell of an earlier end of the run. They go before there are flags of a longer run, because with those
        # they would say that it is finished.
        for name in ("summary.json", "client_accuracy.json", DIVERGED):
            (self.path / name).unlink(missing_ok=True)
        flags = dataclasses.asdict(self.config) | {"device": str(self.x.device), "run_dir": str(self.path)}
        self._write_json("config.json", {"script": self.script} | flags)
        self.clients.drop_all_but({k: t for k, (_, t) in self.clients.written.items()})
        self._write_json("environment.json", {"resumed_at_round": [], "resumed_with": []} | now)
        write_atomic(self.path / "metrics.jsonl", lines)
        self.metrics = Journal(self.path / "metrics.jsonl", lines)
        self.stack.callback(self.metrics.close)

    def _restore(self) -> bytes:
        """Read the checkpoint, if there is one, and return the lines of metrics.jsonl that were there before it."""
        path, metrics = self.path / "checkpoint.pt", self.path / "metrics.jsonl"
        if not path.exists():
            return b""
        saved = restore(path, self.script, self.x, self.clients)
        lines = read_regular(metrics)[: saved.metrics_bytes] if metrics.exists() else b""
        if len(lines) != saved.metrics_bytes or hashlib.sha256(lines).hexdigest() != saved.metrics_sha256:
            raise RunFolderError(f"{metrics}: is not what the run wrote before its checkpoint; restore it from a copy")
        self.records = parse_lines(metrics, lines, saved.round)
        evaluated = self.records[-1]["test_accuracy"] is not None
        if self.rounds < saved.round + (not evaluated):
            length = f"--{'global_epoch' if self.script == 'federated' else 'epoch'} {self.rounds}"
            asked = f"--match {self.config.match}" if self.config.match else length
            raise FlagError(
                f"{asked}: the run in {self.path} has {saved.round} rounds already"
                + ("" if evaluated else ", and the last is not evaluated; ask for one more")
            )
        w = {name: tensor.to(self.x.device) for name, tensor in saved.w.items()}
        self.start = self.last = Round(saved.round, self.records[-1], w, saved.kept)
        self.saved_round, self.earlier_seconds = saved.round, saved.wall_seconds
        return lines

    @property
    def first(self) -> int:
        """The round to begin with: 0 is the initial model."""
        return self.start.t + 1 if self.start else 0

    @property
    def wall_seconds(self) -> float:
        """Time spent in this run, over all its resumptions, up to the last checkpoint of each."""
        return self.earlier_seconds + time.perf_counter() - self.began

    def append(self, done: Round) -> None:
        """Write the round's line, and a checkpoint if one is due. Raises RunFolderError if the disk refuses."""
        line = (json.dumps(finite(done.record), allow_nan=False) + "\n").encode()
        try:
            self.metrics.append(line)
            self.records.append(done.record)
            self.last = done
            if done.t % self.config.checkpoint_every == 0:
                self._save_checkpoint()
        except OSError as error:
            raise RunFolderError(f"{self.path}: cannot be written ({reason(error)})") from None

    def _save_checkpoint(self) -> None:
        assert self.last
        self.metrics.sync()  # the checkpoint pins its hash
        clients = self.clients.save(self.last.kept, self.last.t)
        content = {
            "identity": identity(self.config, self.script),
            "round": self.last.t,
            "w": self.last.w,
            "kept": {"server": self.last.kept.server, "clients": clients},
            "metrics_bytes": self.metrics.size,
            "metrics_sha256": self.metrics.sha256,
            "wall_seconds": self.wall_seconds,
        }
        checkpoint.save(self.path / "checkpoint.pt", content)
        self.clients.drop_all_but(clients)
        self.saved_round = self.last.t

    def picture(self, name: str, draw: Callable[[Path], None]) -> None:
        """Draw into the folder; a picture that cannot be written is no reason to lose a run."""
        try:
            draw(self.path / name)
        except OSError as error:
            warn(f"{self.path / name} not written ({reason(error)})")

    def finish(self, outcome: Outcome | None = None) -> dict[str, Any]:
        """Write the model, summary.json and how the clients do; returns the summary."""
        assert self.last
        least = self.config.stop_below
        summary = finite(
            summarise(self.records, self.config.target_accuracy)
            | {
                "wall_seconds": self.wall_seconds,
                "model_sha256": checkpoint.model_sha256(self.last.w),
                "parameters": self.x.parameters,
            }
            | ({"stopped_below": least} if self.last.t < self.rounds and fell_below(self.records, least) else {})
            | (outcome.summary(self.config) if outcome else {})
        )
        try:
            if self.last.t > self.saved_round:
                self._save_checkpoint()
            buffer = io.BytesIO()
            w = {name: tensor.cpu().contiguous() for name, tensor in self.last.w.items()}
            torch.save({name: w[first] for name, first in first_names(self.x.model).items()}, buffer)
            write_atomic(self.path / "model.pt", buffer.getvalue())
            if outcome:
                write_atomic(self.path / "client_accuracy.json", outcome.as_json())
            self._write_json("summary.json", summary)
        except OSError as error:
            raise RunFolderError(f"{self.path}: cannot be written ({reason(error)})") from None
        return summary

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        write_atomic(self.path / name, (json.dumps(content, indent=2) + "\n").encode())


def check_folder(path: Path, config: Config) -> None:
    """Raise RunFolderError unless `path` is free for this run: nothing is there, or a run that the flags speak of.

    A run's folder has a config.json that a run wrote. A run that was killed before it wrote that file has left at most
    its lock and an unfinished config.json, because it writes nothing else earlier.
    """
    if not path.is_dir():
        return
    if (path / "config.json").exists():
        read_config(path)  # raises RunFolderError if it is something else's
        if not (config.resume or config.overwrite):
            raise RunFolderError(f"--run_dir {path}: holds a run; add --resume or --overwrite")
        return
    for entry in path.iterdir():
        if entry.name != ".lock" and not entry.match(temporary_names("config.json")):
            raise RunFolderError(
                f"--run_dir {path}: holds files that are not a run's, such as {entry.name}, and no config.json; "
                "choose another folder"
            )


def finite(record: dict[str, Any]) -> dict[str, Any]:
    """The record with None in place of numbers that are not finite, because JSON cannot express them."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()
    }
