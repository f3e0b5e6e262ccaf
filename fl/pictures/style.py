"""How every picture looks: matplotlib as it ships, colours, dashes, markers, sizes, and the bytes of a figure."""

from __future__ import annotations

import io
import logging
import os
import textwrap
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from fl.errors import FlagError
from fl.records.files import write_atomic
from fl.streams import warn

# Matplotlib reads the user's settings when it is imported: a backend that it does not know ends the import, and it
# complains of what it does not understand. The pictures use neither, so neither may stop or disturb a run.
os.environ["MPLBACKEND"] = "agg"
logging.getLogger("matplotlib").setLevel(logging.ERROR)
try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
except (OSError, ValueError) as error:
    raise FlagError(
        f"matplotlib: cannot be loaded ({error}); mend or remove the matplotlibrc that it finds "
        "(in this folder, MATPLOTLIBRC or MPLCONFIGDIR)"
    ) from None

# A picture is the same for everyone: the settings that matplotlib ships with, not those of a matplotlibrc. Type 42
# keeps letters as letters in a PDF, which publishers ask for; the salt gives an SVG the same names each time.
SHIPPED: dict[Any, Any] = {k: v for k, v in matplotlib.rcParamsDefault.items() if k != "backend"}
as_shipped = matplotlib.rc_context(SHIPPED | {"pdf.fonttype": 42, "svg.hashsalt": "fl"})

# Okabe and Ito (2008): told apart under every common colour blindness; markers and dashes do it without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# For labels, of which there are often ten. Petroff 2021, arXiv 2107.02270: told apart under colour blindness, too.
LABEL_COLOURS = ("#3F90DA", "#FFA90E", "#BD1F01", "#94A4A2", "#832DB6", "#A96B59", "#E76300", "#B9AC70", "#717581",
                 "#92DADD")  # fmt: skip
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*")
MOST_MARKERS = 12  # on a line; more would hide it


__all__ = [  # the others have matplotlib from here, because it must be imported as above
    "COLOURS", "LABEL_COLOURS", "MARKERS", "MOST_MARKERS", "SIZES", "Axes", "Figure", "FuncFormatter", "Line2D",
    "LogLocator", "MaxNLocator", "NullFormatter", "Patch", "Size", "Style", "as_shipped", "encoded", "matplotlib",
    "style",
]  # fmt: skip


class Style(NamedTuple):
    """How a line is drawn. number counts lines from 0, and says at which points they have their markers."""

    colour: str
    dashes: Any
    marker: str
    number: int = 0


def style(number: int) -> Style:
    """The style of a line. Seven colours, four dashes and nine markers go round at their own pace, so that the first
    252 lines all differ, and neighbours differ in all three."""
    return Style(COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)], MARKERS[number % len(MARKERS)], number)


class Size(NamedTuple):
    """Inches and points: of the whole picture's width, a panel's height, and the letters."""

    width: float
    panel_height: float
    font: float
    most_columns: int

    @property
    def settings(self) -> dict[Any, Any]:
        """Matplotlib's settings at this size."""
        small = self.font - 1
        return {
            "font.size": self.font, "axes.titlesize": self.font, "axes.labelsize": self.font, "legend.fontsize": small,
            "xtick.labelsize": small, "ytick.labelsize": small, "figure.titlesize": self.font,
            "legend.title_fontsize": small, "lines.linewidth": self.font / 6, "lines.markersize": self.font / 2.2,
            "axes.linewidth": self.font / 12,
        }  # fmt: skip


# The text of a two-column paper is 3.3 inches wide in a column and 6.9 across the page.
SIZES = {
    "column": Size(3.3, 2.1, 8, 1),
    "page": Size(6.9, 2.2, 8, 3),
    "sheet": Size(10.0, 3.1, 10, 4),
}

HARD_SPACE = "\N{NO-BREAK SPACE}"


def encoded(figure: Figure, path: Path, title: str = "") -> bytes:
    """The picture in the format that the path's name ends in: pdf, png or svg. The same figure has the same bytes."""
    kind = path.suffix[1:].lower()
    undated: dict[str, Any] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind, {})
    buffer = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(buffer, format=kind, dpi=200, metadata=undated | ({"Title": title} if title else {}))
    if any("missing from font" in str(one.message) for one in caught):
        warn(f"{path}: the font has not all of the letters; boxes take the place of the others")
    return buffer.getvalue()


def save(figure: Figure, path: Path, title: str, width: int = 100, below: str = "") -> None:
    """Write the picture under its title, whose lines have at most `width` letters, and another line below these."""
    lines = [*wrapped(title, width), *([below] if below else [])]
    figure.suptitle("\n".join(lines), parse_math=False)
    write_atomic(path, encoded(figure, path, title))


def wrapped(title: str, width: int) -> list[str]:
    """The title in lines of at most `width` letters; "seed 0" and other words between two commas stay together."""
    parts = [part.replace(" ", HARD_SPACE) if len(part) < width else part for part in title.split(", ")]
    return [line.replace(HARD_SPACE, " ") for line in textwrap.wrap(", ".join(parts), width, break_on_hyphens=False)]
