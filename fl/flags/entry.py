"""A name's line in a table: what it names, and what that asks of other flags. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Flags: TypeAlias = Any  # a fl.config.Config, which is built from the tables below it, so that none can import it


@dataclass(frozen=True)
class Entry:
    """One value of a flag such as --algorithm. A plain string in a table is an Entry without any conditions.

    target: "module:object", imported when it is needed.
    needs: the values that other flags must have.
    defaults: defaults of other flags under this name, in place of their own.
    fixes: the values that other flags always have under this name; `meaning` says so in the error message.
    reads: flags that do nothing without this name or another one that reads them; without such a name they are refused.
    made_of: for a data set, the federation flags from which its examples are generated. The baseline reads them, too,
    and takes them from the run that it matches.
    check: raises FlagError for conditions that the fields above cannot express.
    instead: returns a cheaper name that gives the same result with these flags, or None.
    needs_stacking: whether the model must be one that can be stacked.
    tokens: for a model or a data set, whether its inputs are tokens, such as characters, and not numbers.
    of_the_user: for a data set, whether --data_dir says which data to use, and not only where known data lie.
    own_rate: for an algorithm, whether --init_lr is not the learning rate of plain SGD, so that no baseline copies it.
    leaks: why noise on the mean does not protect the clients, as the end of an error message; "" if it does.
    reports: for an aggregation rule, the number of reports below which it withstands no attacker.
    sgd_lr: for a model, the default --init_lr with --optimizer sgd.
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
