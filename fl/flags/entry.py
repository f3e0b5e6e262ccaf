"""A name's line in a table: what it names, and what that asks of other flags. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Flags: TypeAlias = Any  # a fl.config.Config, which is built from the tables below it, so that none can import it


@dataclass(frozen=True)
class Entry:
    """One name of a flag such as --algorithm. A plain string in a table is an Entry that asks for nothing.

    target: "module:object", imported when it is needed.
    needs: what other flags must be.
    defaults: of other flags, in place of their own.
    fixes: what other flags are under this name, whatever their defaults; `meaning` says it in the error message.
    reads: flags that only some names read, of this table or of another; given without such a name they are refused.
    made_of: of a data set, flags of the federation that its examples follow from. The baseline reads them, too, and
    takes them from the run that it matches.
    check: raises FlagError for what no line above can say.
    instead: the name that gives the same result with less work, if the flags are such that there is one.
    needs_stacking: whether only models that can be stacked will do.
    tokens: of a model or a data set, whether its inputs are tokens, such as characters, and not numbers.
    of_the_user: of a data set, whether --data_dir says which data they are, and not only where they lie.
    own_rate: of an algorithm, whether its --init_lr is another number than the step of plain SGD.
    leaks: why noise on the mean of the updates would not hide them; nothing where the mean is all that counts.
    reports: of a rule, how many clients must report in a round for it to withstand anything.
    sgd_lr: of a model, the --init_lr of --optimizer sgd if none is given.
    """

    target: str
    needs: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixes: Mapping[str, Any] = field(default_factory=dict)
    meaning: str = ""
    reads: tuple[str, ...] = ()
    made_of: tuple[str, ...] = ()
    check: Callable[[Flags], None] | None = None
    instead: Callable[[Flags], str | None] | None = None
    needs_stacking: bool = False
    tokens: bool = False
    of_the_user: bool = False
    own_rate: bool = False
    leaks: str = ""
    reports: Callable[[Flags], int] | None = None
    sgd_lr: float = 0.1


Table = Mapping[str, "str | Entry"]
