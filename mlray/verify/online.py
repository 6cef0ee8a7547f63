"""What an online store holds of one key: the only place here that looks below a read."""

import pyarrow as pa
import pyarrow.compute as pc

from mlray.features.rows import TS
from mlray.features.view import FeatureView
from mlray.online.cells import shape_of, stored
from mlray.online.encoding import key_bytes
from mlray.online.record import read_state, space
from mlray.online.store import OnlineStore
from mlray.verify.evidence import Side


def stored_events(store: OnlineStore, view: FeatureView, key: pa.Table) -> Side:
    """What a read of the key would see, its columns left out; key: a table of one row, in the types of the view's
    events.
    """
    [held] = store.read([(space(view), key_bytes(key))])
    found = stored(shape_of(view, read_state(view, held.state).events), [*held.cells])
    based = found.rows.filter(pa.array(found.commits < 0))
    return Side(found.rows, pc.min(based.column(TS)).as_py() if found.tiles else None)
