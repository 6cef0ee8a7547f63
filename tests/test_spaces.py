"""What the online store holds, and what is dropped of it: only what nobody reads."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import mlray as ml
from mlray import days, moments
from mlray.features.catalog import service_hash, service_text
from mlray.online.state import space
from mlray.online.store import Cell, open_store
from mlray.registry.client import Registry
from mlray.registry.model_version import ModelVersion
from mlray.spaces import Dropped, SpaceStats, drop_unread, empty_store, space_stats

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW = moments.of("now", NOON)
PAID = ml.DeltaSource("payments", path="payments", timestamp="at")
USER = ml.Entity("user", keys=["user_id"])
ROWS = [{"user_id": user, "at": NOON - timedelta(hours=hour)} for user, hour in ((7, 1), (7, 30), (8, 2))]


def service(window: int, name: str = "fraud") -> ml.FeatureService:
    view = ml.FeatureView("paid", entity=USER, source=PAID, features=[ml.Count(windows=[days(window)])])
    return ml.FeatureService(name, features=[view])


def name_of(of: ml.FeatureService) -> str:
    return space(of.views[0])


@pytest.fixture(params=["lmdb", "redis"])
def platform(request: pytest.FixtureRequest, tmp_path: Path) -> ml.Platform:
    """A service of three definitions, each loaded, the last one in force."""
    url = f"lmdb://{tmp_path}/online" if request.param == "lmdb" else f"{request.getfixturevalue('redis_url')}?db=3"
    made = ml.connect(ml.Settings(lake=str(tmp_path / "lake"), online=url))
    for left in made.online.spaces():
        made.online.drop(left)
    made.applied.apply(service(1))
    made.ingest(PAID, ROWS)
    for window in (1, 2, 3):
        made.applied.apply(service(window))
        made.materialize("fraud", until=NOON, history=days(1))
    return made


@pytest.fixture
def pinned() -> Callable[[ml.FeatureService], ModelVersion]:
    def version(of: ml.FeatureService) -> ModelVersion:
        facts = {"service": of.name, "service_hash": service_hash(of), "service_definition": service_text(of)}
        known = {"name": "m", "version": 1, "author": "a", "created_at": NOON, "updated_at": NOON,
                 "aliases": (), "stage": "Archived"}
        rest = ("digest", "sources", "fingerprint", "spine", "features", "label", "metrics", "run_id", "config",
                "provenance", "signature")
        return ModelVersion(**facts, **known, **dict.fromkeys(rest, ""))

    return version


def test_stats_tell_keys_cells_and_times_of_every_definition(platform: ml.Platform) -> None:
    found = {one.definition: one for one in space_stats(platform.online, platform.applied)}
    assert {one.in_force for one in found.values()} == {True, False}
    mine = found[name_of(service(3)).rpartition("-")[2][:12]]
    size = platform.online.stats(name_of(service(3))).bytes
    assert mine == SpaceStats(
        view="paid", definition=mine.definition, in_force=True, keys=2, cells=2, bytes=size, version=0, watermark=NOON,
        reach=NOON - days(1), oldest=NOON - timedelta(hours=30), newest=NOON - timedelta(hours=1),
    )


def test_a_space_of_no_definition_is_counted_and_kept(platform: ml.Platform) -> None:
    platform.online.write("theirs-0123456789abcdef", [Cell(b"k", b"", 1, b"12")])
    [other] = [one for one in platform.online_stats() if one.view == "theirs"]
    assert (other.definition, other.in_force, other.cells, other.bytes) == ("0123456789ab", False, 1, 3)
    assert (other.version, other.watermark, other.oldest) == (None, None, None)
    drop_unread(platform.online, platform.applied, [], NOW)
    assert "theirs-0123456789abcdef" in platform.online.spaces()


def test_gc_drops_past_definitions_but_not_those_that_a_model_version_pins(
    platform: ml.Platform, pinned: Callable[[ml.FeatureService], ModelVersion]
) -> None:
    count = platform.online.stats(name_of(service(1)))
    told = drop_unread(platform.online, platform.applied, [pinned(service(2))], NOW, dry_run=True)
    assert len(platform.online.spaces()) == 3
    gone = drop_unread(platform.online, platform.applied, [pinned(service(2))], NOW)
    digest = name_of(service(1)).rpartition("-")[2][:12]
    assert told == gone == [Dropped("paid", digest, count.keys, count.cells, count.bytes)]
    assert platform.online.spaces() == sorted([name_of(service(2)), name_of(service(3))])
    assert drop_unread(platform.online, platform.applied, [pinned(service(2))], NOW) == []


def test_a_definition_that_another_service_still_reads_stays(platform: ml.Platform) -> None:
    platform.applied.apply(service(1, name="limits"))
    gone = drop_unread(platform.online, platform.applied, [], NOW)
    assert [one.definition for one in gone] == [name_of(service(2)).rpartition("-")[2][:12]]


def test_a_platform_asks_its_registry_what_is_pinned(platform: ml.Platform) -> None:
    settings = platform.settings
    vars(platform)["registry"] = Registry.connect(settings.registry, settings.artifacts, embedded=True)
    platform.registry.register_source("far", "runs:/1/model")  # says nothing of its features, and pins none
    assert len(platform.online_gc(dry_run=True)) == len(platform.online_gc()) == 2
    assert platform.online.spaces() == [name_of(service(3))]


def test_a_definition_that_cannot_be_rebuilt_is_told_and_keeps_the_views_that_it_names(
    platform: ml.Platform, pinned: Callable[[ml.FeatureService], ModelVersion], caplog: pytest.LogCaptureFixture
) -> None:
    newer = replace(pinned(service(1)), service_definition='{"newer": [{"view": "paid"}]}')
    assert drop_unread(platform.online, platform.applied, [newer], NOW) == []
    assert "m/1 pins a service that cannot be rebuilt; views that its text names stay" in caplog.text
    garbage = replace(newer, service_definition="garbage")
    assert len(drop_unread(platform.online, platform.applied, [garbage], NOW)) == 2


def test_what_a_killed_verify_left_goes_a_day_later(platform: ml.Platform) -> None:
    left = f"verify~{NOW // 1_000_000:x}~0123abcd~paid-89ef"
    platform.online.write(left, [Cell(b"k", b"", 1, b"12")])
    drop_unread(platform.online, platform.applied, [], NOW + 86_400_000_000)
    assert left in platform.online.spaces()
    [gone] = drop_unread(platform.online, platform.applied, [], NOW + 86_400_000_001)
    assert (gone.view, gone.cells, left in platform.online.spaces()) == (left.rpartition("-")[0], 1, False)


def test_the_definition_in_force_still_answers_after_gc(platform: ml.Platform) -> None:
    drop_unread(platform.online, platform.applied, [], NOW)
    assert platform.get_features("fraud", [{"user_id": 7}], at=NOON).to_pylist() == [{"count_3d": 2}]


@pytest.mark.parametrize("kind", ["memory", "lmdb", "redis"])
def test_what_is_only_verified_lies_in_a_store_of_the_kind_in_use_apart_and_is_gone_afterwards(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = f"{request.getfixturevalue('redis_url')}?db=5" if kind == "redis" else f"{kind}://{tmp_path}/online"
    with closing(open_store(url)) as used:
        used.write("paid", [Cell(b"k", b"", 1, b"in use")], state=b"in use")
        with empty_store(url, f"{tmp_path}/own", NOW) as empty:
            assert (empty.spaces(), empty.state("paid"), empty.read([("paid", [b"k"])])[0].state) == ([], None, None)
            empty.write("paid", [Cell(b"k", b"", 2, b"another")], state=b"another", over=None)
            [held] = empty.read([("paid", [b"k"])])
            assert (held.state, held.cells[0][0].value, empty.stats("paid").cells) == (b"another", b"another", 1)
            assert [cell.value for cell in empty.scan("paid")] == [b"another"]
            beside = [name.startswith("verify~69a42a40~") for name in used.spaces()]
            assert beside == [False] + [True] * (kind == "redis")
        assert (used.spaces(), used.state("paid")) == (["paid"], b"in use")
        used.drop("paid")
