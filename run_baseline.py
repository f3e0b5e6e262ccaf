#!/usr/bin/env python3
"""Train the same model on all the data at once, for comparison, and print test accuracy and loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fl.guard import leave, main

if TYPE_CHECKING:
    from fl.config import Config


def train(config: Config) -> None:
    """Epochs of minibatch training, an epoch being a round; with --match, rounds as long as that run's."""
    # Imported only now: --help and wrong flags answer without waiting for torch.
    from fl.bar import Bar
    from fl.baseline import centralised_rounds
    from fl.comparing.labels import run_title
    from fl.experiment import centralised
    from fl.plan import baseline_plan, boundaries, matched_examples, stream_steps
    from fl.record import RunFolder
    from fl.run import describe, follow

    x = centralised(config)
    matched = matched_examples(config)
    ends = boundaries(config, x.n, matched)
    if config.dry_run:
        print(baseline_plan(x, ends))
        return

    bar = Bar(config.quiet)
    facts = x.facts if matched is None else x.facts | {"matched_examples": matched}
    with RunFolder("baseline", x, facts, {}, len(ends)) as folder:
        if not config.quiet:
            print(describe(x, f"centralised: {x.n:,} examples in one place"))
        rounds = centralised_rounds(x, ends, folder.start, tick=bar)
        rounds = bar.over(rounds, lambda t: stream_steps(config, x.n, ends, t), folder.first, folder.rounds)
        follow(config, folder, rounds, run_title(config, "baseline"))


def run(argv: Sequence[str] | None = None) -> int:
    """The exit code of the command line `argv` (default: this process's)."""
    return main(argv, "baseline", __doc__ or "", train)


if __name__ == "__main__":
    leave(run())
