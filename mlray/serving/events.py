"""Events over HTTP: from the bytes of a JSON body to rows of a source's table, handed to the writer.

    {"rows": [{...}, ...], "idempotency_key": "..."}      the key may also be the header Idempotency-Key

A row holds every column of the table, each perhaps null; the source's `known_at` may be left out of all rows. Types are
as in requests for predictions: see `request`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any

import pyarrow as pa
from starlette.concurrency import run_in_threadpool

from mlray.errors import Forbidden, InvalidRequest, TableNotFound
from mlray.features.applied import Applied
from mlray.features.source import DeltaSource
from mlray.ingest import Ingested
from mlray.offline import delta
from mlray.offline.appends import Appender
from mlray.serving.config import Config
from mlray.serving.request import checked_rows, read_object, table

KEYS = ("rows", "idempotency_key")
EXAMPLE = '{"rows": [{...}], "idempotency_key": "..."}'
LONGEST_KEY = 255

Put = Callable[[DeltaSource, pa.Table, str | None], Awaitable[Ingested]]
"""Takes the rows of a call and its idempotency key; answers when they can be read."""


@dataclass(frozen=True)
class _Call:
    source: DeltaSource
    rows: pa.Table
    key: str | None


class Events:
    """The sources in force in a lake, as far as the configuration lets them be written. put: to whom rows go."""

    def __init__(self, lake: str, config: Config, put: Put) -> None:
        self._lake, self._config, self._put = lake, config, put
        self._applied = Applied(lake)
        self._tables: dict[str, Appender] = {}
        self._looking = Lock()

    async def ingest(self, name: str, body: bytes, header: str | None = None) -> Ingested:
        """Adds the rows of a body to the source of this name.

        UnknownName; Forbidden where the source may not be written here; InvalidRequest, SchemaError, TimeError and
        RequestTooLarge for what is wrong with the body; TableNotFound before the source has a table.
        """
        call = await run_in_threadpool(self._parsed, name, body, header)
        return await self._put(call.source, call.rows, call.key)

    def _parsed(self, name: str, body: bytes, header: str | None) -> _Call:
        source = self._applied.source(name)
        allowed = self._config.ingest
        if allowed is not True and (allowed is False or name not in allowed):
            raise Forbidden(
                f"this server takes no events of source '{name}'; let it: ingest = [\"{name}\"], or true for all, in "
                "[serving], and mind that it asks for no credentials"
            )
        asked = read_object(body, KEYS, EXAMPLE)
        rows = checked_rows(asked.get("rows"), self._config.max_events)
        fields = {field.name: field.type for field in self._schema(source)}
        if source.known_at in fields and not any(isinstance(row, dict) and source.known_at in row for row in rows):
            del fields[source.known_at]
        return _Call(source, table(rows, fields), _key(asked.get("idempotency_key"), header))

    def _schema(self, source: DeltaSource) -> pa.Schema:
        path, who = delta.resolve(self._lake, source.path), f"source {source.name}"
        with self._looking:
            appender = self._tables.setdefault(path, Appender(path, who))
            if appender.version() is None:
                raise TableNotFound(
                    f"{who}: there is no Delta table at {path} yet, and JSON does not say the types of its columns; "
                    "ingest its first rows with platform.ingest"
                )
            return appender.schema(pa.schema([]))


def _key(given: Any, header: str | None) -> str | None:
    if given is not None and header is not None and given != header:
        raise InvalidRequest("idempotency_key and the header Idempotency-Key differ; give one of them")
    key = header if given is None else given
    if key is not None and (not isinstance(key, str) or not 0 < len(key) <= LONGEST_KEY):
        raise InvalidRequest(f"an idempotency key is a text of 1 to {LONGEST_KEY} characters")
    return key
