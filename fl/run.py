"""What both scripts do around their loop: the screen, the run folder's life."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fl.errors import DivergedError, WorkerError
from fl.pictures import client_picture, ledger, plot
from fl.records.reading import EXPLODED, fell_below, summarise
from fl.records.tensorboard import tensorboard
from fl.signals import uninterrupted
from fl.streams import warn

if TYPE_CHECKING:
    from fl.config import Config
    from fl.experiment import Experiment
    from fl.personalise import Outcome
    from fl.record import RunFolder
    from fl.recorded import Round


def follow(
    config: Config,
    folder: RunFolder,
    rounds: Generator[Round],
    title: str,
    final_tests: Callable[[Round | None], Outcome | None] = lambda end: None,
) -> None:
    """Record and show every round, then sum the run up on disk and on the screen.

    final_tests: how the clients do after the last round, if a flag asks for it.
    """

    def say(text: str) -> None:
        if not config.quiet:
            print(text, flush=True)

    if folder.start:
        done_already = f", {why}: nothing to do" if (why := why_end(folder, config)) else ""
        say(f"resumed after round {folder.start.t}{done_already}")
    try:
        if not why_end(folder, config):
            board = tensorboard(folder.path, folder.records, config.tensorboard)
            # `closing` ends the generator here and not at its garbage collection, because workers wait for the end.
            with closing(rounds), board as write:
                for trained in rounds:
                    done = marked_if_exploded(trained, folder, config)
                    with uninterrupted():
                        folder.append(done)
                        write(done.record)
                    say(round_line(done.record, folder.rounds))
                    if why_end(folder, config):
                        break
        outcome = final_tests(folder.last)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"; continue with --resume --run_dir {folder.path}") from None
    except DivergedError as error:
        raise DivergedError(f"{error}; the rounds before it are in {folder.path}") from None
    except WorkerError as error:
        raise WorkerError(f"{error}; continue with --resume --run_dir {folder.path}") from None
    summary = folder.finish(outcome)
    save_pictures(folder, config, title, outcome)
    for line in last_lines(summary, folder, config):
        say(line)
    print(f"Test Accuracy = {summary['test_accuracy']:.2%}")
    print(f"Test Loss = {shown(summary['test_loss'], '.3f')}")


def why_end(folder: RunFolder, config: Config) -> str:
    """Why the run may end early, after a round that was evaluated; nothing if it may not."""
    if fell_below(folder.records, config.stop_below):
        return f"the best accuracy is below --stop_below {config.stop_below}"
    if folder.records and config.stop_at_target:
        to_target = summarise(folder.records, config.target_accuracy)["rounds_to_target"]
        return "" if None in to_target.values() else "every --target_accuracy is reached"
    return ""


def marked_if_exploded(done: Round, folder: RunFolder, config: Config) -> Round:
    """The round; if its loss is over EXPLODED times that of the untrained model, with "exploded" in its record.

    The first such round also prints a warning.
    """
    loss, first = largest_loss(done.record), folder.records[0]["test_loss"] if folder.records else None
    if first is None or math.isnan(first) or loss <= EXPLODED * first:
        return done
    if not any("exploded" in record for record in folder.records):
        warn(
            f"round {done.t}: the loss is {loss:.4g}, over {EXPLODED} times that of the untrained model; "
            f"training is diverging: --init_lr {config.init_lr:g} may be too large"
        )
    return replace(done, record=done.record | {"exploded": True})


def save_pictures(folder: RunFolder, config: Config, title: str, outcome: Outcome | None) -> None:
    """The pictures of a run that is over."""
    folder.picture("curves.png", lambda path: plot.save_curves(path, folder.records, title, config.target_accuracy))
    if ledger.has_ledger(folder.records):
        folder.picture("devices.png", lambda path: ledger.save_ledger(path, folder.records, title))
    if outcome:
        accuracies = {name: values.tolist() for name, values in outcome.accuracies.items()}
        if config.client_eval_every:
            save = client_picture.save_clients
            folder.picture("clients.png", lambda path: save(path, folder.records, accuracies["before"], title))
        if len(accuracies) > 1:
            save_all = client_picture.save_personalised
            folder.picture("personalised.png", lambda path: save_all(path, accuracies, title))


def last_lines(summary: dict[str, Any], folder: RunFolder, config: Config) -> Iterator[str]:
    """What the screen says of a run that is over, before its accuracy and its loss."""
    for target, rounds_needed in summary["rounds_to_target"].items():
        reached_in = "not reached" if rounds_needed is None else f"{rounds_needed:.2f} rounds"
        yield f"{float(target):.2%} test accuracy: {reached_in}"
    if "stopped_below" in summary:
        yield f"ended at round {summary['rounds']} of {folder.rounds}: {why_end(folder, config)}"
    for name, figures in summary.get("personalised", {}).items():
        yield clients_line(name, figures)
    yield f"{summary['wall_seconds']:.1f} s; model, records and curves in {folder.path}"


def largest_loss(record: dict[str, Any]) -> float:
    """The larger of the round's test and training loss, as far as they are known."""
    losses: list[float] = [record[key] for key in ("test_loss", "train_loss") if record[key] is not None]
    return max(losses, default=0.0)


def clients_line(name: str, figures: dict[str, float]) -> str:
    """One line on how the clients do with one kind of model."""
    mean, std, worst = (f"{figures[key]:7.2%}" for key in ("mean", "std", "worst_decile"))
    return f"clients, {name.replace('_', ' '):10s}  mean {mean}  std {std}  worst decile {worst}"


def shown(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)


def round_line(record: dict[str, Any], last: int) -> str:
    """One line a round: what matters most comes first, and what would not fit a terminal of 80 columns is left out."""
    clients, rejected = len(record["clients"]), len(record.get("rejected", ()))
    parts = [
        f"round {record['round']:{len(str(last))}d}/{last}",
        f"accuracy {shown(record['test_accuracy'], '6.2%')}",
        f"loss {shown(record['test_loss'], '.4f')}",
        f"train loss {shown(record['train_loss'], '.4f')}" if record["examples"] else "",
        f"{record['round_seconds'] + record['evaluate_seconds']:.1f} s",
        f"{rejected} rejected" if rejected else "",
        "abandoned" if "abandoned" in record else "",
        f"{clients} client{'s' * (clients > 1)}" if clients else "",
    ]
    line = ""
    for part in filter(None, parts):
        longer = f"{line}  {part}" if line else part
        if len(longer) > 80:
            break
        line = longer
    return line


def describe(x: Experiment, extra: str) -> str:
    """Three lines: the data set, `extra`, and the model with its device."""
    data = x.data
    proxy = f", and {len(x.proxy.train):,} that the server has" if x.proxy else ""
    return (
        f"{data.name}: {len(data.train):,} training and {len(data.test):,} test examples{proxy}, from {data.source}\n"
        f"{extra}\n"
        f"model of {x.parameters:,} parameters ({x.model_bytes:,} bytes) on {x.device}"
    )
