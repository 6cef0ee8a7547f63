"""Folding: where a key's batches have become many, one takes their place, without what no read can meet any more.

Only batches up to the version up to which every commit was brought are folded: a later push of one of these is then
known to be a repetition, and left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple
from zlib import crc32

import numpy as np

from mlray.features.needed import needed, needs_all
from mlray.features.view import FeatureView
from mlray.online.cells import BASE, COMMIT, Shape, batch_slot, cells, shape_of, stored
from mlray.online.record import ViewState, space
from mlray.online.store import Cell, OnlineStore

FOLD = 8
"""Batches of a key that are folded into one."""
LATE_READS = 3_600_000_000
"""How long before the newest event a read is still answered exactly after old events went: one hour, in microseconds;
the `history` of the load comes on top.
"""


@dataclass(frozen=True)
class Folded:
    """Cells to write, the addresses of those that they replace, and the record that goes with them."""

    state: ViewState
    cells: tuple[Cell, ...] = ()
    replaced: tuple[tuple[bytes, bytes, int], ...] = ()


class _Key(NamedTuple):
    """What is folded of one key."""

    base: Cell | None
    batches: list[Cell]


def folded(
    store: OnlineStore, view: FeatureView, old: ViewState, new: ViewState, keys: Sequence[bytes], fold: int
) -> Folded:
    """Of the keys those that have `fold` batches. Each is looked at by every `fold`-th push only.

    old, new: the record before and after the push. Nothing is folded during a load, nor while commits are missing.
    """
    asked = [key for key in keys if (crc32(key) + new.applied) % fold == 0]
    if old.gap or old.loading or old.applied < 0 or not asked:
        return Folded(new)
    held = store.read([(space(view), asked)])[0].cells
    many = np.flatnonzero(np.diff(held.ends, prepend=0) >= fold).tolist()  # of the others no cell need be made
    found = [key for key in (_of_key(held[i], old.applied) for i in many) if len(key.batches) >= fold]
    if not found:
        return Folded(new)
    shape, since = shape_of(view, old.events), _since(view, new)
    state = replace(new, folded=max(new.folded, old.applied), reach=since)
    written = _written(shape, found, since, old.applied)
    replaced = [(cell.key, cell.slot, cell.version) for key in found for cell in key.batches]
    return Folded(state, tuple(written), tuple(replaced))


def _of_key(cells: Sequence[Cell], applied: int) -> _Key:
    base = next((cell for cell in cells if cell.slot == BASE), None)
    return _Key(base, [cell for cell in cells if cell.slot != BASE and cell.version <= applied])


def _since(view: FeatureView, state: ViewState) -> int | None:
    """From when on reads must stay exact; None: from the beginning."""
    if needs_all(view) or state.watermark is None:
        return state.reach
    since = state.watermark - state.history - LATE_READS
    return since if state.reach is None else max(since, state.reach)


def _written(shape: Shape, found: Sequence[_Key], since: int | None, applied: int) -> list[Cell]:
    held = stored(shape, [[*([key.base] if key.base else []), *key.batches] for key in found])
    every = np.ones(len(held.codes), dtype=np.bool_)
    keep = every if since is None else needed(shape.view, held.rows, since, held.codes)
    names, old = [key.batches[0].key for key in found], held.commits < 0
    batch = held.filtered(keep & ~old)
    rows = batch.rows.append_column(COMMIT, [batch.commits])
    made = [cell for cell, _ in cells(shape, rows, batch.codes, names, batch_slot(applied), applied, 0)]
    lean = np.bincount(held.codes[old & keep], minlength=len(found)) * 2 <= np.bincount(
        held.codes[old], minlength=len(found)
    )
    for code, key in enumerate(found):
        header = shape.base.header(key.base.value) if key.base else None
        if key.base and header and lean[code] and not header.tail:  # half of the base or more has had its day
            part, until = held.filtered(old & keep & (held.codes == code)), header.until
            base = [c for c, _ in cells(shape, part.rows, part.codes, names, BASE, key.base.version, until)]
            made += base or [key.base._replace(value=shape.base.encode(part.rows).cut(0, 0, until))]
    return made
