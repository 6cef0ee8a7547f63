"""Plain JSON from outside: of bounded size and depth, of texts that a database and an answer can carry."""

import json
from typing import Any

from mlray.errors import SchemaError
from mlray.registry.artifacts import ArtifactStore
from mlray.registry.manifest import Manifest
from mlray.registry.texts import is_storable

MAX_DEPTH = 64
MAX_BYTES = 16 << 20
MAX_INTEGER = 2**63 - 1


def unfit(value: Any) -> str | None:
    """Why the value cannot be kept and answered as JSON; None where it can."""
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for one in level:
            if isinstance(one, str) and not is_storable(one):
                return "a text in it holds a NUL or half of a surrogate pair"
            if isinstance(one, dict):
                below += [*one.keys(), *one.values()]
            elif isinstance(one, list | tuple):
                below += one
        if not below:
            return None
        level = below
    return f"it is nested deeper than {MAX_DEPTH}"


def is_number(value: Any) -> bool:
    """Whether it is a float, or an integer that every database keeps; True and False are neither."""
    return isinstance(value, float) or (type(value) is int and abs(value) <= MAX_INTEGER)


def read_json(artifacts: ArtifactStore, manifest: Manifest, name: str) -> Any:
    """What the artifact's file of that name holds, its bytes verified; None without one.

    SchemaError for what is no JSON, larger than MAX_BYTES, or unfit.
    """
    file = next((file for file in manifest.files if file.path == name), None)
    if file is None:
        return None
    where = f"{name} of artifact {manifest.digest}"
    if file.size > MAX_BYTES:
        raise SchemaError(f"{where} has {file.size} bytes; what is read of it has at most {MAX_BYTES}")
    try:
        value = json.loads(artifacts.read(file))
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"{where} is not what a run writes: {error}") from error
    if (why := unfit(value)) is not None:
        raise SchemaError(f"{where} is not what a run writes: {why}")
    return value
