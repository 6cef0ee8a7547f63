"""The proof, proven: whatever is made wrong in an online store, `verify` sees it and names the event."""

import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event as Signal
from threading import Thread

import pyarrow as pa
import pytest
from deltalake import write_deltalake

import mlray as ml
from mlray import commands
from mlray.features.types import INSTANT
from mlray.online.cells import BASE
from mlray.online.store import Cell
from mlray.recipe import Recipe
from mlray.verify import Event

STEP = 600_000_000
START = 1_772_946_000_000_000
LOADED = 8
"""Purchases that are loaded; the others are ingested in one batch."""

Change = Callable[[pa.Table], pa.Table]


def at(slot: float) -> int:
    return START + int(slot * STEP)


def instant(slot: float) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=at(slot))


def bought() -> pa.Table:
    """Ten purchases, ten minutes apart, of users 7 and 8 in turn."""
    return pa.table({
        "user": [7, 8] * 5,
        "at": pa.array([at(slot) for slot in range(10)], INSTANT),
        "id": list(range(10)),
        "amount": [10.5 + slot for slot in range(10)],
    })


def service() -> ml.FeatureService:
    source = ml.DeltaSource("purchases", path="purchases", timestamp="at", sequence="id")
    features = ["amount", ml.Mean("amount", windows=[ml.minutes(30), ml.lifetime]), ml.Count(windows=[ml.hours(1)])]
    spending = ml.FeatureView("spending", entity=ml.Entity("user", keys=["user"]), source=source, features=features)
    return ml.FeatureService("fraud", features=[spending])


def told_of(lake: Path, online: str, address: str, rows: pa.Table) -> ml.Platform:
    """A platform whose store was told of these purchases: loaded until the eighth, then one batch."""
    platform = ml.connect(ml.Settings(lake=lake, online=online, ray=address))
    write_deltalake(f"{lake}/purchases", rows.slice(0, LOADED))
    platform.applied_diff(service())
    platform.materialize(service(), until=instant(LOADED - 1), history=timedelta(hours=1))
    platform.ingest("purchases", rows.slice(LOADED), idempotency_key="batch")
    return platform


@pytest.fixture
def platform(ray_cluster: str, tmp_path: Path) -> Iterator[ml.Platform]:
    opened = told_of(tmp_path / "lake", f"lmdb://{tmp_path}/online", ray_cluster, bought())
    yield opened
    opened.online.close()


def cells(platform: ml.Platform) -> tuple[str, list[Cell]]:
    [space] = platform.online.spaces()
    return space, list(platform.online.scan(space))


def test_a_store_that_was_told_everything_differs_nowhere(platform: ml.Platform) -> None:
    result = platform.verify("fraud", rows=50)
    assert (result.rows, result.cells) == (2 * 50, 2 * 50 * 4)
    assert (result.different, result.stale, result.ok, result.differences) == (0, 0, True, ())


@pytest.mark.parametrize(
    ("change", "event"),
    [
        #  loaded: 0 1 2 3 4 5 6 7    in one batch: 8 9    asked at 9: the mean of [6, 9), the count of [3, 9)
        (lambda t: with_cell(t, "amount", 6, 99.0), Event("offline", at(6), 6, None, {"amount": 16.5})),
        (lambda t: with_cell(t, "at", 6, instant(5.9)), Event("offline", at(6), 6, None, {"amount": 16.5})),
        (lambda t: pa.concat_tables([t.slice(0, 8), t.slice(9)]), Event("offline", at(8), 8, None, {"amount": 18.5})),
        (lambda t: added(t, 7, 6.5), Event("online", at(6.5), 10, None, {"amount": 1.0})),
    ],
    ids=["another amount", "another time", "a row dropped", "a row too many"],
)
def test_an_event_that_the_store_was_told_otherwise_is_named(
    change: Change, event: Event, ray_cluster: str, tmp_path: Path
) -> None:
    online = f"memory://{tmp_path}"
    told_of(tmp_path / "told", online, ray_cluster, change(bought()))
    truth = told_of(tmp_path / "truth", f"memory://{tmp_path}-other", ray_cluster, bought())
    truth.online.close()
    truth = ml.connect(ml.Settings(lake=tmp_path / "truth", online=online, ray=ray_cluster))
    spine = pa.table({"user": [7, 8], "timestamp": pa.array([at(9), at(9)], INSTANT)})
    result = truth.verify("fraud", spine=spine)
    assert not result.ok
    assert {one.part for one in result.differences} == {"live"}
    assert result.differences[0].view == "spending"
    assert event in [one.event for one in result.differences]


