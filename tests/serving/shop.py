"""A small shop: purchases in Delta and online, a feature service, a model of random weights, a registry that has it."""

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import torch
import xgboost

import mlray as ml
from mlray.features.catalog import service_hash, service_text
from mlray.features.types import INSTANT, instants
from mlray.gates.explanation import explain_model, write_explanation
from mlray.gates.settings import Explanation
from mlray.ingest import ingest
from mlray.materialize import materialize
from mlray.online.retrieval import get_features
from mlray.online.store import OnlineStore, open_store
from mlray.registry.client import Registry
from mlray.registry.model_version import ModelVersion
from mlray.serving.predictor import Predictor, pinned_service, vector_types
from mlray.training.design import Design
from mlray.training.model import Model, Signature, load_model
from mlray.training.network import Features, NetworkScorer
from mlray.training.preprocessing import Number, Preprocessing, Text
from mlray.training.run import Run
from mlray.training.task import Task
from mlray.training.xgboost_model import BoosterScorer

Connect = Callable[..., httpx.Client]
"""Serves the shop's model with the settings given, at noon, and connects to it."""

NOON = datetime(2026, 1, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)

purchases = ml.DeltaSource("purchases", path="purchases", timestamp="bought_at")
spending = ml.FeatureView("spending", entity=ml.Entity("user", keys=["user_id"]), source=purchases, features=[
    "country", ml.Count(windows=[ml.days(7)]), ml.Mean("amount", windows=[ml.days(7)]),
])
traffic = ml.FeatureView("traffic", entity=ml.Entity("channel", keys=["channel"]), source=purchases, features=[
    ml.Sum("amount", windows=[ml.days(1)]),
])
checkout = ml.RequestSource("checkout", schema={
    "amount": float, "items": int, "channel": str, "gift": bool, "joined": datetime, "born": date,
})


@ml.on_demand(spending, checkout)
def amount_vs_usual(amount, amount_mean_7d):  # type: ignore[no-untyped-def]
    """How much more than usual."""
    return amount / amount_mean_7d


@ml.on_demand(checkout)
def days_known(joined, at):  # type: ignore[no-untyped-def]
    """Days since the user joined."""
    return (at - joined) / np.timedelta64(1, "D")


@ml.on_demand(checkout)
def adult(born, at):  # type: ignore[no-untyped-def]
    """Whether 18 years have passed."""
    return np.array([b is not None and (t.astype("datetime64[D]") - np.datetime64(b)).astype(int) > 6574
                     for b, t in zip(born, at, strict=True)], dtype=float)


def service(*more: Any) -> ml.FeatureService:
    return ml.FeatureService("fraud", features=[
        spending, traffic, checkout["amount", "items", "channel", "gift"], amount_vs_usual, days_known, adult, *more,
    ])


def events() -> pa.Table:
    """User 1's mean has no short decimal form, user 2 has no country, user 3 pays nothing."""
    return pa.table({
        "user_id": [1, 1, 1, 2, 3],
        "channel": ["web", "web", "shop", "web", "shop"],
        "country": ["PT", "PT", "DE", None, "PT"],
        "amount": [0.1, 0.2, 4.7, 10.0, 0.0],
        "bought_at": pa.array([NOON - hours * HOUR for hours in (5, 4, 3, 2, 2)], INSTANT),
    })


def row(**changed: Any) -> dict[str, Any]:
    """One row of a request, in JSON's types."""
    return {"user_id": 1, "amount": 12.5, "items": 2, "channel": "web", "gift": False,
            "joined": "2025-01-10T12:00:00Z", "born": "2000-02-29", **changed}


