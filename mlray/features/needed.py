"""Which events a read from some instant on can still meet: what an online store keeps, what a slice of time carries."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlray.aggregation.aggregate import Ranges
from mlray.aggregation.window import EARLIEST
from mlray.features.keys import distinct
from mlray.features.rows import KNOWN, TS
from mlray.features.view import FeatureView


def needed(view: FeatureView, events: pa.Table, since: int, codes: Ranges | None = None) -> NDArray[np.bool_]:
    """Per event whether any read at q >= since (microseconds) can meet it: those of the windows, and the newest
    visible row onward. codes: of the events' entities, 0 and up; None: to be found from the key columns.
    """
    if needs_all(view) or not events.num_rows:
        return np.ones(events.num_rows, dtype=np.bool_)
    times = events.column(TS).to_numpy()
    oldest = np.full(len(times), since - (view.reach or 0)) if view.aggregates else np.full(len(times), since)
    if view.columns:
        codes = distinct(events.select(list(view.keys)))[1] if codes is None else codes
        oldest = np.minimum(oldest, newest_before(view, events, since, codes))
    kept: NDArray[np.bool_] = times >= oldest
    return kept


def needs_all(view: FeatureView) -> bool:
    """A lifetime needs every event; so does a table without time, and one whose newest event may be withdrawn later."""
    withdrawn = bool(view.columns) and view.source.sequence is not None and view.source.where is not None
    return view.source.timestamp is None or view.reach is None or withdrawn


def newest_before(view: FeatureView, events: pa.Table, since: int, codes: Ranges) -> Ranges:
    """Per event the time of its key's newest event that is visible at `since`; the earliest instant where none is.

    Without a visible one, any older event may still become known, and then be the newest.
    """
    times = events.column(TS).to_numpy()
    seen = times < since - view.source.lag_us
    if KNOWN in events.column_names:
        seen &= events.column(KNOWN).to_numpy() <= since
    newest = np.full(int(codes.max(initial=0)) + 1, EARLIEST)
    np.maximum.at(newest, codes[seen], times[seen])
    found: Ranges = newest[codes]
    return found
