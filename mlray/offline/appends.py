"""Batches of many callers as one commit of a Delta table, each named batch counted once.

A batch's name is an application transaction of the commit. It is looked up in the very snapshot that is written onto,
and delta-rs refuses a commit where one of the same name came in between: so a name counts once, in any number of
processes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from mlray.errors import Conflict, MlrayError, StoreError, first_line
from mlray.offline.delta import MANAGED, conformed, exists
from mlray.offline.log import check_supported, schema_of
from mlray.offline.parquet import stored_schema

ATTEMPTS = 20
"""How often a commit is tried again because others changed the table meanwhile."""
_COMMIT = "mlray.commit"
"""Names a commit in its own metadata."""


@dataclass(frozen=True)
class Batch:
    """Rows, and the name under which they count once, if any."""

    rows: pa.Table
    name: str | None = None


@dataclass(frozen=True)
class Appended:
    """version: of the commit; None where every batch was there already. new: per batch whether this commit added it.
    schema: the columns that were written.
    """

    version: int | None
    new: tuple[bool, ...]
    schema: pa.Schema


class Appender:
    """The end of one Delta table: its columns, and appends to it. For one thread at a time.

    path: of the table, which the first append makes where there is none. who: for messages.
    """

    def __init__(self, path: str, who: str) -> None:
        self.path, self.who = path, who
        self._opened: DeltaTable | None = None
        self._seen: Any = None

    def schema(self, rows: pa.Schema) -> pa.Schema:
        """The table's columns; where there is no table yet, those of `rows` in types that Delta has."""
        opened = self._newest()
        return stored_schema(rows, self.who) if opened is None else schema_of(opened)

    def version(self) -> int | None:
        """The table's newest version; None where there is no table."""
        opened = self._newest()
        return None if opened is None else int(opened.version())

    def append(self, batches: Sequence[Batch]) -> Appended:
        """One commit of those batches whose names are new; of equal names the first counts.

        SchemaError where rows do not fit the table as it is now, Conflict where others keep changing it, StoreError
        where it cannot be written. After an error nothing is added.
        """
        for _ in range(ATTEMPTS):
            opened = self._newest()
            new = _unused(opened, batches)
            schema = stored_schema(batches[0].rows.schema, self.who) if opened is None else schema_of(opened)
            if not any(new):
                return Appended(None, new, schema)
            chosen = [batch for batch, wanted in zip(batches, new, strict=True) if wanted]
            rows = pa.concat_tables([fitted(batch.rows, schema, self.who) for batch in chosen])
            version = self._commit(opened, rows, [batch.name for batch in chosen if batch.name is not None])
            if version is not None:
                return Appended(version, new, schema)
        raise Conflict(f"{self.who}: other writers keep changing {self.path}; try again")

    def _commit(self, opened: DeltaTable | None, rows: pa.Table, names: Sequence[str]) -> int | None:
        """The version of the new commit; None where another writer was first and all is to be looked at again."""
        name = uuid4().hex
        properties = CommitProperties(
            custom_metadata={_COMMIT: name},
            app_transactions=[Transaction(one, 1) for one in names],
            # Else the slower of two that make a table would add its files to the other's as version 1.
            max_commit_retries=0 if opened is None else None,
        )
        try:
            if opened is None:
                write_deltalake(self.path, rows, mode="error", description=MANAGED, commit_properties=properties)
            else:
                write_deltalake(opened, rows, mode="append", commit_properties=properties)
        except CommitFailedError:
            self._opened = None
            return None
        except (DeltaError, OSError) as error:
            self._opened = None
            if opened is None and exists(self.path):
                return None
            raise StoreError(f"{self.who}: {self.path} cannot be written: {first_line(error)}") from error
        version = int(self._known(opened or self._open()).version())
        return version if name in self._entry(version) else self._looked_up(name, version)

    def _looked_up(self, name: str, newest: int) -> int:
        """The version of the commit of that name, where others have been added since."""
        for version in range(newest, -1, -1):
            if name in self._entry(version):
                return version
        raise MlrayError(f"the commit {name} is not in the log of {self.path}; was the log cleaned meanwhile?")

    def _newest(self) -> DeltaTable | None:
        """The table as it is now; None where there is none."""
        opened = self._opened
        if opened is not None and self._head(opened.version()) == self._seen:
            if self._head(opened.version() + 1) is None:  # an update would list the whole log
                return opened
            try:
                opened.update_incremental()
                return self._known(opened)
            except DeltaError:  # what was known of its log is gone
                self._opened = None
        if not exists(self.path):
            return None
        opened = self._open()
        check_supported(opened, f"{self.who}: the Delta table at {self.path} version {opened.version()}")
        return self._known(opened)

    def _known(self, opened: DeltaTable) -> DeltaTable:
        """Remembers the table, and what its newest log entry looks like: a table made anew has others."""
        self._opened, self._seen = opened, self._head(opened.version())
        return opened

    def _open(self) -> DeltaTable:
        try:
            return DeltaTable(self.path)
        except DeltaError as error:
            gone = "is gone" if isinstance(error, TableNotFoundError) else "cannot be read"
            raise StoreError(f"{self.who}: the Delta table at {self.path} {gone}: {first_line(error)}") from error

    def _head(self, version: int) -> Any:
        try:
            found = store_of(self.path).head(_entry_name(version))
        except (FileNotFoundError, BaseError):
            return None
        return found["e_tag"], found["last_modified"], found["size"]

    def _entry(self, version: int) -> str:
        return bytes(store_of(self.path).get(_entry_name(version)).bytes()).decode()


def fitted(rows: pa.Table, schema: pa.Schema, who: str) -> pa.Table:
    """`conformed`, at no cost for rows that are so already."""
    return rows if rows.schema.equals(schema) and not _nulls(rows, schema) else conformed(rows, schema, who)


def transaction(source: str, key: str | None) -> str | None:
    """The name of a batch of a source by its idempotency key."""
    return None if key is None else f"{source}:{key}"


def _nulls(rows: pa.Table, schema: pa.Schema) -> bool:
    """Whether a column that allows no nulls has one."""
    return any(not f.nullable and rows.column(i).null_count for i, f in enumerate(schema))


def _unused(opened: DeltaTable | None, batches: Sequence[Batch]) -> tuple[bool, ...]:
    found: list[bool] = []
    seen: set[str] = set()
    for batch in batches:
        name = batch.name
        used = name is not None and (name in seen or (opened is not None and opened.transaction_version(name)))
        found.append(not used)
        if name is not None:
            seen.add(name)
    return tuple(found)


def _entry_name(version: int) -> str:
    return f"_delta_log/{version:020}.json"


def store_of(path: str) -> Any:
    """The objects under the table's root."""
    return from_url(path) if "://" in path else LocalStore(Path(path).absolute())
