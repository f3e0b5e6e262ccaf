"""The table of a comparison: on the screen, in Markdown, for LaTeX, and in full precision as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from statistics import mean, stdev
from typing import NamedTuple

from fl.comparing.compared import Experiment
from fl.records.reading import summarise


class Quantity(NamedTuple):
    """A column: its name in files and on the screen, what the screen multiplies it with, and how it writes it."""

    name: str
    heading: str
    scale: float
    spec: str


class Row(NamedTuple):
    """An experiment: its label, its seeds, and each quantity's value for every seed, None where it was not reached."""

    label: str
    seeds: list[int]
    values: dict[Quantity, list[float | None]]


LONG = 1e9  # digits before the point are no longer read from here on

# In files accuracy is in [0, 1] and traffic in bytes, as in the records.
ENDS = (
    Quantity("test_accuracy", "accuracy %", 100, ".2f"),
    Quantity("best_test_accuracy", "best %", 100, ".2f"),
    Quantity("test_loss", "loss", 1, ".4f"),
    Quantity("rounds", "rounds", 1, ".9g"),
)
# How clients do on their own tests: by the model that they are tested with, and a figure over them.
CLIENTS = {
    (model, key): Quantity(f"client_{model}_{key}", heading, 100, ".2f")
    for model, key, heading in (
        ("before", "mean", "clients %"), ("before", "worst_decile", "their worst %"),
        ("after", "mean", "tuned %"), ("after", "worst_decile", "tuned worst %"),
        ("local_only", "mean", "alone %"), ("local_only", "worst_decile", "alone worst %"),
    )
}  # fmt: skip
SUMS = (
    Quantity("examples", "examples", 1, ",.0f"),
    Quantity("local_steps", "steps", 1, ",.0f"),
    Quantity("downlink_bytes", "MB down", 1e-6, ".3f"),
    Quantity("uplink_bytes", "MB up", 1e-6, ".3f"),
    Quantity("round_seconds", "seconds", 1, ".1f"),
)


def measured(experiments: dict[str, Experiment], targets: Sequence[float]) -> list[Row]:
    """One row per experiment; it has how clients do on their own tests if any run has that.

    A run that diverged has no figures, because its records end with an earlier model.
    """
    reached = {target: Quantity(f"rounds_to_{target!r}", f"to {target!r}", 1, ".1f") for target in targets}
    tested = {model for _, runs in experiments.values() for run in runs for model in run.clients}
    of_clients = {key: q for key, q in CLIENTS.items() if key[0] in tested}
    rows = []
    for label, (_, runs) in experiments.items():
        told = (*ENDS, *reached.values(), *of_clients.values(), *SUMS)
        values: dict[Quantity, list[float | None]] = {q: [] for q in told}
        for run in runs:
            found: dict[Quantity, float | None] = {}
            if not run.diverged:
                end = summarise(run.records, targets)
                found |= {q: end[q.name] for q in ENDS}
                found |= {q: end["rounds_to_target"][repr(target)] for target, q in reached.items()}
                found |= {q: run.clients[model][key] for (model, key), q in CLIENTS.items() if model in run.clients}
                found |= {q: sum(record[q.name] for record in run.records) for q in SUMS}
            for q, of_seeds in values.items():
                of_seeds.append(found.get(q))
        rows.append(Row(label, [run.flags["seed"] for run in runs], values))
    return rows


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """The heading and one line per experiment, as the screen and LaTeX show them."""
    heading = ["run", "n", *(quantity.heading for quantity in rows[0].values)]
    return [heading] + [
        [row.label, str(len(row.seeds)), *(spread(scaled(values, q.scale), q.spec) for q, values in row.values.items())]
        for row in rows
    ]


def scaled(values: Sequence[float | None], scale: float) -> list[float | None]:
    return [None if value is None else value * scale for value in values]


def spread(values: Sequence[float | None], spec: str) -> str:
    """ "mean ± sample standard deviation", without the latter for one value or equal ones; "-" for none."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    text = figure(mean(known), spec)
    if len(known) > 1 and stdev(known) > 0:
        text += f" ± {figure(stdev(known), spec)}"
    if len(known) < len(values):
        text += f" ({len(known)} of {len(values)})"
    return text


def figure(value: float, spec: str) -> str:
    """The number as `spec` has it, but for a loss that exploded, which is said in powers of ten."""
    if spec.endswith("g"):  # a count, whose mean over seeds may have a part of one
        return format(round(value, 1), spec)
    if abs(value) < LONG or "," in spec:
        return format(value, spec)
    return format(value, "+.2e" if spec.startswith("+") else ".2e")


def on_screen(rows: Sequence[Row]) -> str:
    return aligned(cells(rows))


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns of equal width; numbers are aligned at the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def as_markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table of Markdown, with the first of the lines as its heading; numbers are aligned at the right."""
    heading, *body = [[escaped(cell) for cell in line] for line in lines]
    rules = ["---", *["---:"] * (len(heading) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (heading, rules, *body))


def escaped(text: str) -> str:
    """The text for Markdown, which gives some signs a meaning of its own."""
    # An underscore within a word is only that; at either end of one it would be emphasis.
    return re.sub(r"([\\|*<`~&$[]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", text)


def as_csv(rows: Sequence[Row]) -> str:
    """One line per experiment: each quantity's mean, sample standard deviation and the number of seeds that have it.

    Every digit counts: reading a number back gives the same one. What is not known is empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [quantity.name for quantity in rows[0].values]
    writer.writerow(["experiment", "seeds", *(f"{name}_{part}" for name in names for part in ("mean", "std", "n"))])
    for row in rows:
        line: list[object] = [row.label, " ".join(map(str, row.seeds))]
        for values in row.values.values():
            known = [value for value in values if value is not None]
            line += [mean(known) if known else "", stdev(known) if len(known) > 1 else "", len(known)]
        writer.writerow(line)
    return text.getvalue()


# All that LaTeX gives a meaning of its own, and the signs of this table that it writes in mathematics.
LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\char34{}", "±": r"$\pm$", "[": "{[}", "]": "{]}", "*": "{*}",
}  # fmt: skip


def as_latex(rows: Sequence[Row]) -> str:
    """A tabular with the rules of the package booktabs, and the figures of the screen."""
    heading, *body = [["".join(LATEX.get(one, one) for one in cell) for cell in line] for line in cells(rows)]
    lines = [" & ".join(line) + r" \\" for line in body]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}; mean $\pm$ sample standard deviation over n seeds",
            rf"\begin{{tabular}}{{l{'r' * (len(heading) - 1)}}}",
            r"\toprule",
            " & ".join(heading) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )
