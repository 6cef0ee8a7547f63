"""A predictor answers with the definition that its version pins, or not at all."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from shop import NOON, Shop, purchases, row, service, spending, traffic

import mlray as ml
from mlray.errors import CorruptArtifact, DefinitionChanged, NotMaterialized, StoreError
from mlray.features.catalog import service_hash, service_text
from mlray.ingest import ingest
from mlray.materialize import materialize
from mlray.online.store import open_store
from mlray.serving.app import Served, check
from mlray.serving.config import Config
from mlray.serving.predictor import vector_types


def test_the_service_is_rebuilt_from_the_version_alone(shop: Shop) -> None:
    assert service_hash(shop.predictor().service) == shop.version.service_hash == service_hash(service())


def test_an_applied_definition_with_a_changed_view_is_refused_by_name(shop: Shop) -> None:
    changed = ml.FeatureView("spending", entity=spending.entity, source=purchases, features=[
        "country", ml.Count(windows=[ml.days(7)]), ml.Mean("amount", windows=[ml.days(7)], where="amount > 0"),
    ])
    current = ml.FeatureService("fraud", features=[changed, traffic])
    with pytest.raises(DefinitionChanged, match="is applied; view spending changed, amount is gone"):
        shop.predictor(current=current)


def test_an_applied_definition_with_other_features_names_them(shop: Shop) -> None:
    more = traffic.prefixed("again_")
    with pytest.raises(DefinitionChanged, match="again_amount_sum_1d is new; train and register a new version"):
        shop.predictor(current=service(more))


def test_a_service_that_is_not_the_recorded_one_is_refused(shop: Shop) -> None:
    with pytest.raises(DefinitionChanged, match=r"this is fraud .*again_amount_sum_1d is new"):
        shop.predictor(service=service(traffic.prefixed("again_")))


def test_a_model_of_another_signature_than_recorded_is_corrupt(shop: Shop) -> None:
    model = shop.predictor().model
    inputs = {**model.signature.inputs, "count_7d": "double"}
    with pytest.raises(CorruptArtifact, match="fraud/1: the checkpoint takes other features"):
        shop.predictor(model=replace(model, signature=replace(model.signature, inputs=inputs)))


def test_a_version_that_takes_what_its_service_lacks_is_refused(shop: Shop) -> None:
    less = ml.FeatureService("fraud", features=[traffic])
    version = replace(shop.version, service_hash=service_hash(less), service_definition=service_text(less))
    with pytest.raises(DefinitionChanged, match="takes 'country', which feature service fraud does not have"):
        shop.predictor(version=version, service=less)


def test_a_column_of_another_type_online_is_refused_when_asked(shop: Shop, tmp_path: Path) -> None:
    store = open_store(f"lmdb://{tmp_path}/online")
    whole = pa.table({"user_id": [1], "channel": ["web"], "country": ["PT"], "amount": [3],
                      "bought_at": pa.array([0], pa.timestamp("us", "UTC"))})
    ingest(store, purchases, [spending, traffic], whole, f"{tmp_path}/lake", now=0)
    with pytest.raises(DefinitionChanged, match="feature 'amount_sum_1d' was double in training and is int64 online"):
        shop.predictor(store=store).check()
    store.close()


def test_a_store_without_the_views_is_not_materialized(shop: Shop, tmp_path: Path) -> None:
    store = open_store(f"lmdb://{tmp_path}/online")
    with pytest.raises(NotMaterialized, match=r"platform\.materialize"):
        shop.predictor(store=store).check()
    store.close()
    with pytest.raises(StoreError):
        shop.predictor(store=store).check()


def test_over_redis_the_vectors_are_the_same_and_a_server_takes_its_url(shop: Shop, redis_url: str) -> None:
    url = f"{redis_url}?db=4"
    with closing(open_store(url)) as store:
        until, history = int(NOON.timestamp() * 1e6), 2 * 86_400_000_000
        assert len(list(materialize(store, service(), shop.lake, until=until, history=history))) == 2
        over_redis = Shop(shop.root, store, shop.registry, shop.version)
        assert over_redis.features([row(), row(user_id=9)], NOON) == shop.features([row(), row(user_id=9)], NOON)
    places = {"online": url, "artifacts": shop.artifacts, "lake": shop.lake, "log": ""}
    check(Served(versions=(shop.version,), config=Config(), current={}, **places))


def test_the_types_of_vectors_are_known_before_the_first_row(shop: Shop) -> None:
    assert {f.name: str(f.type) for f in vector_types(shop.store, service())} == shop.version.signature["inputs"]
