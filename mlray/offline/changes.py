"""What happened to a Delta table between two of its versions, by its log."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from obstore.store import LocalStore, from_url

from mlray.errors import MlrayError
from mlray.offline import delta

Action = dict[str, Any]
_Kind = Literal["append", "rewrite", "nothing", "change"]


def appended(table: delta.Table, since: int, who: str) -> tuple[delta.File, ...] | None:
    """The files with the rows that were appended after version `since`, up to that of `table`, oldest commit first.

    None where rows were changed or removed in between, or where the log no longer says. Commits that only rewrote
    files, as OPTIMIZE does, add nothing.
    """
    kinds = [_kind(entry(table.path, version)) for version in range(since + 1, table.version + 1)]
    if "change" in kinds:
        return None
    try:
        if "rewrite" not in kinds:
            return _added(table, delta.table_at(table.path, who, since))
        return tuple(
            file
            for version, kind in enumerate(kinds, since + 1)
            if kind == "append"
            for file in _added(delta.table_at(table.path, who, version), delta.table_at(table.path, who, version - 1))
        )
    except MlrayError:  # a version that the cleaned log no longer gives
        return None


def entry(path: str, version: int) -> list[Action] | None:
    """The actions of one commit; None where the log no longer has it."""
    store: Any = from_url(path) if "://" in path else LocalStore(Path(path).absolute())
    try:
        text = bytes(store.get(f"_delta_log/{version:020}.json").bytes()).decode()
    except FileNotFoundError:
        return None
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _kind(actions: Sequence[Action] | None) -> _Kind:
    if actions is None:
        return "change"
    adds = [action["add"].get("dataChange", True) for action in actions if "add" in action]
    removes = [action["remove"].get("dataChange", True) for action in actions if "remove" in action]
    if not any(adds + removes):
        return "rewrite" if adds or removes else "nothing"
    return "append" if all(adds) and not removes else "change"


def _added(after: delta.Table, before: delta.Table) -> tuple[delta.File, ...]:
    known = {file.path for file in before.files}
    return tuple(file for file in after.files if file.path not in known)
