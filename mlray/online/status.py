"""What a read says of each value beside the value itself.

Per reading of a view, `<view>__status` and `<view>__event_time` (of the newest event visible at q, timestamp[us, UTC]);
where every value's own is asked for, also `<feature>__status`. A status is

    stale      q lies beyond the view's watermark: what has happened since may not have been brought yet
    missing    there is no event, or the value is null; of a view of windows only: no event in the longest of them
    expired    there is one, but it is older than the view's ttl (of a view's bare columns)
    present    all else
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlray.aggregation.timeline import NOWHERE, at_query
from mlray.aggregation.window import Instants, Times, latest_bounds
from mlray.features.evaluate import Queries
from mlray.features.order import Events
from mlray.features.rows import TS
from mlray.features.types import INSTANT
from mlray.features.view import BoundView, FeatureView
from mlray.online.record import ViewState

Asked: TypeAlias = bool | Literal["values"]
"""Whether statuses are asked for: not, of each view, or of each value too."""
STATUS, EVENT_TIME = "__status", "__event_time"
_NEVER = np.iinfo(np.int64).min


def newest(view: FeatureView, events: Events, queries: Queries) -> Times:
    """Per query the time of the newest event visible at q, whatever the ttl; `_NEVER` where there is none.

    Where windows are all that is read, an event before them is none: an online store need not keep it.
    """
    q, timeline, lag = queries.instants, events.timeline, view.source.lag_us
    span = None if view.columns or view.reach is None else view.reach - lag
    start, end = latest_bounds(q, lag, span, view.closed)
    if view.source.timestamp is None:
        start, end = np.zeros_like(start), np.ones_like(end)
    lo, hi = timeline.positions(queries.codes, start, end)
    silent = ~(queries.answerable & q.valid)
    row = np.where(silent, NOWHERE, timeline.newest(lo, hi, at_query(q)))
    found = np.full(len(row), _NEVER)
    seen = row != NOWHERE
    index = row[seen] if events.rows is None else events.rows[row[seen]]
    found[seen] = events.table.column(TS).to_numpy()[index]
    return found


@dataclass(frozen=True)
class Status:
    """The statuses of one reading of a view. answer: its features under the view's names; newest: see `newest`."""

    bound: BoundView
    state: ViewState
    at: Instants
    answer: pa.Table
    newest: Times

    def beside(self, vectors: pa.Table, *, values: bool) -> pa.Table:
        """The vectors with the status of this view; `values`: and of those of its features that are among them."""
        view, named = self.bound.view, f"{self.bound.prefix}{self.bound.view.name}"
        row = self._of_row()
        timed = view.source.timestamp is not None
        times = pa.array(self.newest, mask=(self.newest == _NEVER) | (not timed)).cast(INSTANT)
        out = vectors.append_column(f"{named}{STATUS}", pa.array(row, pa.string()))
        out = out.append_column(f"{named}{EVENT_TIME}", times)
        for name, here in self.bound.renamed.items():
            if values and here in vectors.column_names:
                null = self.answer.column(name).is_null().to_numpy()
                status = row if name in view.columns else np.where(row == "stale", "stale", "present")
                status = np.where(null & (status == "present"), "missing", status)
                out = out.append_column(f"{here}{STATUS}", pa.array(status, pa.string()))
        return out

    def _of_row(self) -> NDArray[np.str_]:
        """Per row the status of the newest event."""
        view, q = self.bound.view, self.at.floor
        found = np.where(self.newest == _NEVER, "missing", "present").astype("U7")
        if view.ttl_us is not None and view.columns:
            start, _ = latest_bounds(self.at, view.source.lag_us, view.ttl_us, view.closed)
            found[(found == "present") & (self.newest < start)] = "expired"
        if view.source.timestamp is not None:
            late = np.ones(len(q), np.bool_) if self.state.watermark is None else q > self.state.watermark
            found[late] = "stale"
        return found
