"""Who uses what: found by a part of a name, told in full, followed to models, dropped only where none serves."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

import mlray as ml
from mlray import days, hours
from mlray.discovery import Drop, Fed, Found, Inventory, describe, drop, find, impact
from mlray.errors import Conflict, UnknownName
from mlray.features.applied import Applied
from mlray.features.catalog import service_from_text, service_hash, service_text
from mlray.registry.client import Registry
from mlray.registry.model_version import ModelVersion

USER = ml.Entity("user", keys=["user_id"])
PURCHASES = ml.DeltaSource("purchases", path="shop/purchases", timestamp="at", lag=hours(1), where="amount > 0")
WEATHER = ml.DeltaSource("weather", path="weather", timestamp="at")
SPENDING = ml.FeatureView("spending", entity=USER, source=PURCHASES, owner="payments", features=[
    "country", ml.Mean("amount", windows=[days(7)]), ml.Count(windows=[days(1)], where="country = 'PT'", name="pt")])
RAIN = ml.FeatureView("rain", entity=None, source=WEATHER, features=["millimetres"])
CART = ml.RequestSource("cart", schema={"amount_now": float})


@ml.on_demand(RAIN, CART)
def wet_amount(millimetres, amount_now):
    """The amount, more of it in the rain."""
    return millimetres * amount_now


FRAUD = ml.FeatureService("fraud", features=[SPENDING, RAIN, CART])
CHURN = ml.FeatureService("churn", features=[SPENDING["country"]])


def version(of: ml.FeatureService, number: int, stage: str = "None", **more: Any) -> ModelVersion:
    known: dict[str, Any] = {
        "service": of.name, "service_hash": service_hash(of), "service_definition": service_text(of),
        "name": of.name, "version": number, "stage": stage, "author": "ana", "aliases": (),
        "created_at": datetime(2026, 3, 1, tzinfo=UTC), "updated_at": datetime(2026, 3, 1, tzinfo=UTC),
    }
    rest = ("digest", "sources", "fingerprint", "spine", "features", "label", "metrics", "run_id", "config",
            "provenance", "signature")
    return ModelVersion(**dict.fromkeys(rest, ""), **{**known, **more})


@pytest.fixture
def applied(tmp_path: Path) -> Applied:
    """Two services in force over one table that is there."""
    rows = {"user_id": [7], "at": [datetime(2026, 3, 1, tzinfo=UTC)], "amount": [2.5], "country": ["PT"]}
    write_deltalake(str(tmp_path / "shop" / "purchases"), pa.table(rows))
    known = Applied(str(tmp_path))
    for service in (FRAUD, CHURN):
        known.apply(service)
    return known


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """A registry without any model."""
    return Registry.connect(f"sqlite:///{tmp_path}/registry.db", str(tmp_path / "artifacts"), embedded=True)


def test_a_part_of_a_name_finds_things_of_every_kind_the_exact_name_first(applied):
    found = find(Inventory.of(applied, [version(FRAUD, 1), version(FRAUD, 2, "Production")]), "FRAUD")

    assert found == [
        Found("service", "fraud", "5 features", "fraud"),
        Found("model", "fraud", "service fraud", "Production: fraud/2"),
    ]
    assert [(one.kind, one.name, one.within, one.used_by) for one in find(Inventory.of(applied, []), "spend")] == [
        ("view", "payments/spending", "source purchases", "churn, fraud")]


def test_a_team_finds_its_views_and_a_column_its_features(applied):
    inventory = Inventory.of(applied, [])

    assert [one.name for one in find(inventory, "payments")] == ["payments/spending"]
    assert [(one.kind, one.name, one.within) for one in find(inventory, "amount")] == [
        ("feature", "amount_mean_7d", "view payments/spending")]
    assert find(inventory, "nothing of the kind") == []
    assert {one.kind for one in find(inventory, "")} == {"entity", "source", "view", "feature", "service"}


def test_a_view_is_told_in_full_with_and_without_its_owner(applied, tmp_path):
    inventory = Inventory.of(applied, [version(FRAUD, 3, "Staging", aliases=("candidate",))])

    told = describe(applied, inventory, str(tmp_path), "spending")["view spending"]

    assert told == describe(applied, inventory, str(tmp_path), "payments/spending")["view payments/spending"]
    assert (told["owner"], told["entity"], told["source"]) == ("payments", "user (user_id)", "purchases")
    assert told["services"] == "churn, fraud"
    assert told["features"] == {
        "country": "string, country in the newest row of purchases",
        "amount_mean_7d": "double, mean of amount over 7d of purchases",
        "pt": "int64, count where country = 'PT' over 1d of purchases",
    }
    assert told["models"] == {"fraud/3": "Staging, candidate, service fraud, as in force"}


def test_a_source_is_told_with_its_table_as_it_lies_there(applied, tmp_path):
    inventory = Inventory.of(applied, [])

    told = describe(applied, inventory, str(tmp_path), "purchases")["source purchases"]

    assert (told["lag"], told["where"], told["views"]) == ("1h", "amount > 0", "payments/spending")
    assert (told["table"]["at"], told["table"]["rows"]) == (f"{tmp_path}/shop/purchases version 0", "1")
    assert told["table"]["columns"]["amount"] == "double"
    [rain] = describe(applied, inventory, str(tmp_path), "weather").values()
    assert rain["table"] == f"there is no Delta table at {tmp_path}/weather yet"


def test_one_name_of_two_kinds_is_told_for_both(applied, tmp_path):
    inventory = Inventory.of(applied, [version(FRAUD, 1), version(FRAUD, 2, "Canary")])

    told = describe(applied, inventory, str(tmp_path), "fraud")

    assert list(told) == ["service fraud", "model fraud"]
    assert told["service fraud"]["sent with a request"] == {"amount_now": "float64"}
    assert list(told["model fraud"]["versions"].values()) == [
        "None, service fraud, as in force", "Canary, service fraud, as in force"]
    assert list(describe(applied, inventory, str(tmp_path), "fraud", "model")) == ["model fraud"]
    assert describe(applied, inventory, str(tmp_path), "user") == {
        "entity user": {"keys": "user_id", "views": "payments/spending"}}


def test_a_service_tells_every_definition_it_had(applied, tmp_path):
    applied.apply(ml.FeatureService("fraud", features=[SPENDING]))

    told = describe(applied, Inventory.of(applied, []), str(tmp_path), "fraud")["service fraud"]["definitions"]

    assert len(told) == 2
    assert [text.endswith(", in force") for text in told.values()] == [True, False]


def test_an_unknown_name_points_at_the_nearest(applied, tmp_path):
    inventory = Inventory.of(applied, [])

    with pytest.raises(UnknownName, match="did you mean 'spending'"):
        describe(applied, inventory, str(tmp_path), "spendin")
    with pytest.raises(UnknownName, match="there is no view 'purchases'"):
        impact(inventory, "purchases", "view")


def test_a_source_is_followed_to_views_services_and_models_live_ones_first(applied):
    earlier = ml.FeatureService("fraud", features=[SPENDING])
    live = version(FRAUD, 3, "Production", aliases=("champion",))
    versions = [version(earlier, 1, "Archived"), version(FRAUD, 2), live]

    fed = impact(Inventory.of(applied, versions), "purchases")

    assert fed == [
        Fed("view", "payments/spending", "", "", "in force"),
        Fed("service", "churn", "", "", "in force"),
        Fed("service", "fraud", "", "", "in force"),
        Fed("model", "fraud/3", "Production", "champion", "in force"),
        Fed("model", "fraud/2", "None", "", "in force"),
        Fed("model", "fraud/1", "Archived", "", f"earlier: fraud {service_hash(earlier)[:12]}"),
    ]
    assert [one.name for one in impact(Inventory.of(applied, versions), "weather") if one.kind == "model"] == [
        "fraud/3", "fraud/2"]


def test_a_dropped_view_is_found_no_more_and_the_versions_that_pin_it_rebuild(applied, registry):
    pinned = version(FRAUD, 1, "Staging")
    inventory = Inventory.of(applied, [pinned])

    done = drop(inventory, applied, registry, "payments/spending")

    gone = ("payments/spending",)
    assert done == [Drop("churn", "withdrawn", gone), Drop("fraud", "without", gone)]
    after = Inventory.of(applied, [pinned])
    assert find(after, "spending") == []
    assert applied.get("fraud").names == ["millimetres", "amount_now"]
    assert service_from_text(pinned.service_definition) == FRAUD
    assert [one.name for one in impact(after, "spending")] == ["fraud/1"]
    assert SPENDING in applied.past_views()  # `online gc` and `ingest` go on as long as a version reads it


def test_a_dropped_source_takes_its_views_along_and_a_service_alone_goes_alone(applied, registry):
    assert drop(Inventory.of(applied, []), applied, registry, "churn") == [Drop("churn", "withdrawn", ())]
    assert applied.views() == [SPENDING, RAIN]

    drop(Inventory.of(applied, []), applied, registry, "weather")

    assert applied.get("fraud").views == (SPENDING,)


def test_a_withdrawn_service_comes_back_when_it_is_applied_again(applied):
    applied.withdraw("churn")

    assert applied.names() == ["fraud"]
    with pytest.raises(UnknownName, match="applied feature service 'churn'"):
        applied.get("churn")
    applied.apply(CHURN)
    assert applied.get("churn") == CHURN


def test_a_view_that_an_on_demand_feature_needs_stays(applied, registry):
    applied.apply(ml.FeatureService("damp", features=[wet_amount]))

    with pytest.raises(Conflict, match="the on-demand feature 'wet_amount' of service damp needs rain"):
        drop(Inventory.of(applied, []), applied, registry, "rain")
    assert "millimetres" in applied.get("fraud").names
    assert registry.audit() == []


def test_two_kinds_of_one_name_are_not_guessed_between(applied, registry):
    applied.apply(ml.FeatureService("rain", features=[RAIN]))

    with pytest.raises(UnknownName, match="'rain' is a view and a service; say which: kind='view'"):
        drop(Inventory.of(applied, []), applied, registry, "rain")
    with pytest.raises(UnknownName, match="is the entity user, which cannot be dropped"):
        drop(Inventory.of(applied, []), applied, registry, "user")


ODD = ["[]", "{", '{"name": 1, "views": []}', "[" * 100_000, '{"views": {"v": {"ttl": 1e40}}}']


@pytest.mark.parametrize("text", ODD)
def test_what_somebody_registered_as_a_service_and_is_none_breaks_no_listing(applied, text):
    odd = version(FRAUD, 1, service_definition=text)

    assert impact(Inventory.of(applied, [odd, version(FRAUD, 2)]), "weather")[-1].name == "fraud/2"


def test_a_version_without_a_service_reads_nothing(applied, registry):
    foreign = version(FRAUD, 1, "Production", service="", service_hash="", service_definition="")

    assert impact(Inventory.of(applied, [foreign]), "purchases")[-1].kind == "service"
    drop(Inventory.of(applied, [foreign]), applied, registry, "churn")
