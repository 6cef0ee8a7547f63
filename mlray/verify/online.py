"""What an online store holds of one key: the only place here that looks below a read."""

import pyarrow as pa

from mlray.features.view import FeatureView
from mlray.online.cells import shape_of, stored
from mlray.online.encoding import key_bytes
from mlray.online.record import read_state, space
from mlray.online.store import OnlineStore


def stored_events(store: OnlineStore, view: FeatureView, key: pa.Table) -> pa.Table:
    """The events that a read of the key would see, without its columns; key: a table of one row, in the types of the
    view's events.
    """
    [held] = store.read([(space(view), key_bytes(key))])
    return stored(shape_of(view, read_state(view, held.state).events), held.cells).rows
