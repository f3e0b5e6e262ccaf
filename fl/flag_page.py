"""The page of all flags, out of the table of flags: `python3 -m fl.flag_page > docs/flags.md`. Imports no torch."""

from __future__ import annotations

from typing import Any

from fl.check import defaults_of, readers_of
from fl.config import DEFAULTS, FLAGS
from fl.names import entry_of

HEAD = """\
# Flags

`run_federated.py` and `run_baseline.py` take the same flags, so that one command line can be given to both. The column
"for" names the script in which a flag has an effect. `--help` prints the same table, which stands in
[fl/config.py](../fl/config.py); `python3 -m fl.flag_page > docs/flags.md` makes this page out of it.

A preset is a file of flags. Write `@FILE` and the flags in it are read as if you had typed them there; later flags
override them. In the file `#` starts a comment, quotes keep words together, and a backslash is an ordinary character:

    python3 run_federated.py @configs/mnist_2nn_iid.txt --seed 1

`FILE.py:NAME` is something that you wrote yourself: see [your own parts](code.md#your-own-parts).
"""
COLUMNS = "| flag | default | values | for | what it does |\n|---|---|---|---|---|"


def page() -> str:
    """The page in Markdown: a table for each group of flags, in the order of --help."""
    groups = dict.fromkeys(field.metadata["group"] for field in FLAGS.values())
    return HEAD + "".join(f"\n## {group}\n\n{COLUMNS}\n{_rows(group)}" for group in groups)


def _rows(group: str) -> str:
    return "".join(_row(name) for name, field in FLAGS.items() if field.metadata["group"] == group)


def _row(name: str) -> str:
    """The flag's line. A value's own default, such as that of one algorithm, stands beside the flag's."""
    meta = FLAGS[name].metadata
    defaults = [_written(DEFAULTS[name]), *(f"{_written(own)} for `{one}`" for one, own in defaults_of(name).items())]
    tables = readers_of(name).items()
    remarks = [meta["help"], *(f"for `--{table}` {', '.join(f'`{one}`' for one in names)}" for table, names in tables)]
    script = "both" if len(meta["reads"]) == 2 else meta["reads"][0]
    if made := [one for one in FLAGS["dataset"].metadata["kind"].table if name in entry_of("dataset", one).made_of]:
        script += f"; both for `--dataset` {', '.join(f'`{one}`' for one in made)}"
    cells = [f"`--{name}`", ", ".join(filter(None, defaults)), meta["kind"].accepts, script, "; ".join(remarks)]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _written(value: Any) -> str:
    """A default as one would type it; nothing for a flag without one."""
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    print(page(), end="")
