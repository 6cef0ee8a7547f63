"""What serving really used, as the prediction log has it, against the same rows rebuilt offline as of their q.

A cell that differs is *late* where it is what the events known at the moment of serving give, else it is wrong.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pyarrow as pa

from mlray.aggregation.window import Instants, microseconds
from mlray.errors import MlrayError, SchemaError
from mlray.features.service import FeatureService
from mlray.features.types import INSTANT, instants, microseconds_of
from mlray.offline import delta
from mlray.offline.training_set import build
from mlray.verify.cells import unequal
from mlray.verify.comparison import Comparison
from mlray.verify.past import Past
from mlray.verify.result import LogVerification
from mlray.verify.sample import some_rows

FRESHNESS = timedelta(seconds=1)
"""How long an event may take from its commit until it can be read online."""


def verify_log(
    model: str,
    service: FeatureService,
    log: str,
    lake: str,
    *,
    rows: int,
    freshness: timedelta = FRESHNESS,
    clock: Callable[[], float] = time.perf_counter,
) -> LogVerification:
    """Compares `rows` rows of a model version's log, evenly taken from it, with the service that the version pins.

    log: the path of its Delta table. freshness: see `past`. Ray must be running. TableNotFound where there is no log.
    """
    started = clock()
    served = Served.of(delta.table_at(log, "prediction log"), service, rows)
    offline = build(service, served.spine, lake=lake, label=None, timestamp=served.timestamp)
    wanted = offline.to_arrow().select(service.names)
    found = _conformed(served.vectors, wanted.schema, log)
    differs = unequal(wanted, found)
    past = Past(service, lake, dict(offline.sources), served.spine, served.timestamp, microseconds(freshness))
    late, skipped, moments = np.zeros_like(differs), dict[str, None](), dict[int, int | None](enumerate(served.moments))
    for row in sorted(np.flatnonzero(differs.any(axis=1)).tolist(), key=lambda row: served.moments[row]):
        try:
            late[row] = past.gives(row, served.moments[row], found.slice(row, 1))
        except MlrayError as error:
            skipped[f"what was known when rows were served cannot be told: {error}"] = None
            moments[row] = None
    done = Comparison("log")
    done.add(served.spine, served.at, wanted, found, lambda row: past.evidence(moments[row]), late)
    return LogVerification(
        model,
        service.name,
        done.rows,
        done.cells,
        done.different,
        done.excused,
        clock() - started,
        tuple(done.told),
        tuple(skipped),
    )


@dataclass(frozen=True)
class Served:
    """Rows of a log, each once. spine: as they were asked, with q in column `timestamp`; moments: when they were
    served, in microseconds.
    """

    spine: pa.Table
    timestamp: str
    moments: list[int]
    vectors: pa.Table

    @classmethod
    def of(cls, log: delta.Table, service: FeatureService, rows: int) -> "Served":
        """`rows` rows of the log, those that were written twice only once."""
        table = some_rows(log, rows)
        names = zip(table.column("request_id").to_pylist(), table.column("row").to_pylist(), strict=True)
        first = {name: place for place, name in reversed(list(enumerate(names)))}
        table = table.take(pa.array(sorted(first.values()), pa.int64()))
        wanted = list(dict.fromkeys([*service.keys, *service.request]))
        timestamp = next(name for name in ("q", "q_asked", "q_of_the_row") if name not in {*wanted, *service.names})
        q = table.column("q").cast(INSTANT)
        spine = _fields(table, "asked", wanted).append_column(timestamp, q)
        moments = microseconds_of(table.column("served_at"), "served_at").to_pylist()
        return cls(spine, timestamp, moments, _fields(table, "vector", service.names))

    @property
    def at(self) -> Instants:
        """q per row."""
        return instants(self.spine.column(self.timestamp), self.timestamp)


def _fields(table: pa.Table, column: str, names: list[str]) -> pa.Table:
    """Fields of a column of structs as columns."""
    structs = table.column(column).combine_chunks()
    known = [field.name for field in structs.type]
    for name in names:
        if name not in known:
            raise SchemaError.missing_column("prediction log", name, f"'{column}'", known)
    arrays = dict(zip(known, structs.flatten(), strict=True))
    return pa.table({name: arrays[name] for name in names} or {"": pa.nulls(len(table))})


def _conformed(vectors: pa.Table, schema: pa.Schema, log: str) -> pa.Table:
    """The vectors in the types of the features: Delta has its own spelling of some."""
    try:
        return vectors.cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise SchemaError(
            f"prediction log {log}: the vectors do not fit the features as they are rebuilt now: {error}; did a source "
            "change the type of a column?"
        ) from error