def with_cell(table: pa.Table, column: str, row: int, value: object) -> pa.Table:
    values = table[column].to_pylist()
    values[row] = value
    index = table.column_names.index(column)
    return table.set_column(index, column, pa.array(values, table.schema.field(column).type))


def added(table: pa.Table, user: int, slot: float) -> pa.Table:
    row = {"user": [user], "at": [instant(slot)], "id": [10], "amount": [1.0]}
    more = pa.table(row, schema=table.schema)
    return pa.concat_tables([table.slice(0, 7), more, table.slice(7)])


def test_one_corrupted_byte_of_an_amount_is_seen(platform: ml.Platform) -> None:
    space, held = cells(platform)
    before, after = struct.pack("<d", 16.5), struct.pack("<d", 16.25)
    hurt = [cell._replace(value=cell.value.replace(before, after)) for cell in held if before in cell.value]
    assert platform.online.write(space, hurt) == len(hurt) == 1
    result = platform.verify("fraud", rows=50)
    assert result.different > 0
    assert Event("offline", at(6), 6, None, {"amount": 16.5}) in [one.event for one in result.differences]


def test_a_batch_that_was_lost_is_seen(platform: ml.Platform) -> None:
    space, held = cells(platform)
    batches = [(cell.key, cell.slot, cell.version) for cell in held if cell.slot != BASE]
    platform.online.write(space, [], deletes=batches)
    events = [one.event for one in platform.verify("fraud", rows=50).differences]
    assert Event("offline", at(8), 8, None, {"amount": 18.5}) in events


def test_cells_of_two_keys_that_were_swapped_are_seen(platform: ml.Platform) -> None:
    space, held = cells(platform)
    seven, eight = sorted({cell.key for cell in held})
    swapped = [cell._replace(key=eight if cell.key == seven else seven) for cell in held]
    platform.online.write(space, swapped)
    result = platform.verify("fraud", rows=50)
    assert result.different > 0
    first = result.differences[0]
    assert first.event is not None
    assert (first.event.sequence % 2 == 0) == ((first.key["user"] == 7) == (first.event.side == "offline"))


def test_cells_beyond_the_watermark_are_counted_apart(platform: ml.Platform) -> None:
    #  table     0 .......... 9          online complete to 9; appended past the platform: 9.5
    row = pa.table({"user": [7], "at": pa.array([at(9.5)], INSTANT), "id": [10], "amount": [1.0]})
    write_deltalake(f"{platform.settings.lake}/purchases", row, mode="append")
    spine = pa.table({"user": [7, 7], "timestamp": pa.array([at(9), at(9.5) + 1], INSTANT)})
    result = platform.verify("fraud", spine=spine)
    assert result.different == 0
    status = platform.get_features("fraud", spine, at=spine["timestamp"], status=True)["spending__status"]
    assert status.to_pylist() == ["present", "stale"]


def test_events_that_arrive_meanwhile_are_no_difference(platform: ml.Platform) -> None:
    done = Signal()

    def ingest() -> None:
        number = 10
        while not done.is_set():
            row = {"user": [7, 8], "at": [instant(3.5), instant(6.5)], "id": [number] * 2, "amount": [0.25, 0.5]}
            platform.ingest("purchases", pa.table(row, schema=bought().schema))
            number += 1

    writer = Thread(target=ingest)
    writer.start()
    try:
        result = platform.verify("fraud", rows=50)
    finally:
        done.set()
        writer.join()
    assert (result.different, result.cells) == (0, 400)


def test_the_command_tells_the_event_and_gives_exit_code_1(
    platform: ml.Platform, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space, held = cells(platform)
    platform.online.write(space, [], deletes=[(c.key, c.slot, c.version) for c in held if c.slot != BASE])
    (tmp_path / "recipe.toml").write_text(f'[platform]\nlake = "{platform.settings.lake}"\n')
    recipe = Recipe.load(tmp_path / "recipe.toml")
    code = commands.verify(commands.Screen(False), recipe, platform, "fraud", rows=50, seed=1, log=False)
    told = capsys.readouterr().out.replace("\n", " ")
    assert code == 1
    assert "live: " in told
    assert "only offline has the event of 2026-03-08T06:" in told
