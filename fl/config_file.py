"""config.json, the flags of a run: read back from its folder, and checked like typed ones."""

from __future__ import annotations

from pathlib import Path
from reprlib import repr as short
from typing import Any

from fl.config import DEFAULTS, FLAGS, check_value
from fl.errors import FlagError, RunFolderError, reason
from fl.flags.flag import SWITCH, Kind
from fl.records.strict_json import loads, read_regular

LONGEST_NAME = 4096


def read_config(folder: str | Path) -> dict[str, Any]:
    """The recorded flags of a run folder, checked like typed ones, and its script under the key "script".

    A recorded name, such as that of a model, may not exist any more, or only in a later version; fl.names.check_names
    checks that. Raises RunFolderError if there is no config.json, or if it is not one that a run wrote.
    """
    path = Path(folder) / "config.json"
    try:
        recorded = loads(read_regular(path))
        if not isinstance(recorded, dict) or recorded.get("script") not in ("federated", "baseline"):
            raise ValueError("not a run's flags")
        unknown = sorted(set(recorded) - set(FLAGS) - {"script"})
        if unknown:
            raise ValueError(f"has flags that this version does not know: {', '.join(map(short, unknown[:5]))}")
        return DEFAULTS | {k: v if k == "script" else _recorded(k, v) for k, v in recorded.items()}
    except (OSError, ValueError, FlagError) as error:
        raise RunFolderError(f"{path}: cannot be read ({reason(error)}); expected the folder of a run") from None


def _recorded(name: str, value: Any) -> Any:
    """A value of config.json, which must be what the flag's text would have become: "3" and true are no integers."""
    field = FLAGS[name]
    kind, many = field.metadata["kind"], field.metadata["many"]
    if kind is SWITCH:
        good = isinstance(value, bool)
    elif many:
        good = isinstance(value, list) and all(_is_typed(kind, one) for one in value)
    else:
        good = _is_typed(kind, value) or (value is None and field.default is None)
    if not good:
        accepts = "true or false" if kind is SWITCH else f"a list, each {kind.accepts}" if many else kind.accepts
        raise FlagError(f"--{name} {short(value)}: expected {accepts}")
    if kind is SWITCH or kind.table is not None or value is None:
        return tuple(value) if many else value
    return check_value(name, value)


def _is_typed(kind: Kind, value: Any) -> bool:
    """Whether the value, written as text, is parsed to itself; a name only has to look like one."""
    if kind.table is not None:
        return isinstance(value, str) and value.isprintable() and 0 < len(value) <= LONGEST_NAME
    try:
        return type(value) in (int, float, str) and bool(kind.parse(str(value)) == value)
    except ValueError:
        return False
