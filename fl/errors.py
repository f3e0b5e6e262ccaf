"""What a user can cause. Each error is one line on stderr and an exit code; none is a traceback."""

import os


class RunnerError(Exception):
    """An expected failure: its text is the one line that the user reads."""

    exit_code = 1


class FlagError(RunnerError):
    """A flag, or a combination of flags, cannot be used."""

    exit_code = 2


class DataError(RunnerError):
    """A data set is missing or corrupt."""

    exit_code = 3


class RunFolderError(RunnerError):
    """A run folder or a checkpoint cannot be used."""

    exit_code = 4


class DivergedError(RunnerError):
    """Training produced a non-finite model."""

    exit_code = 5


class WorkerError(RunnerError):
    """A worker died or stopped answering."""

    exit_code = 6


INTERRUPTED = 130


def reason(error: BaseException) -> str:
    """What went wrong, in words and on one line. An OSError may come without words; str() would then say None."""
    words = getattr(error, "strerror", None)
    if not words and isinstance(error, OSError) and error.errno is not None:
        words = os.strerror(error.errno)
    return " ".join(str(words or error).split()) or type(error).__name__