@dataclass(frozen=True)
class Shop:
    """Where everything lies, opened."""

    root: Path
    store: OnlineStore
    registry: Registry
    version: ModelVersion

    @property
    def online(self) -> str:
        return f"lmdb://{self.root}/online"

    @property
    def artifacts(self) -> str:
        return f"{self.root}/artifacts"

    @property
    def lake(self) -> str:
        return f"{self.root}/lake"

    def predictor(self, **changed: Any) -> Predictor:
        checkpoint = self.registry.download(self.version, self.root / "checkpoint")
        made = Predictor(self.version, pinned_service(self.version), load_model(checkpoint), self.store)
        return replace(made, **changed)

    def explained(self, name: str, model: Model) -> ModelVersion:
        """The model registered with what a run with [gates.explanation] keeps."""
        checkpoint, background = self.root / f"trained-{name}", self.features(asked(), NOON)
        model.save(checkpoint)
        result = explain_model(model, background, background, Explanation())
        write_explanation(checkpoint, result, background, model.features)
        return self.registry.register(name, run(checkpoint, background.column_names))

    def features(self, rows: list[dict[str, Any]], at: datetime) -> pa.Table:
        """What `get_features` answers, asked with Arrow's own types."""
        typed = [{**one, "joined": datetime.fromisoformat(one["joined"]), "born": date.fromisoformat(one["born"])}
                 for one in rows]
        q = instants(pa.array([at] * len(rows), INSTANT), "at")
        return get_features(self.store, service(), pa.Table.from_pylist(typed), q)


def open_shop(root: Path) -> Shop:
    """Ingests, materializes, saves a model and registers it as fraud/1."""
    store = open_store(f"lmdb://{root}/online")
    ingest(store, purchases, [spending, traffic], events(), f"{root}/lake", now=0)
    until, history = int(NOON.timestamp() * 1e6), 2 * 86_400_000_000
    assert len(list(materialize(store, service(), f"{root}/lake", until=until, history=history))) == 2
    types = vector_types(store, service())
    model(types).save(root / "trained")
    registry = Registry.connect(f"sqlite:///{root}/registry.db", f"{root}/artifacts", embedded=True)
    return Shop(root, store, registry, registry.register("fraud", run(root / "trained", types.names)))


def model(types: pa.Schema) -> Model:
    """A network of random weights over every feature."""
    texts = tuple(Text(name=f.name, vocabulary=("DE", "PT", "web")) for f in types if pa.types.is_string(f.type))
    numbers = tuple(Number(name=f.name, mean=0.5, std=2.0, indicator=True) for f in types
                    if not pa.types.is_string(f.type))
    preprocessing = Preprocessing(numbers=numbers, texts=texts)
    torch.manual_seed(7)
    scorer = NetworkScorer.build("mlp", {"hidden": (8,)}, Features.of(preprocessing, Task()))
    return Model(scorer, preprocessing, Signature(inputs={f.name: str(f.type) for f in types}, label="is_fraud"))


def trees(types: pa.Schema, rows: pa.Table) -> Model:
    """Trees of XGBoost that were grown on rows of a made-up label."""
    network = model(types)
    encoded, design = network.preprocessing.encode(rows), Design.of(network.preprocessing, one_hot=True)
    matrix = design.matrix(encoded.numbers, encoded.codes, np.float32)
    labels = matrix.sum(axis=1) > np.median(matrix.sum(axis=1))
    booster = xgboost.train({"objective": "binary:logistic", "nthread": 1}, xgboost.DMatrix(matrix, labels), 5)
    return replace(network, scorer=BoosterScorer(booster, design, Task()))


def asked() -> list[dict[str, Any]]:
    """Rows of all kinds."""
    return [row(user_id=i % 4, amount=0.1 * i * i, items=i % 5, channel="web" if i % 3 else "shop") for i in range(24)]


def run(checkpoint: Path, features: list[str]) -> Run:
    return Run(
        id="run-1", metrics={"test_auc": 0.75, "seconds": float("nan")}, checkpoint=str(checkpoint), service="fraud",
        service_hash=service_hash(service()), service_definition=service_text(service()), sources={"purchases": 0},
        fingerprint="ab" * 32, spine="made up", features=tuple(features), label="is_fraud", config={}, provenance={},
        history=(),
    )


def bits(column: pa.ChunkedArray | pa.Array) -> list[Any]:
    """The type and the values, floats as their eight bytes."""
    values = [struct.pack(">d", v) if isinstance(v, float) else v for v in column.to_pylist()]
    return [str(column.type), *values]
