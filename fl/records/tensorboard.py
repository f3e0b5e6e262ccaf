"""The records of a run for TensorBoard: --tensorboard writes the numbers of metrics.jsonl a second time.

tensorboard --logdir runs
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fl.errors import FlagError

Write = Callable[[dict[str, Any]], None]
FOLDER = "tensorboard"  # in the run folder


@contextmanager
def tensorboard(folder: Path, records: Sequence[dict[str, Any]], wanted: bool) -> Iterator[Write]:
    """A context that gives a function to write a record for TensorBoard; it does nothing unless `wanted`.

    On entry an earlier TensorBoard folder is deleted and `records` are written again, so that a resumed run has each
    record once. Raises FlagError if the package is missing.
    """
    shutil.rmtree(folder / FOLDER, ignore_errors=True)  # what another run that was here has left, too
    if not wanted:
        yield lambda record: None
        return
    with summary_writer()(str(folder / FOLDER)) as writer:

        def write(record: dict[str, Any]) -> None:
            for key, value in record.items():
                if isinstance(value, int | float) and not isinstance(value, bool) and key != "round":
                    writer.add_scalar(key, value, record["round"], new_style=True, double_precision=True)
            writer.flush()

        for record in records:
            write(record)
        yield write


def summary_writer() -> Any:
    """TensorBoard's writer. Raises FlagError if it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise FlagError(f"--tensorboard: {error}; install it with: sh requirements.sh tensorboard") from None
    return SummaryWriter
