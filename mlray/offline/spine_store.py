"""Spines that can be had again: a Delta table by its version, any other kept under the lake, by its digest.

    _mlray/spines/<digest>/00000.arrow ...  the rows in order, in Arrow's own format, so that every type comes back
    _mlray/spines/<digest>/spine.json       the names of these files; written last: a spine is kept whole or not at all
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from obstore.store import LocalStore, from_url

from mlray.errors import TableNotFound
from mlray.offline.spine import Spine, TableAt, in_schema
from mlray.offline.tasks import task

_ROOT = "_mlray/spines"
_INDEX = "spine.json"


def keep(spine: Spine, lake: str) -> dict[str, Any]:
    """What it takes to have the spine again, as plain JSON; keeps its rows where it is no version of a Delta table."""
    facts = {"rows": spine.rows, "digest": spine.digest, "span": list(spine.span) if spine.span else None}
    if spine.table is not None:
        return {**facts, "path": spine.table.path, "version": spine.table.version, "table": spine.table.id}
    store = _store(lake)
    if not _has(store, f"{spine.digest}/{_INDEX}"):
        names = [f"{number:05}.arrow" for number in range(len(spine.blocks))]
        for name, block in zip(names, spine.blocks, strict=True):
            store.put(f"{spine.digest}/{name}", ray.get(_encoded.remote(block.ref, spine.schema)))
        store.put(f"{spine.digest}/{_INDEX}", json.dumps(names).encode())
    return {**facts, "kept": spine.digest}


def again(recorded: Mapping[str, Any], lake: str) -> TableAt | pa.Table:
    """The spine that `keep` recorded, to build a training set on. TableNotFound where kept rows are gone."""
    if "kept" not in recorded:
        return TableAt(recorded["path"], recorded["version"])
    store, name = _store(lake), recorded["kept"]
    if not _has(store, f"{name}/{_INDEX}"):
        raise TableNotFound(f"the spine {name[:12]} is not kept in {lake}/{_ROOT} any more")
    files = json.loads(bytes(store.get(f"{name}/{_INDEX}").bytes()))
    tables = [pa.ipc.open_file(bytes(store.get(f"{name}/{file}").bytes())).read_all() for file in files]
    return pa.concat_tables(tables)


@task
def _encoded(block: pa.Table, schema: pa.Schema) -> bytes:
    rows = in_schema(block, schema)
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(sink, rows.schema, options=options) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


def _has(store: Any, path: str) -> bool:
    try:
        store.head(path)
    except FileNotFoundError:
        return False
    return True


def _store(lake: str) -> Any:
    if "://" in lake:
        return from_url(f"{lake.rstrip('/')}/{_ROOT}")
    return LocalStore(Path(lake, _ROOT).absolute(), mkdir=True)
