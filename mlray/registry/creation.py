"""Models and versions come to be: by registration, from a source without bytes, as a copy. None brings a stage, an
approval or an alias along; who did it is an author of the bytes from then on, for good.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlmodel import select

from mlray.errors import AlreadyExists, Conflict, SchemaError
from mlray.registry.approvals import add_author
from mlray.registry.labels import put_tag
from mlray.registry.model_version import VersionRecord
from mlray.registry.pickles import RECORDED
from mlray.registry.record import RECORD_FIELDS, columns, record_hash
from mlray.registry.reference import checked_name
from mlray.registry.tables import AuditRow, ModelRow, RetiredName, VersionRow, VersionTagRow
from mlray.registry.texts import checked_source, checked_tags, checked_text
from mlray.registry.transaction import Transaction

COPY_OF = "copy_of"
"""In the provenance of a copy: the version that it is a copy of. No caller's word."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What is said about a model or a version when it is made; InvalidName for what no database keeps."""

    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked_text("description", self.description)
        checked_tags(self.tags)

    def told(self) -> dict[str, Any]:
        """For the audit, without what is empty."""
        return {name: said for name, said in self.asked().items() if said is not None}

    def asked(self) -> dict[str, Any]:
        """As `told`, with None for what is empty: what the audit row of the same request has to say."""
        return {"description": self.description or None, "tags": dict(self.tags) or None}


def create_model(tx: Transaction, name: str, labels: Labels) -> ModelRow:
    """A model without versions; AlreadyExists where it is there."""
    if tx.session.get(ModelRow, checked_name("model", name)) is not None:
        raise AlreadyExists(f"there is a model '{name}' already; register a version of it, or choose another name")
    model = _new_model(tx, name)
    model.description = labels.description
    for key, value in labels.tags.items():
        put_tag(tx.session, model, key, value)
    tx.note("create_model", model=name, after=labels.told())
    return model


def add_version(tx: Transaction, action: str, name: str, record: VersionRecord, labels: Labels) -> VersionRow:
    """The next version of the model, which is made if need be; `action` is what the audit calls it."""
    model = tx.session.get(ModelRow, checked_name("model", name)) or _new_model(tx, name)
    model.last_version += 1
    model.updated_at = tx.at
    row = VersionRow(
        model=name, version=model.last_version, author=tx.caller.name, created_at=tx.at, updated_at=tx.at,
        description=labels.description, **columns(record),
    )  # fmt: skip
    tx.session.add_all([model, row])
    tx.session.flush()
    add_author(tx.session, row)
    for key, value in labels.tags.items():
        put_tag(tx.session, row, key, value)
    after = {"version": row.version, "digest": row.digest, "run_id": row.run_id, "record": record_hash(record)}
    facts = {"source": row.source, COPY_OF: row.provenance.get(COPY_OF), RECORDED: row.provenance.get(RECORDED)}
    said = {name: fact for name, fact in facts.items() if fact}
    tx.note(action, model=name, after=after | said | labels.told())
    return row


def copy_version(tx: Transaction, row: VersionRow, to: str) -> VersionRow:
    """The version's bytes as the next version of another model. Its provenance names the version it is a copy of."""
    values = {name: getattr(row, name) for name in RECORD_FIELDS}
    values["features"] = tuple(row.features)
    values["provenance"] = row.provenance | {COPY_OF: f"{row.model}/{row.version}"}
    here = (VersionTagRow.model == row.model, VersionTagRow.version == row.version)
    tags = {tag.key: tag.value for tag in tx.session.exec(select(VersionTagRow).where(*here))}
    return add_version(tx, "copy", to, VersionRecord(**values), Labels(description=row.description, tags=tags))


def source_record(source: str, run_id: str) -> VersionRecord:
    """The record of bytes that nobody has verified: all that is known is where they are said to be."""
    return VersionRecord(
        digest="", source=checked_source(source), run_id=run_id, service="", service_hash="", service_definition="",
        sources={}, fingerprint="", spine="", features=(), label="", metrics={}, config={}, provenance={}, signature={},
    )  # fmt: skip


def refuse_claims(record: VersionRecord) -> None:
    """SchemaError where a record with a digest names a source, from where MLflow's clients would load what was approved
    here; or says that it is a copy, which only `copy_version` knows.
    """
    if isinstance(record.provenance, Mapping) and COPY_OF in record.provenance:
        raise SchemaError(
            f"provenance says {COPY_OF}={record.provenance[COPY_OF]!r:.200}: that is the registry's own word for what "
            "it has copied; leave it out, or copy the version (`mlray model copy`)"
        )
    if record.source:
        raise SchemaError(f"source={record.source!r:.200}: a version with a digest has its bytes here, no source")


def made_before(tx: Transaction, earlier: AuditRow, **same: Any) -> VersionRow:
    """The version that the same request has made before.

    Conflict where it was deleted or renamed since, or where the request comes again with something else (`same`: by
    name, what the row says).
    """
    after = earlier.after or {}
    reference = f"{earlier.model}/{after['version']}"
    for name, now in same.items():
        if (then := after.get(name)) != now:
            raise Conflict(
                f"{earlier.model}: the idempotency key {earlier.request!r} stands for version {after['version']} with "
                f"{name} {then!s:.200}; it came again with {name} {now!s:.200}; use a new key for another version"
            )
    row = tx.session.get(VersionRow, (earlier.model, after["version"]))
    if row is None:
        raise Conflict(
            f"{earlier.model}: the idempotency key {earlier.request!r} stands for {reference}, which is deleted or "
            "renamed; use a new key"
        )
    return row


def _new_model(tx: Transaction, name: str) -> ModelRow:
    """The model's row. Its numbers go on where an earlier model of this name stopped."""
    retired = tx.session.get(RetiredName, name)
    last = 0
    if retired is not None:
        last = retired.last_version
        tx.session.delete(retired)
    model = ModelRow(name=name, last_version=last, created_at=tx.at, updated_at=tx.at)
    tx.session.add(model)
    tx.session.flush()
    return model
