"""What offline would have answered at some moment, by what was known then.

Of a source with `known_at` the rows known by then, of another the Delta version of then. An event takes a while from
its commit until it can be read online, so all that was known `freshness` before a row was served counts, and of what
became known since then, until as long after it, everything up to some moment.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlray.errors import MlrayError
from mlray.features.rows import KNOWN
from mlray.features.service import FeatureService
from mlray.features.view import FeatureView
from mlray.offline import delta
from mlray.offline.answer import answer, finished, held, spine_keys
from mlray.offline.training_set import source_tables
from mlray.verify.cells import unequal
from mlray.verify.evidence import Evidence, Side
from mlray.verify.history import Keyed, asked_keys, events_of, key_schema

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HELD = 64
"""Versions of views' events that are kept at once."""


class Past:
    """Answers for rows of a spine. versions: the newest to be considered; freshness: in microseconds."""

    def __init__(
        self,
        service: FeatureService,
        lake: str,
        versions: dict[str, int],
        spine: pa.Table,
        timestamp: str,
        freshness: int,
    ) -> None:
        self.service, self.lake, self.versions = service, lake, versions
        self.spine, self.timestamp, self.freshness = spine, timestamp, freshness
        tables = source_tables(service, lake, dict(versions))
        self.schemas = {view.name: key_schema(view, tables[view.source.name].schema) for view in service.views}
        self._held: dict[tuple[str, int], Keyed] = {}

    def gives(self, row: int, served: int, found: pa.Table) -> NDArray[np.bool_]:
        """Per feature whether `found`, a table of one row, has what was known at a moment around `served`."""
        given = np.zeros(found.num_columns, dtype=np.bool_)
        for moment in self._moments(row, served):
            given |= ~unequal(self.answer(row, moment), found)[0]
        return given

    def answer(self, row: int, moment: int) -> pa.Table:
        """The features of the row as of its q, by what was known at the moment."""
        block = self.spine.slice(row, 1)
        answers = {}
        for read in self.service.reads:
            key = self._key(row, read.view, spine_keys(read, block, self.schemas[read.view.name]))
            known = held(read.view, self._known(read.view, key, moment))
            answers[read] = answer(read, known, block, self.timestamp)
        return finished(self.service, block, answers, self.timestamp).select(self.service.names)

    def evidence(self, served: int | None) -> Evidence:
        """What is known now beside what was known at the moment; None: that is gone, and nothing tells them apart."""

        def now(view: FeatureView, key: pa.Table) -> Side:
            return Side(self._at(view, self.versions[view.source.name]).of(key))

        def then(view: FeatureView, key: pa.Table) -> Side:
            return now(view, key) if served is None else Side(self._known(view, key, served))

        return Evidence(self.service, self.schemas, now, then)

    def _key(self, row: int, view: FeatureView, columns: Sequence[pa.ChunkedArray]) -> pa.Table:
        schema = self.schemas[view.name]
        return pa.table(columns, schema=schema) if columns else self.spine.slice(row, 1).select([])

    def _moments(self, row: int, served: int) -> list[int]:
        """The moments at which something the row reads became known, and the one before them."""
        first, last = served - self.freshness, served + self.freshness
        changes = {first, served}
        for read in self.service.reads:
            view, block = read.view, self.spine.slice(row, 1)
            if view.source.known_at is None:
                times = [at for _, at in self._commits[view.source.name]]
            else:
                key = self._key(row, view, spine_keys(read, block, self.schemas[view.name]))
                newest = self._at(view, self.versions[view.source.name])
                times = newest.of(key).column(KNOWN).to_pylist()
            changes |= {time for time in times if first <= time <= last}
        return sorted(changes)

    def _known(self, view: FeatureView, key: pa.Table, moment: int) -> pa.Table:
        """The key's events that were known at the moment."""
        name = view.source.name
        if view.source.known_at is not None:
            found = self._at(view, self.versions[name]).of(key)
            return found.filter(pc.less_equal(found.column(KNOWN), moment))
        past = [version for version, at in self._commits[name] if at <= moment]
        if past:
            return self._at(view, min(past[-1], self.versions[name])).of(key)
        oldest = self._commits[name][0][0]
        if oldest > 0:
            raise MlrayError(f"source {name}: the log of its table begins with version {oldest}, which is younger")
        return self._at(view, self.versions[name]).of(key).slice(0, 0)

    def _at(self, view: FeatureView, version: int) -> Keyed:
        """The view's events of all the spine's keys in a version of its table."""
        if (view.name, version) not in self._held:
            path, who = delta.resolve(self.lake, view.source.path), f"source {view.source.name}"
            keys = asked_keys(self.service, view, self.spine, self.schemas[view.name])
            if len(self._held) >= _HELD:
                del self._held[next(iter(self._held))]
            self._held[view.name, version] = events_of(view, delta.table_at(path, who, version), keys)
        return self._held[view.name, version]

    @cached_property
    def _commits(self) -> dict[str, list[tuple[int, int]]]:
        """Per source without known_at its versions, and when each was committed in microseconds; in order."""
        sources = [source for source in self.service.sources if source.known_at is None]
        found = {s.name: delta.commits(delta.resolve(self.lake, s.path), f"source {s.name}") for s in sources}
        return {
            name: [(version, (at - _EPOCH) // timedelta(microseconds=1)) for version, at in commits]
            for name, commits in found.items()
        }
