"""What a drop leaves online: state that a model pins stays and goes on, the rest can be collected."""

from datetime import UTC, datetime, timedelta

import pytest

import mlray as ml
from mlray import moments
from mlray.discovery import Inventory, drop
from mlray.errors import UnknownName
from mlray.features.catalog import service_hash, service_text
from mlray.online.state import space
from mlray.registry.client import Registry
from mlray.registry.model_version import ModelVersion
from mlray.spaces import drop_unread

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW = moments.of("now", NOON)
PAID = ml.DeltaSource("payments", path="payments", timestamp="at")
VIEW = ml.FeatureView("paid", entity=ml.Entity("user", keys=["user_id"]), source=PAID, features=[
    ml.Count(windows=[ml.days(1)])])
SERVICE = ml.FeatureService("fraud", features=[VIEW])


@pytest.fixture
def platform(tmp_path) -> ml.Platform:
    """The service, loaded, and then its view dropped."""
    made = ml.connect(ml.Settings(lake=str(tmp_path / "lake"), online=f"lmdb://{tmp_path}/online"))
    made.applied.apply(SERVICE)
    made.ingest("payments", [{"user_id": 7, "at": NOON}])
    made.materialize("fraud", until=NOON)
    registry = Registry.connect(f"sqlite:///{tmp_path}/registry.db", str(tmp_path / "artifacts"), embedded=True)
    drop(Inventory.of(made.applied, []), made.applied, registry, "paid")
    return made


def pinning() -> ModelVersion:
    known = {"service": "fraud", "service_hash": service_hash(SERVICE), "service_definition": service_text(SERVICE),
             "name": "m", "version": 1, "author": "a", "created_at": NOON, "updated_at": NOON, "aliases": ()}
    rest = ("digest", "sources", "fingerprint", "spine", "features", "label", "metrics", "run_id", "config",
            "provenance", "signature")
    return ModelVersion(**known, **dict.fromkeys(rest, ""))


def count(platform: ml.Platform) -> int:
    at = NOON + timedelta(hours=1)
    return platform.get_features(SERVICE, [{"user_id": 7}], at=at).column("count_1d").to_pylist()[0]


def test_events_go_on_to_reach_what_was_dropped(platform):
    platform.ingest(PAID, [{"user_id": 7, "at": NOON + timedelta(minutes=1)}])

    assert count(platform) == 2
    with pytest.raises(UnknownName, match="source in any applied feature service 'payments'"):
        platform.ingest("payments", [{"user_id": 7, "at": NOON}])


def test_state_that_a_version_pins_stays_and_goes_with_the_last_one(platform):
    assert drop_unread(platform.online, platform.applied, [pinning()], NOW) == []
    assert count(platform) == 1

    [gone] = drop_unread(platform.online, platform.applied, [], NOW)

    assert (gone.view, space(VIEW) in platform.online.spaces()) == ("paid", False)


def test_what_is_applied_again_is_in_force_again_with_its_state(platform):
    platform.applied.apply(SERVICE)

    assert platform.applied.past_views() == []
    platform.ingest("payments", [{"user_id": 7, "at": NOON + timedelta(minutes=1)}])
    assert count(platform) == 2
