"""Features and model, from rows to scores. Knows no Ray Serve.

A version pins the service that it was trained with: the definition by content hash, the vectors by names and types.
"""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlray.aggregation.window import Instants
from mlray.errors import CorruptArtifact, DefinitionChanged, Forbidden
from mlray.features.applied import changed_views
from mlray.features.catalog import service_from_text, service_hash
from mlray.features.on_demand import OnDemand
from mlray.features.service import FeatureService
from mlray.features.types import INSTANT, instants
from mlray.features.vector import request_fields
from mlray.gates.explainer import Explainer, Explanation
from mlray.online.retrieval import Reader, get_features
from mlray.online.state import state_of
from mlray.online.store import OnlineStore
from mlray.registry.model_version import ModelVersion
from mlray.training.model import Model


@dataclass(frozen=True, slots=True)
class Predictions:
    """scores: (n,) in row order, or (n, classes); vectors: the features they come from, all of the service's."""

    scores: NDArray[np.float64]
    vectors: pa.Table


@dataclass(frozen=True)
class Predictor:
    """One model version over one online store. Safe to share between threads.

    current: the definition in force, if the caller knows one. DefinitionChanged where it, or the service, differs from
    what the version pins. explainer: of the same checkpoint; None: predictions are not explained.
    """

    version: ModelVersion
    service: FeatureService
    model: Model
    store: OnlineStore
    current: FeatureService | None = None
    explainer: Explainer | None = None
    _checked: list[pa.Schema] = field(default_factory=list, init=False, repr=False, compare=False)
    _reader: Reader = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_reader", Reader(self.store, self.service))
        check_pinned(self.version, self.service, self.current)
        if self.model.signature.inputs != self.version.signature["inputs"]:
            raise CorruptArtifact(
                f"{self.version.reference}: the checkpoint takes other features than the version records; restore it"
            )

    def predict(self, rows: pa.Table, at: Instants) -> Predictions:
        """One score per row: its features as of `at`, then the model. Takes and raises what `get_features` does."""
        vectors = self._reader.read(rows, at).to_arrow()
        if vectors.schema not in self._checked:
            check_vectors(self.version, vectors.schema)
            self._checked[:] = [vectors.schema]
        return Predictions(self.model.predict(vectors), vectors)

    def explain(self, found: Predictions) -> Explanation:
        """Why the model said so. Forbidden where predictions are not explained."""
        if self.explainer is None:
            raise unexplained(self.version)
        return self.explainer.explain(found.vectors)

    def check(self) -> None:
        """Whether it could answer now: reads the store. Raises NotMaterialized, StoreError, DefinitionChanged."""
        check_vectors(self.version, vector_types(self.store, self.service))


def unexplained(version: ModelVersion) -> Forbidden:
    """What is said where a version is served without explanations."""
    return Forbidden(
        f"predictions of {version.reference} are not explained here; serve it with explain = true in [serving], which "
        "needs pip install 'mlray[explain]' and a training with [gates.explanation]"
    )


def pinned_service(version: ModelVersion) -> FeatureService:
    """The feature service as the version recorded it."""
    return service_from_text(version.service_definition)


def check_pinned(version: ModelVersion, service: FeatureService, current: FeatureService | None = None) -> None:
    """DefinitionChanged unless service, version and the definition in force are one."""
    if service_hash(service) != version.service_hash:
        raise DefinitionChanged(
            f"{_trained(version)}, this is {service.name} {service_hash(service)[:12]}; "
            f"{_difference(pinned_service(version), service)}; train again"
        )
    if current is not None and service_hash(current) != version.service_hash:
        raise DefinitionChanged(
            f"{_trained(version)}, but {service_hash(current)[:12]} is applied; {_difference(service, current)}; "
            "train and register a new version, or apply the former definition"
        )
    missing = [name for name in version.signature["inputs"] if name not in service.names]
    if missing:
        raise DefinitionChanged(
            f"{version.reference} takes '{missing[0]}', which feature service {service.name} does not have; train again"
        )


def check_vectors(version: ModelVersion, schema: pa.Schema) -> None:
    """DefinitionChanged unless every feature that the model takes has the type it had in training."""
    for name, kind in version.signature["inputs"].items():
        here = str(schema.field(name).type) if name in schema.names else "missing"
        if here != kind:
            raise DefinitionChanged(
                f"{version.reference}: feature '{name}' was {kind} in training and is {here} online; give the source's "
                "column its former type and materialize, or train again"
            )


def vector_types(store: OnlineStore, service: FeatureService) -> pa.Schema:
    """The names and types of the vectors that the store gives now, by asking for a row of nulls."""
    names = [*service.keys, *service.request]
    rows = pa.table({name: pa.nulls(1) for name in names}) if names else pa.table({"": pa.nulls(1)})
    return get_features(store, service, rows, instants(pa.nulls(1, INSTANT), "at")).schema


def row_types(store: OnlineStore, service: FeatureService) -> dict[str, pa.DataType]:
    """What a row of a request holds: request fields as declared, then entity keys as the online state has them."""
    empty = pa.table({name: pa.nulls(0) for name in service.request})
    declared = request_fields(service, empty).schema
    types = {name: declared.field(name).type for name in service.request}
    for read in service.reads:
        events = state_of(store, read.view).events
        for here, key in zip(read.spine_keys, read.view.keys, strict=True):
            types.setdefault(here, events.field(key).type)
    return types


def _difference(before: FeatureService, after: FeatureService) -> str:
    """In words: views, then features added and removed, then on-demand functions."""
    functions = {f.name: f for f in before.on_demand}
    changed = [f"view {name} changed" for name in changed_views(before, after)]
    changed += [f"{name} is new" for name in after.names if name not in before.names]
    changed += [f"{name} is gone" for name in before.names if name not in after.names]
    changed += [f"on-demand {f.name} changed" for f in after.on_demand if _other(functions.get(f.name), f)]
    return ", ".join(changed) or "request types or the order of features changed"


def _other(before: OnDemand | None, after: OnDemand) -> bool:
    return before is not None and before != after


def _trained(version: ModelVersion) -> str:
    return f"{version.reference} was trained with feature service {version.service} {version.service_hash[:12]}"
