"""Descriptions and tags of models and of versions: words, which no rule ever reads. No gate, no approval and no alias
is made of them.
"""

from sqlmodel import Session

from mlray.errors import UnknownName
from mlray.registry.lookup import model_row, version_row
from mlray.registry.tables import ModelRow, ModelTagRow, VersionRow, VersionTagRow
from mlray.registry.texts import checked_key, checked_text
from mlray.registry.transaction import Transaction

START = 64
"""So many characters of a tag's value are in the index that searches it."""
Labelled = ModelRow | VersionRow


def labelled(session: Session, name: str, version: int | None) -> Labelled:
    """The model, or one version of it."""
    return model_row(session, name) if version is None else version_row(session, name, version)


def describe(tx: Transaction, what: Labelled, description: str) -> None:
    """Another description; nothing where it says the same already."""
    checked_text("description", description)
    place = _place(what)
    if what.description == description:
        tx.unchanged("describe", model=_model(what), after=place | {"description": description})
        return
    before, what.description = what.description, description
    _touch(tx, what)
    tx.note(
        "describe",
        model=_model(what),
        before=place | {"description": before},
        after=place | {"description": description},
    )


def set_tag(tx: Transaction, what: Labelled, key: str, value: str) -> None:
    """A tag, over the one of this key; nothing where it says the same already."""
    key, value = checked_key(key), checked_text(f"tag '{key}'", value)
    tag, place = _tag(tx.session, what, key), _place(what)
    if tag is not None and tag.value == value:
        tx.unchanged("set_tag", model=_model(what), after=place | {"key": key, "value": value})
        return
    before = None if tag is None else place | {"key": key, "value": tag.value}
    put_tag(tx.session, what, key, value)
    _touch(tx, what)
    tx.note("set_tag", model=_model(what), before=before, after=place | {"key": key, "value": value})


def delete_tag(tx: Transaction, what: Labelled, key: str) -> None:
    """No tag of this key any more; UnknownName where there is none."""
    tag, place = _tag(tx.session, what, key), _place(what)
    if tag is None:
        raise UnknownName(f"{'/'.join(map(str, (_model(what), *place.values())))} has no tag '{key:.100}' to delete")
    before = place | {"key": key, "value": tag.value}
    tx.session.delete(tag)
    _touch(tx, what)
    tx.note("delete_tag", model=_model(what), before=before)


def put_tag(session: Session, what: Labelled, key: str, value: str) -> None:
    """Writes a tag, without a word in the audit: for who writes that word."""
    tag = _tag(session, what, key)
    if tag is None and isinstance(what, VersionRow):
        tag = VersionTagRow(model=what.model, version=what.version, key=key, start="", value="")
    tag = tag or ModelTagRow(model=_model(what), key=key, start="", value="")
    tag.start, tag.value = value[:START], value
    session.add(tag)


def _tag(session: Session, what: Labelled, key: str) -> ModelTagRow | VersionTagRow | None:
    if isinstance(what, VersionRow):
        return session.get(VersionTagRow, (what.model, what.version, key))
    return session.get(ModelTagRow, (what.name, key))


def _touch(tx: Transaction, what: Labelled) -> None:
    what.updated_at = tx.at
    tx.session.add(what)


def _model(what: Labelled) -> str:
    return what.model if isinstance(what, VersionRow) else what.name


def _place(what: Labelled) -> dict[str, int | str]:
    return {"version": what.version} if isinstance(what, VersionRow) else {}
