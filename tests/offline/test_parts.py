"""Parts stay within bounds, whatever a key or a view without one is asked: split by time, read piece by piece."""

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import declared
import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from generated import Aggregate, differences, everywhere, expected, world

import mlray as ml
from mlray.offline import join, plan
from mlray.offline.join import compute
from mlray.offline.spine import ROW
from mlray.offline.training_set import TrainingSet

pytestmark = pytest.mark.usefixtures("ray_cluster")
DAY = 86_400_000_000


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "BROADCAST_ROWS", 0)


def built(lake: Path, spine: pa.Table, *views: Any, **options: Any) -> TrainingSet:
    platform = ml.connect(ml.Settings(lake=str(lake), online="memory://unused"))
    service = ml.FeatureService("service", features=[view.prefixed(f"v{i}_") for i, view in enumerate(views)])
    platform.apply(service)
    return platform.build_training_set("service", spine, **options)


@pytest.mark.parametrize("seed", range(8))
def test_one_global_row_is_parted_by_time_beside_views_with_keys_and_equals_the_oracle(
    seed: int, tmp_path: Path
) -> None:
    asked = world(seed, 80, timeless=False)
    declared.write_events(asked, tmp_path, Random(seed), files=4)
    both = [declared.view(everywhere(asked), "all"), declared.view(asked, "each")]
    ts = built(tmp_path, asked.spine, *both, join=["shuffle", "co-partitioned"][seed % 2])
    assert "all: shuffle of events" in ts.explain()
    table = ts.to_arrow()
    assert differences(everywhere(asked), table, expected(everywhere(asked)), "v0_") == []
    assert differences(asked, table, expected(asked), "v1_") == []


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("how", ["shuffle", "co-partitioned"])
def test_a_key_that_is_asked_for_often_is_asked_in_several_parts(
    how: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join, "_MOST_ROWS", 5)
    asked = world(seed, 80, timeless=False)
    declared.write_events(asked, tmp_path, Random(seed), files=4)
    ts = built(tmp_path, asked.spine, declared.view(everywhere(asked), "all"), declared.view(asked, "each"), join=how)
    assert len(ts.join.parts) > 4
    assert max(part.rows for part in ts.join.parts) <= 5
    table = ts.to_arrow()
    assert differences(everywhere(asked), table, expected(everywhere(asked)), "v0_") == []
    assert differences(asked, table, expected(asked), "v1_") == []


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("how", ["shuffle", "co-partitioned"])
def test_a_part_that_may_hold_few_events_reads_them_piece_by_piece(how: str, seed: int, tmp_path: Path) -> None:
    asked = world(seed, 80, timeless=False)
    declared.write_events(asked, tmp_path, Random(seed), files=4)
    ts = built(tmp_path, asked.spine, declared.view(asked), join=how)
    tables = [compute(part, ts.join.context, limit=3) for part in ts.join.parts]
    order = np.argsort(np.concatenate([table[ROW].to_numpy() for table in tables]))
    assert differences(asked, pa.concat_tables(tables).take(pa.array(order)), expected(asked), "v0_") == []


def test_each_part_of_one_global_row_reads_only_the_files_that_it_can_meet(tmp_path: Path) -> None:
    #  files     0   1   2   3   4   5   6   7   8   9     one a day
    #  spine     q   q   q   q   q   q   q   q   q   q     one a day, an hour later; a window of 2 hours meets one file
    days = pa.array(np.arange(10) * DAY, pa.timestamp("us", "UTC"))
    for i in range(10):
        write_deltalake(tmp_path / "ticks", pa.table({"at": days.slice(i, 1)}), mode="append")
    source = ml.DeltaSource("ticks", path="ticks", timestamp="at")
    view = ml.FeatureView("v", entity=None, source=source, features=[ml.Count(windows=[ml.hours(2)])])
    spine = pa.table({"timestamp": pa.array(np.arange(10) * DAY + DAY // 24, pa.timestamp("us", "UTC"))})
    ts = built(tmp_path, spine, view)
    assert max(len(part.events[0].places) for part in ts.join.parts) <= 3
    assert ts.to_arrow()["v0_count_2h"].to_pylist() == [1] * 10


def test_one_global_row_that_looks_back_for_ever_is_read_by_one_part_while_the_spine_is_small(tmp_path: Path) -> None:
    asked = everywhere(world(4, 40, timeless=False, features=[Aggregate(kind="count", column=None, sizes=(None,))]))
    declared.write_events(asked, tmp_path, Random(1), files=3)
    ts = built(tmp_path, asked.spine, declared.view(asked))
    assert len(ts.join.parts) == 1
    assert differences(asked, ts.to_arrow(), expected(asked), "v0_") == []


def test_a_spine_without_any_instant_is_answered_with_nulls_by_one_global_row(tmp_path: Path) -> None:
    asked = everywhere(world(3, 40, timeless=False))
    declared.write_events(asked, tmp_path, Random(1), files=2)
    place = asked.spine.schema.get_field_index("timestamp")
    never = pa.nulls(asked.spine.num_rows, asked.spine.schema.field(place).type)
    spine = asked.spine.set_column(place, "timestamp", never)
    table = built(tmp_path, spine, declared.view(asked)).to_arrow()
    nothing = replace(asked, queries=[((), None)] * spine.num_rows)
    assert differences(nothing, table, expected(nothing), "v0_") == []
