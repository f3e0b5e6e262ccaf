"""What clients keep from round to round, on disk: a file for each client, so that no checkpoint rewrites them all."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fl.errors import RunFolderError
from fl.records import checkpoint
from fl.state import Kept


class ClientFiles:
    """The folder clients/ of a run: client k as it was after round t in `k-t.pt`.

    A checkpoint names the round of each client's file. New files are written before the checkpoint, and old ones are
    removed after it, so that the files that the last checkpoint names are there whenever the run is killed.
    """

    def __init__(self, folder: Path = Path()):
        self.folder = folder
        self.written: dict[int, tuple[dict[str, Any], int]] = {}  # by client: what its file holds, and the round

    def save(self, kept: Kept, t: int) -> dict[int, int]:
        """Write the clients that have changed since. Returns the round of every client's file."""
        for k, state in kept.clients.items():
            if k not in self.written or self.written[k][0] is not state:
                self.folder.mkdir(exist_ok=True)
                checkpoint.save(self.path(k, t), {"client": k, "round": t, "kept": state})
                self.written[k] = state, t
        return {k: self.written[k][1] for k in kept.clients}

    def load(self, rounds: Mapping[int, int]) -> dict[int, dict[str, Any]]:
        """What those clients keep, on the CPU. Raises RunFolderError for a file that is missing or damaged."""
        clients = {}
        for k, t in rounds.items():
            content = checkpoint.load(self.path(k, t))
            state = content.get("kept") if isinstance(content, dict) else None
            if not isinstance(state, dict) or content != {"client": k, "round": t, "kept": state}:
                raise RunFolderError(f"{self.path(k, t)}: is not of client {k} and round {t}; restore it from a copy")
            clients[k] = state
            self.written[k] = state, t
        return clients

    def drop_all_but(self, rounds: Mapping[int, int]) -> None:
        """Remove the files that these clients and rounds do not name."""
        if not self.folder.is_dir():
            return
        named = {self.path(k, t).name for k, t in rounds.items()}
        for path in self.folder.iterdir():
            if path.name not in named and path.match("*.pt*"):
                path.unlink(missing_ok=True)
        with suppress(OSError):  # it still holds files
            self.folder.rmdir()

    def path(self, k: int, t: int) -> Path:
        return self.folder / f"{k}-{t}.pt"
