"""What `mlray model` does, and how its results are shown."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlray.errors import InvalidQuery
from mlray.registry.client import Registry
from mlray.registry.model_version import ModelVersion, RegisteredModel
from mlray.registry.query import ModelQuery, Order, TagWhere, VersionQuery, Where
from mlray.registry_commands import registry_of
from mlray.screen import Screen
from mlray.settings import Settings


def run(verb: str, config: Path, as_json: bool, arguments: Mapping[str, Any]) -> int:
    """Does a verb; gives the exit code."""
    _VERBS[verb](Screen(as_json), registry_of(Settings.load(config)), **arguments)
    return 0


def create(screen: Screen, registry: Registry, name: str, description: str, tags: Sequence[str]) -> None:
    screen.show("created", [_model(registry.create(name, description=description, tags=dict(map(_pair, tags))))])


def list_(screen: Screen, registry: Registry, pattern: str | None, tags: Sequence[str], limit: int) -> None:
    page = registry.search_models(ModelQuery(where=_where(pattern, {}, tags), limit=limit))
    screen.show("models", [_model(model) for model in page.items], _more(page.next_page_token))


def search(
    screen: Screen,
    registry: Registry,
    pattern: str | None,
    asked: Mapping[str, str | None],
    tags: Sequence[str],
    newest: bool,
    limit: int,
) -> None:
    order = (Order(field="created_at", descending=True),) if newest else ()
    page = registry.search(VersionQuery(where=_where(pattern, asked, tags), order_by=order, limit=limit))
    screen.show("versions", [_version(version) for version in page.items], _more(page.next_page_token))


def describe(screen: Screen, registry: Registry, what: str, text: str) -> None:
    registry.describe(what, text)
    _show(screen, registry, what)


def tag(screen: Screen, registry: Registry, what: str, tags: Sequence[str]) -> None:
    for key, value in [_pair(one) for one in tags]:
        registry.tag(what, key, value)
    _show(screen, registry, what)


def untag(screen: Screen, registry: Registry, what: str, keys: Sequence[str]) -> None:
    for key in keys:
        registry.untag(what, key)
    _show(screen, registry, what)


def copy(screen: Screen, registry: Registry, version: str, to: str) -> None:
    screen.show("copied", [_version(registry.copy(version, to))])


def rename(screen: Screen, registry: Registry, name: str, new_name: str, why: str) -> None:
    screen.show("renamed", [_model(registry.rename(name, new_name, why=why))])


def delete(screen: Screen, registry: Registry, what: str, why: str) -> None:
    if _is_model(what):
        registry.delete(what, why=why)
        screen.show("deleted", [{"model": what}])
    else:
        version = registry.get(what)
        registry.delete_version(version, why=why)
        screen.show("deleted", [{"version": version.reference}])


_VERBS: Mapping[str, Callable[..., None]] = {
    "create": create,
    "list": list_,
    "search": search,
    "describe": describe,
    "tag": tag,
    "untag": untag,
    "copy": copy,
    "rename": rename,
    "delete": delete,
}


def _show(screen: Screen, registry: Registry, what: str) -> None:
    shown = _model(registry.model(what)) if _is_model(what) else _version(registry.get(what))
    screen.show(what, [shown])


def _is_model(what: str) -> bool:
    return "/" not in what and "@" not in what


def _where(
    pattern: str | None, asked: Mapping[str, str | None], tags: Sequence[str]
) -> tuple[Where | TagWhere, ...]:
    fields = {"name": pattern, **asked}
    likes = {"name": "LIKE"}
    wheres = [
        Where(field=field, operator=likes.get(field, "="), value=value)  # type: ignore[arg-type]  # plain texts
        for field, value in fields.items()
        if value is not None
    ]
    return (*wheres, *(TagWhere(key=key, operator="=", value=value) for key, value in map(_pair, tags)))


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise InvalidQuery(f"a tag is written key=value, not {text!r}")
    return key, value


def _more(token: str | None) -> Mapping[str, str] | None:
    return None if token is None else {"more": "there are more; ask for them with --limit"}


def _model(model: RegisteredModel) -> dict[str, Any]:
    return {
        "model": model.name,
        "last version": model.last_version,
        "aliases": ", ".join(f"{alias}: {version}" for alias, version in sorted(model.aliases.items())),
        "tags": _tags(model.tags),
        "updated": model.updated_at.isoformat(timespec="seconds"),
        "description": model.description,
    }


def _version(version: ModelVersion) -> dict[str, Any]:
    return {
        "version": version.reference,
        "stage": version.stage,
        "aliases": ", ".join(version.aliases),
        "tags": _tags(version.tags),
        "author": version.author,
        "created": version.created_at.isoformat(timespec="seconds"),
        "run": version.run_id,
        "bytes": version.digest[:12] or f"not verified: {version.source}",
        "description": version.description,
    }


def _tags(tags: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(tags.items()))
