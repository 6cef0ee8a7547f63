"""The rules of the registry over its tables. Every change writes state and audit row in one transaction.

Numbers are given under the lock of the model's row and never taken back: versions are 1, 2, 3 without gaps.
Every change carries a `request`, the name of the call: the same request again (a retry whose first answer was
lost) changes nothing and answers what the first one did.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, select

from mlray.errors import Conflict, InvalidName, UnknownName
from mlray.registry.artifacts import ArtifactStore
from mlray.registry.audit import Change, append, applied, first_break
from mlray.registry.database import Database
from mlray.registry.model_version import ModelVersion, VersionRecord
from mlray.registry.reference import Reference, checked_name
from mlray.registry.tables import AliasRow, AuditHead, AuditRow, ModelRow, VersionRow

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_REQUEST = 255
MAX_SUGGESTIONS = 20
_INSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


class ModelRegistry:
    """Registers versions, resolves references, moves aliases. `clock` tells the aware time of a change."""

    def __init__(self, database: Database, artifacts: ArtifactStore, *, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._artifacts = artifacts
        self._clock = clock

    def register(self, name: str, record: VersionRecord, *, alias: str | None, request: str, who: str) -> ModelVersion:
        """The next version of `name`, at which `alias` points from then on.

        Needs the whole artifact in the store. A request that was served before answers the version of that
        time; Conflict where it comes again with another digest.
        """
        checked_name("model", name)
        _checked_request(request)
        if alias is not None:
            checked_name("alias", alias)
        self._artifacts.require(record.digest)
        with self._database.write() as session:
            model = _model_to_extend(session, name, at=self._now())
            earlier = applied(session, model=name, action="register", request=request)
            if earlier is not None:
                return _repeated(session, earlier, record.digest)
            return self._add_version(session, model, record, alias=alias, request=request, who=who)

    def get(self, reference: str) -> ModelVersion:
        """The version that `reference` names; UnknownName where there is none."""
        parsed = Reference.parse(reference)
        with self._database.read() as session:
            version = parsed.version
            if version is None:
                version = _alias(session, parsed.model, parsed.alias or "").version
            return _seen(session, _version(session, parsed.model, version))

    def versions(self, name: str | None = None) -> list[ModelVersion]:
        """The versions of one model, or of all, by name and number."""
        query = select(VersionRow).order_by(col(VersionRow.model), col(VersionRow.version))
        with self._database.read() as session:
            if name is not None:
                _model(session, name)
                query = query.where(VersionRow.model == name)
            aliases = _aliases(session, name)
            return [_view(row, aliases.get((row.model, row.version), ())) for row in session.exec(query)]

    def models(self) -> list[str]:
        """The names of all models, sorted."""
        with self._database.read() as session:
            return _names(session)

    def set_alias(self, name: str, alias: str, version: int, *, request: str, who: str) -> ModelVersion:
        """Points `alias` at a version of `name`, from wherever it pointed before."""
        checked_name("alias", alias)
        _checked_request(request)
        with self._database.write() as session:
            model = _model(session, name, lock=True)
            row = _version(session, name, version)
            if applied(session, model=name, action="set_alias", request=request) is None:
                self._point(session, model.name, alias, version, request=request, who=who)
            session.flush()
            return _seen(session, row)

    def remove_alias(self, name: str, alias: str, *, request: str, who: str) -> None:
        """Forgets `alias`; UnknownName where `name` has none of that name."""
        _checked_request(request)
        with self._database.write() as session:
            _model(session, name, lock=True)
            if applied(session, model=name, action="remove_alias", request=request) is not None:
                return
            row = _alias(session, name, alias)
            before = {"alias": alias, "version": row.version}
            session.delete(row)
            self._note(session, Change(who=who, action="remove_alias", model=name, request=request, before=before))

    def audit(self, name: str | None = None) -> list[dict[str, Any]]:
        """The changes of one model or all, oldest first: a mapping per audit row, `at` an aware datetime."""
        query = select(AuditRow).order_by(col(AuditRow.sequence))
        if name is not None:
            query = query.where(AuditRow.model == name)
        with self._database.read() as session:
            return [row.model_dump() | {"at": _instant(row.at)} for row in session.exec(query)]

    def check_audit(self) -> str | None:
        """What is wrong first with the audit chain; None for a whole one."""
        rows = select(AuditRow).order_by(col(AuditRow.sequence)).execution_options(yield_per=1000)
        with self._database.read() as session:
            return first_break(session.exec(rows), session.exec(select(AuditHead)).one())

    def _add_version(
        self,
        session: Session,
        model: ModelRow,
        record: VersionRecord,
        *,
        alias: str | None,
        request: str,
        who: str,
    ) -> ModelVersion:
        name = model.name
        model.last_version += 1
        row = VersionRow(model=name, version=model.last_version, author=who, created_at=self._now(), **_columns(record))
        session.add_all([model, row])
        session.flush()
        after = {"version": row.version, "digest": row.digest, "run_id": row.run_id}
        self._note(session, Change(who=who, action="register", model=name, request=request, after=after))
        if alias is not None:
            self._point(session, name, alias, row.version, request=request, who=who)
        session.flush()
        return _seen(session, row)

    def _point(self, session: Session, name: str, alias: str, version: int, *, request: str, who: str) -> None:
        row = session.get(AliasRow, (name, alias))
        before = None if row is None else {"alias": alias, "version": row.version}
        row = row or AliasRow(model=name, alias=alias, version=version)
        row.version = version
        session.add(row)
        after = {"alias": alias, "version": version}
        self._note(
            session,
            Change(who=who, action="set_alias", model=name, request=request, before=before, after=after),
        )

    def _note(self, session: Session, change: Change) -> None:
        append(session, change, at=self._now())

    def _now(self) -> int:
        return (self._clock() - EPOCH) // timedelta(microseconds=1)


def _model_to_extend(session: Session, name: str, *, at: int) -> ModelRow:
    """The model's row, made if need be, and locked until the transaction ends."""
    insert = _INSERT[session.get_bind().dialect.name](ModelRow)
    session.execute(insert.values(name=name, last_version=0, created_at=at).on_conflict_do_nothing())
    return _model(session, name, lock=True)


