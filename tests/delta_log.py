"""Delta tables written by hand: logs that other engines write and delta-rs does not."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def entry(table: Path, version: int, *actions: dict[str, Any]) -> None:
    """Writes one commit."""
    folder = table / "_delta_log"
    folder.mkdir(parents=True, exist_ok=True)
    info = {"commitInfo": {"timestamp": 0, "operation": "WRITE"}}
    (folder / f"{version:020}.json").write_text("\n".join(json.dumps(a) for a in (info, *actions)))


def protocol(*features: str, reader: int = 3, writer: int = 7) -> dict[str, Any]:
    """What a reader must know; features are named from reader version 3 on."""
    named = {"readerFeatures": list(features), "writerFeatures": list(features)} if reader == 3 else {}
    return {"protocol": {"minReaderVersion": reader, "minWriterVersion": writer, **named}}


PLAIN = protocol(reader=1, writer=2)


def metadata(columns: dict[str, str], by: tuple[str, ...] = (), **options: Any) -> dict[str, Any]:
    """Columns by Delta type. options: `configuration`, and `notes`, the metadata of columns."""
    notes = options.get("notes", {})
    fields = [{"name": n, "type": t, "nullable": True, "metadata": notes.get(n, {})} for n, t in columns.items()]
    return {"metaData": {
        "id": "0", "format": {"provider": "parquet", "options": {}}, "partitionColumns": list(by), "createdTime": 0,
        "schemaString": json.dumps({"type": "struct", "fields": fields}),
        "configuration": options.get("configuration", {}),
    }}


def add(table: Path, name: str, rows: pa.Table, **more: Any) -> dict[str, Any]:
    """Writes the rows to a file of this name, unless it is there, and gives the action; `more` replaces its parts."""
    file = table / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        pq.write_table(rows, file)
    action = {"path": name, "partitionValues": {}, "size": file.stat().st_size, "modificationTime": 0,
              "dataChange": True, "stats": json.dumps({"numRecords": rows.num_rows})}
    return {"add": {**action, **more}}
