"""What of the data is refused before a step is trained, and by which name."""

import logging
from typing import Any

import pyarrow as pa
import pytest

import mlray as ml
from mlray.errors import ConfigError, SchemaError, TrainingFailed
from mlray.features.catalog import service_text
from mlray.training.kinds import config_of
from mlray.training.launch import read_columns
from mlray.training.preparation import assign_parts, check, observe
from tests.training.made import FEATURES, SPLIT, MadeSet, table

DATA = table(500)  # 300 rows of them are of the train part
SHOP = ml.FeatureView(
    "shop",
    entity=ml.Entity("user", keys=["user"]),
    source=ml.DeltaSource("shop", path="shop", timestamp="at"),
    features=["amount", "visits", "rate", "weekend"],
)
SERVICE = ml.FeatureService("shop", features=[SHOP, ml.RequestSource("asked", schema={"country": str})])


def prepared(empty: dict[str, pa.Array], **settings: Any) -> None:
    """Looks at the table with these columns, as a training does before it encodes them."""
    data = DATA
    for name, values in empty.items():
        data = data.set_column(data.schema.names.index(name), name, values)
    ts = MadeSet(dataset=None, schema=data.schema, service_definition=service_text(SERVICE))
    config = config_of({"split": SPLIT, "storage": "runs", **settings})
    columns = read_columns(ts, config)
    check(observe(assign_parts(data, columns, config.split), columns), columns, config)


def null_until(row: int, name: str) -> pa.Array:
    whole = DATA.column(name).combine_chunks()
    return pa.concat_arrays([pa.nulls(row, whole.type), whole.slice(row)])


@pytest.mark.parametrize("model", ["mlp", "xgboost", "sklearn.svm:SVC"])
def test_features_without_a_value_in_training_are_refused_with_their_views(model: str) -> None:
    empty = {name: null_until(300, name) for name in ("rate", "country")}
    message = (
        r"the 300 rows of the train part have no value of feature 'rate' of view 'shop', 'country' of request source "
        r"'asked'; .* ignore=\['rate', 'country'\], or train all the same with allow_null=\['rate', 'country'\]"
    )
    with pytest.raises(TrainingFailed, match=message):
        prepared(empty, model=model)
    prepared(empty | {"rate": null_until(299, "rate"), "country": null_until(299, "country")}, model=model)


@pytest.mark.parametrize("model", ["mlp", "xgboost", "sklearn.svm:SVC"])
def test_a_feature_that_may_be_null_is_warned_of_and_one_that_is_not_read_is_not(
    model: str, caplog: pytest.LogCaptureFixture
) -> None:
    empty = {"rate": null_until(500, "rate"), "country": pa.nulls(500)}
    with caplog.at_level(logging.WARNING):
        prepared(empty, model=model, allow_null=["rate"], ignore=["country"])
    assert caplog.messages == ["feature 'rate' is null in every training row; the model learns nothing from it"]


def test_a_feature_that_may_be_null_is_one_of_the_features() -> None:
    with pytest.raises(SchemaError, match=r"allow_null.*'rat'.*did you mean 'rate'"):
        prepared({}, allow_null=["rat"])


def test_what_may_be_null_changes_nothing_of_what_comes_out() -> None:
    for model in ("mlp", "xgboost"):
        plain, allowed = (
            config_of({"split": SPLIT, "storage": "runs", "model": model, **more})
            for more in ({}, {"allow_null": FEATURES})
        )
        assert plain.identity() == allowed.identity()


@pytest.mark.parametrize("model", ["mlp", "xgboost", "sklearn.svm:SVC"])
def test_a_run_lies_in_a_directory_and_not_under_a_url(model: str) -> None:
    with pytest.raises(ConfigError, match="storage is 's3://bucket/runs'; it must be a directory that every node sees"):
        config_of({"split": SPLIT, "storage": "s3://bucket/runs", "model": model})
