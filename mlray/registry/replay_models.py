"""Of the replay: how models and versions come, are labelled, take another name and go."""

from typing import Any

from mlray.registry.approvals import origin
from mlray.registry.tables import AuditRow

State = dict[str, dict[Any, Any]]
"""Per kind of thing, what is known of each."""
NOT_TOLD = "not told"
"""The record of a version whose row is older than the hash of records."""
_KEYED = ("version", "record", "description", "tag", "alias", "creation of", "last change of")
_LISTED = ("approval", "promotion")


def replay_model(told: State, row: AuditRow) -> None:
    """Tells what the row tells of models and versions; KeyError for an action that is none of theirs."""
    before, after = row.before or {}, row.after or {}
    match row.action:
        case "create_model":
            _make(told, row)
            _label(told, (row.model,), after)
        case "register" | "register_source" | "copy":
            _register(told, row, after)
        case "describe":
            _describe(told, _key(row.model, after), after["description"])
            told["last change of"][_key(row.model, after)] = row.at
        case "set_tag":
            told["tag"][*_key(row.model, after), after["key"]] = after["value"]
            told["last change of"][_key(row.model, after)] = row.at
        case "delete_tag":
            del told["tag"][*_key(row.model, before), before["key"]]
            told["last change of"][_key(row.model, before)] = row.at
        case "rename_model":
            _rename(told, row.model, after["name"])
            told["last change of"][after["name"],] = row.at
        case "renamed":
            pass  # the same change once more, under the new name
        case "delete_version":
            _forget(told, row.model, before["version"])
            told["last change of"][row.model,] = row.at
        case "delete_model":
            _forget(told, row.model)
            _retire(told, row.model, None)
        case action:
            raise KeyError(action)


def _make(told: State, row: AuditRow) -> None:
    last, _ = told["retired name"].pop(row.model, (0, None))
    told["model"].setdefault(row.model, last)
    told["creation of"].setdefault((row.model,), row.at)
    told["last change of"][row.model,] = row.at


def _register(told: State, row: AuditRow, after: dict[str, Any]) -> None:
    _make(told, row)
    key = (row.model, after["version"])
    told["creation of"][key] = told["last change of"][key] = row.at
    told["model"][row.model] = after["version"]
    told["version"][key] = ("None", 0, after["digest"], row.who)
    told["record"][key] = after.get("record", NOT_TOLD)
    told["author"].setdefault(origin(after["digest"], after.get("source", "")), set()).add(row.who)
    _label(told, key, after)


def _label(told: State, key: tuple[Any, ...], after: dict[str, Any]) -> None:
    _describe(told, key, after.get("description", ""))
    told["tag"] |= {(*key, name): value for name, value in after.get("tags", {}).items()}


def _describe(told: State, key: tuple[Any, ...], description: str) -> None:
    told["description"].pop(key, None)
    if description:
        told["description"][key] = description


def _rename(told: State, old: str, new: str) -> None:
    for kind in _KEYED:
        told[kind] = {(new, *key[1:]) if key[0] == old else key: value for key, value in told[kind].items()}
    for kind in _LISTED:
        told[kind] = {k: (new, *value[1:]) if value[0] == old else value for k, value in told[kind].items()}
    told["retired name"].pop(new, None)
    told["model"][new] = told["model"][old]
    _retire(told, old, new)


def _retire(told: State, name: str, became: str | None) -> None:
    retired = told["retired name"]
    for earlier, (last, now) in retired.items():
        if now == name:
            retired[earlier] = (last, became)
    retired[name] = (told["model"].pop(name), became)


def _forget(told: State, *what: str | int) -> None:
    """Drops a version, or a whole model, and what refers to it."""
    size = len(what)
    for kind in _KEYED:
        # A tag of a model is (model, key): no version, so that no version takes it along.
        told[kind] = {key: value for key, value in told[kind].items() if key[:size] != what}
    for kind in _LISTED:
        told[kind] = {key: value for key, value in told[kind].items() if value[:size] != what}
    told["alias"] = {key: version for key, version in told["alias"].items() if (key[0], version) != what}


def _key(model: str, row: dict[str, Any]) -> tuple[Any, ...]:
    return (model, row["version"]) if "version" in row else (model,)
