"""A generated world in the words of mlray: what a user would have written for it."""

from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from random import Random

import pyarrow as pa
from deltalake import write_deltalake
from generated import Aggregate, World

import mlray as ml
from mlray.aggregation.aggregate import Aggregate as Declared
from mlray.aggregation.aggregate import registered

KINDS: dict[str, type[Declared]] = {kind.kind: kind for kind in registered.values()}


def view(world: World, name: str = "view") -> ml.FeatureView:
    """The world's view over a source `events` at path `events`."""
    meant = world.view
    return ml.FeatureView(
        name,
        entity=ml.Entity("thing", keys=list(meant.keys)) if meant.keys else None,
        source=source(world),
        features=[f if isinstance(f, str) else aggregate(f) for f in world.features],
        ttl=None if meant.ttl is None else timedelta(microseconds=meant.ttl),
        closed="left" if meant.closed == "left" else "right",
    )


def source(world: World) -> ml.DeltaSource:
    """The world's source."""
    meant = world.view.source
    return ml.DeltaSource(
        "events",
        path="events",
        timestamp=meant.timestamp,
        known_at=meant.known_at,
        sequence=meant.sequence,
        lag=timedelta(microseconds=meant.lag),
        select=world.select,
        where=world.where,
    )


def aggregate(feature: Aggregate) -> Declared:
    """One aggregate; an unnamed column is left out."""
    return KINDS[feature.kind](
        feature.column or "",
        windows=[ml.lifetime if size is None else timedelta(microseconds=size) for size in feature.sizes],
        where=feature.where,
        offset=timedelta(microseconds=feature.offset),
        closed="left" if feature.closed == "left" else "right",
        resolution=timedelta(microseconds=feature.resolution),
        name=feature.name,
        **feature.parameters,
    )


def write_events(world: World, lake: Path, rng: Random, files: int, partition: bool = False) -> None:
    """Writes the source's rows to the lake as a Delta table of several files, in random order.

    partition: by the first key if that is a number (a Delta partition holds no empty text).
    """
    table = world.table.take(rng.sample(range(world.table.num_rows), world.table.num_rows))
    cuts = sorted(rng.choices(range(table.num_rows + 1), k=files - 1))
    for start, end in pairwise([0, *cuts, table.num_rows]):
        by = [key for key in world.view.keys[:1] if partition and pa.types.is_integer(table.schema.field(key).type)]
        write_deltalake(str(lake / "events"), table.slice(start, end - start), mode="append", partition_by=by or None)
