"""What both scripts do around their loop: errors and signals, the screen, the run folder's life."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

from fl.command_line import parse
from fl.config import Config
from fl.errors import INTERRUPTED, DivergedError, FlagError, RunFolderError, RunnerError, reason

if TYPE_CHECKING:
    from fl.record import RunFolder
    from fl.rounds import Round
    from fl.task import Task


def main(argv: Sequence[str] | None, script: str, description: str, train: Callable[[Config], None]) -> int:
    """The exit code of a training script: parse the flags, then train."""
    words = sys.argv[1:] if argv is None else argv
    return guarded(f"run_{script}.py", lambda: train(parse(words, script, description)))


def guarded(name: str, work: Callable[[], None]) -> int:
    """Run `work` and turn what a user can cause into one line on stderr and an exit code."""
    try:
        with interruptible():
            work()
            sys.stdout.flush()
    except RunnerError as error:
        print(f"{name}: {one_line(error)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        print(f"{name}: interrupted{''.join(interrupt.args)}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        silence_stdout()
        return INTERRUPTED
    except OSError as error:
        silence_stdout()
        print(f"{name}: {error.filename or 'output'}: {reason(error)}", file=sys.stderr)
        return RunFolderError.exit_code
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not out_of_memory(error):
            raise
        advice = "lower --batch_size, --local_epoch or --num_clients, or choose a smaller --model"
        print(f"{name}: out of memory ({one_line(error)[:120]}); {advice}", file=sys.stderr)
        return FlagError.exit_code
    return 0


def silence_stdout() -> None:
    """The reader of our output has gone; without this Python complains again when it flushes at exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def out_of_memory(error: RuntimeError) -> bool:
    text = str(error).lower()
    return "out of memory" in text or "not enough memory" in text or "can't allocate memory" in text


STOPPING = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C, and what schedulers send
asked: list[int] = []  # which of them came, and are not yet obeyed


@contextmanager
def handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """`handler` for the signals of STOPPING while inside, but for those that whoever started us, as nohup, ignores."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def remember(number: int, frame: FrameType | None) -> None:
    asked.append(number)


def interrupt(number: int, frame: FrameType | None) -> None:
    remember(number, frame)
    raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise KeyboardInterrupt, and are remembered until `obey`.

    Python drops an exception that is raised in a destructor, and a signal may come just then.
    """
    asked.clear()
    with handled(interrupt):
        yield


def obey() -> None:
    """Raise KeyboardInterrupt if a signal asked for it that nothing came of."""
    if asked:
        raise KeyboardInterrupt


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block is done: a round's line and its checkpoint belong together."""
    with handled(remember):
        yield
    obey()


def follow(config: Config, folder: RunFolder, rounds: Generator[Round], title: str) -> None:
    """Record and show every round, then sum the run up on disk and on the screen."""
    from fl.plot import save_curves
    from fl.records import summarise

    def say(text: str) -> None:
        if not config.quiet:
            print(text, flush=True)

    def reached() -> bool:
        """Whether the run may end early: every target is reached, at a round that was evaluated."""
        if not folder.records:
            return False
        to_target = summarise(folder.records, config.target_accuracy)["rounds_to_target"]
        return config.stop_at_target and None not in to_target.values()

    if folder.start:
        done_already = ", every --target_accuracy is reached: nothing to do" if reached() else ""
        say(f"resumed after round {folder.start.t}{done_already}")
    try:
        if not reached():
            with closing(rounds):  # at once, not when it is collected: workers wait for the word
                for done in rounds:
                    with uninterrupted():
                        folder.append(done)
                    say(round_line(done.record))
                    if reached():
                        break
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"; continue with --resume --run_dir {folder.path}") from None
    except DivergedError as error:
        raise DivergedError(f"{error}; the rounds before it are in {folder.path}") from None
    summary = folder.finish()
    folder.picture("curves.png", lambda path: save_curves(path, folder.records, title, config.target_accuracy))
    for target, rounds_needed in summary["rounds_to_target"].items():
        reached_in = "not reached" if rounds_needed is None else f"{rounds_needed:.2f} rounds"
        say(f"{float(target):.2%} test accuracy: {reached_in}")
    say(f"{summary['wall_seconds']:.1f} s; model, records and curves in {folder.path}")
    print(f"Test Accuracy = {summary['test_accuracy']:.2%}")
    print(f"Test Loss = {shown(summary['test_loss'], '.3f')}")


def shown(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)


def round_line(record: dict[str, Any]) -> str:
    """One line a round."""
    clients = record["clients"]
    parts = [
        f"round {record['round']:4d}",
        f"test accuracy {shown(record['test_accuracy'], '7.2%')}",
        f"test loss {shown(record['test_loss'], '.4f')}",
        f"train loss {shown(record['train_loss'], '.4f')}",
        f"{record['examples']:,} examples" + (f" on {len(clients)} clients" if clients else ""),
        *([f"{len(record['rejected'])} rejected"] if "rejected" in record else []),
        f"{record['round_seconds'] + record['evaluate_seconds']:.1f} s",
    ]
    return "  ".join(parts)


class Bar:
    """A tqdm bar over the steps of each round; silent when stderr is not a terminal."""

    def __init__(self, quiet: bool):
        from tqdm import tqdm

        self.bar = tqdm(unit="step", leave=False, disable=True if quiet else None, mininterval=0.2)

    def __call__(self) -> None:
        self.bar.update()

    def over(self, rounds: Generator[Round], steps: Callable[[int], int]) -> Generator[Round]:
        """The same rounds, the bar reset before each; steps(t) is the number of steps of round t."""
        with closing(rounds):
            for done in rounds:
                self.bar.clear()
                yield done
                self.bar.reset(steps(done.t + 1))
        self.bar.close()


def describe(task: Task, extra: str) -> str:
    """One line on what is trained, on what and where."""
    data = task.data
    return (
        f"{data.name}: {len(data.train):,} training and {len(data.test):,} test examples, from {data.source}\n"
        f"{extra}\n"
        f"model of {task.parameters:,} parameters ({task.model_bytes:,} bytes) on {task.device}"
    )