def _model(session: Session, name: str, *, lock: bool = False) -> ModelRow:
    query = select(ModelRow).where(ModelRow.name == name)
    row = session.exec(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise UnknownName.of("model", name, _names(session))
    return row


def _version(session: Session, name: str, version: int) -> VersionRow:
    row = session.get(VersionRow, (name, version))
    if row is None:
        _model(session, name)
        numbers = select(VersionRow.version).where(VersionRow.model == name)
        known = session.exec(numbers.order_by(col(VersionRow.version).desc()).limit(MAX_SUGGESTIONS))
        raise UnknownName.of("model version", f"{name}/{version}", (f"{name}/{number}" for number in known))
    return row


def _alias(session: Session, name: str, alias: str) -> AliasRow:
    row = session.get(AliasRow, (name, alias))
    if row is None:
        _model(session, name)
        known = session.exec(select(AliasRow.alias).where(AliasRow.model == name))
        raise UnknownName.of("alias", f"{name}@{alias}", (f"{name}@{one}" for one in known))
    return row


def _names(session: Session) -> list[str]:
    return list(session.exec(select(ModelRow.name).order_by(ModelRow.name)))


def _aliases(session: Session, name: str | None) -> dict[tuple[str, int], list[str]]:
    query = select(AliasRow) if name is None else select(AliasRow).where(AliasRow.model == name)
    found: dict[tuple[str, int], list[str]] = {}
    for row in session.exec(query):
        found.setdefault((row.model, row.version), []).append(row.alias)
    return found


def _repeated(session: Session, earlier: AuditRow, digest: str) -> ModelVersion:
    row = _version(session, earlier.model, (earlier.after or {})["version"])
    if row.digest != digest:
        raise Conflict(
            f"{row.model}: the idempotency key {earlier.request!r} stands for version {row.version} with "
            f"digest {row.digest}; it came again with digest {digest}; use a new key for a new checkpoint"
        )
    return _seen(session, row)


def _seen(session: Session, row: VersionRow) -> ModelVersion:
    return _view(row, _aliases(session, row.model).get((row.model, row.version), ()))


def _columns(record: VersionRecord) -> dict[str, Any]:
    return vars(record) | {"features": list(record.features)}


def _view(row: VersionRow, aliases: Iterable[str]) -> ModelVersion:
    columns = row.model_dump(exclude={"model", "created_at", "features"})
    return ModelVersion(
        name=row.model,
        features=tuple(row.features),
        created_at=_instant(row.created_at),
        aliases=tuple(sorted(aliases)),
        **columns,
    )


def _instant(microseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=microseconds)


def _checked_request(request: str) -> None:
    if not 1 <= len(request) <= MAX_REQUEST:
        raise InvalidName(f"an idempotency key has 1 to {MAX_REQUEST} characters, this one {len(request)}")
