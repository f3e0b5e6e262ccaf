"""The lines of plays, character by character: --dataset shakespeare, or any play by --text FILE. A client is a role.

The task of McMahan et al. 2017 (arXiv 1602.05629), section 3, on a smaller text: docs/shakespeare.md says what differs.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from data.dataset import IGNORED, Dataset, Split
from data.download import Wanted, found_or_fetched, from_url, lying_in
from fl.errors import DataError, reason

UNROLL = 80
FILE = "input.txt"
URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def shakespeare(data_dir: Path, text: str | None = None) -> Dataset:
    """Sequences of 80 characters as integers (n, 80), and of each character the next one as the target (n, 80).

    A role with two lines or more is a client, and a line is a line of text under its name. The first 80 % of a role's
    lines are for training and the others, one at least, for the test. Each of the two parts is one text, newlines
    included, cut into sequences that follow each other: every character but the first of a part is predicted once. The
    last sequence of a part is filled up with targets that do not count, so that no role loses text and none of it
    counts twice. Classes are the characters of the training parts in order, and one more, the last, for all others.

    text: another play, in place of the one that is found in `data_dir` or fetched. Raises DataError.
    """
    content, source = known_text(data_dir) if text is None else own_text(f"--text {text}", Path(text))
    train, test = [], []
    for lines in roles(content, source).values():
        cut = max(4 * len(lines) // 5, 1)  # in integers, so that 80 % of them is never one less
        train.append(code_points(lines[:cut]))
        test.append(code_points(lines[cut:]))
    characters = torch.cat(train).unique()
    counts = torch.tensor([sequences(len(part)) for part in train])
    return Dataset(
        "shakespeare",
        cut_up(train, characters),
        cut_up(test, characters),
        classes=len(characters) + 1,
        source=source,
        clients=torch.arange(len(train)).repeat_interleave(counts),
    )


def known_text(data_dir: Path) -> tuple[str, str]:
    """The public text, out of Shakespeare/raw/input.txt in `data_dir` or fetched into it, and where it came from."""
    folder, sha256 = data_dir / "Shakespeare" / "raw", {FILE: SHA256}
    wanted = Wanted("Shakespeare", data_dir, folder, sha256, [(URL, lambda: {FILE: from_url(URL)})])
    files, source = found_or_fetched(wanted, lambda: lying_in(folder, sha256))
    return files[FILE].decode(), source


def own_text(said: str, file: Path) -> tuple[str, str]:
    try:
        return file.read_bytes().decode("utf-8-sig"), said
    except OSError as error:
        raise DataError(f"{said}: cannot be read ({reason(error)})") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{said}: is not UTF-8 (at byte {error.start}); convert it to UTF-8") from None


def roles(content: str, source: str) -> dict[str, list[str]]:
    """The lines of each role that has two or more, in the order of their entrances. Raises DataError if there is none.

    A name stands on a line of its own, after an empty one, and ends with a colon; its lines follow. Roles of one name
    are one role, because the text does not say where one play ends and the next begins.
    """
    spoken: dict[str, list[str]] = {}
    lines, before = None, ""
    for line in content.replace("\r\n", "\n").split("\n"):
        said = line.strip()
        if said.endswith(":") and not before:
            lines = spoken.setdefault(said[:-1], [])
        elif said and lines is not None:
            lines.append(line)
        before = said
    if not spoken:
        raise DataError(f"{source}: no speakers found; expected NAME: on a line of its own after an empty line")
    long_enough = {name: lines for name, lines in spoken.items() if len(lines) >= 2}
    if not long_enough:
        raise DataError(f"{source}: none of the {len(spoken)} roles has two lines, one to train and one for the test")
    return long_enough


def code_points(lines: list[str]) -> Tensor:
    """(N,) int32: the characters of the lines, each with a newline at its end."""
    return torch.frombuffer(bytearray("".join(f"{line}\n" for line in lines).encode("utf-32-le")), dtype=torch.int32)


def sequences(characters: int) -> int:
    """How many sequences a text of `characters` characters makes; its first character is only an input."""
    return -(-(characters - 1) // UNROLL)


def cut_up(parts: list[Tensor], characters: Tensor) -> Split:
    """The sequences of all the parts, one part after another. parts: code points (N,) each. characters: ascending."""
    lengths = [sequences(len(part)) * UNROLL for part in parts]
    inputs, targets = torch.zeros(sum(lengths), dtype=torch.int64), torch.full((sum(lengths),), IGNORED)
    for x, y, part in zip(inputs.split(lengths), targets.split(lengths), parts, strict=True):
        tokens = torch.searchsorted(characters, part)
        tokens[characters[tokens.clamp(max=len(characters) - 1)] != part] = len(characters)
        x[: len(part) - 1] = tokens[:-1]
        y[: len(part) - 1] = tokens[1:]
    return Split(inputs.view(-1, UNROLL), targets.view(-1, UNROLL))
