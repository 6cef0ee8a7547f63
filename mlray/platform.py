"""`Platform`: every verb in one place, wired and nothing more. What it does is callable from the packages below it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from mlray import cluster, moments
from mlray.aggregation.window import microseconds
from mlray.discovery import Drop, Fed, Found, Inventory, apply, describe, drop, find, impact
from mlray.discovery.inventory import Kind
from mlray.features.applied import Applied, Diff
from mlray.features.catalog import service_from_text
from mlray.features.entity import Entity
from mlray.features.evaluate import view_schema
from mlray.features.rows import check_expressions
from mlray.features.service import FeatureService
from mlray.features.source import DeltaSource
from mlray.gates.settings import Gates
from mlray.ingest import Ingested
from mlray.materialize import Materialized, materialize
from mlray.offline import delta, training_set
from mlray.offline.compaction import Compacted
from mlray.offline.layout import LaidOut, lay_out
from mlray.offline.plan import Strategy
from mlray.offline.spine import in_memory
from mlray.offline.training_set import TrainingSet
from mlray.offline.written import WrittenSet
from mlray.online.retrieval import Reader, Vectors
from mlray.online.store import OnlineStore, open_store
from mlray.registry.artifacts import ArtifactStore
from mlray.registry.client import Registry
from mlray.registry.model_version import ModelVersion
from mlray.reproduce import Reproduction, reproduce
from mlray.serving.prediction_log import logged
from mlray.settings import Settings
from mlray.spaces import Dropped, SpaceStats, drop_unread, empty_store, space_stats
from mlray.verify import FRESHNESS, LogVerification, Verification, sampled_spine, verify, verify_log
from mlray.writer.actor import running_writer
from mlray.writer.parts import ingest_parts
from mlray.writer.writer import Writer

if TYPE_CHECKING:
    from mlray.retrain import Retrained
    from mlray.serving.app import Running
    from mlray.training.kinds import Config
    from mlray.training.run import Run

_READERS = 64
"""Services whose reader is kept."""


def connect(settings: Settings | str | Path | None = None) -> "Platform":
    """A platform from settings, from a TOML file's [platform] table, or from MLRAY_* variables. Starts no Ray."""
    if isinstance(settings, str | Path):
        settings = Settings.load(settings)
    return Platform(settings or Settings())


class Platform:
    """One lake, one online store, one registry."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._readers: dict[int, Reader] = {}

    @cached_property
    def applied(self) -> Applied:
        """The definitions in force."""
        return Applied(self.settings.lake)

    @property
    def online(self) -> OnlineStore:
        """The online store; ConfigError where it belongs to one machine and the joined Ray cluster has several."""
        cluster.check_store(self.settings.online)
        return self._store

    @cached_property
    def _store(self) -> OnlineStore:
        return open_store(self.settings.online)

    @cached_property
    def registry(self) -> Registry:
        """The model registry, by its actor in the Ray cluster."""
        self.join_ray()
        return Registry.connect(self.settings.registry, self.settings.artifacts, token=self.settings.token)

    def apply(self, service: FeatureService) -> Diff:
        """Checks the service against its tables, puts it in force and prints what changed."""
        diff = self.applied_diff(service)
        print(diff)
        return diff

    def applied_diff(self, service: FeatureService) -> Diff:
        """`apply` without printing."""
        missing = {}
        for view in service.views:
            check_expressions(view)
            path = delta.resolve(self.settings.lake, view.source.path)
            if delta.exists(path):
                view_schema(view, delta.table_at(path, f"source {view.source.name}").schema)
            else:
                missing[view.source.name] = f"! source {view.source.name}: there is no Delta table at {path} yet"
        diff = apply(self.applied, lambda: self.registry, service)
        return replace(diff, lines=(*diff.lines, *missing.values()))

    def build_training_set(
        self,
        service: FeatureService | str,
        spine: Any,
        *,
        label: str | None = None,
        timestamp: str = "timestamp",
        join: Strategy = "auto",
        versions: Mapping[str, int | datetime] | None = None,
    ) -> TrainingSet:
        """The service's features as of each spine row's `timestamp`: a lazy Ray Dataset, one row per spine row.

        versions: by source, the Delta version to read where not the newest: its number, or an aware datetime.
        """
        self.join_ray()
        return training_set.build(
            self._service(service),
            spine,
            lake=self.settings.lake,
            label=label,
            timestamp=timestamp,
            join=join,
            versions=versions,
        )

    def layout(
        self,
        source: DeltaSource | str,
        entity: Entity | str | None = None,
        *,
        progress: Callable[[str], None] = lambda _: None,
    ) -> list[LaidOut]:
        """Keeps a copy of the source's table in the layout that training sets are built from fastest: sorted files in
        buckets of the entity's key. Only for speed; where there is one already, what is new is added.

        entity: None: every key by which views in force read the source. progress: told how far it is.
        """
        known = self.applied.source(source) if isinstance(source, str) else source
        keys = self.applied.keys_of(known, entity)
        self.join_ray()
        return [lay_out(self.settings.lake, known, columns, progress) for columns in keys]

    def ingest(self, source: DeltaSource | str, rows: Any, *, idempotency_key: str | None = None) -> Ingested:
        """Appends rows to a source's table, and to every online view of it; a used key adds nothing.

        Through the cluster's writer where this process has joined one and it runs, else in this process: see
        `mlray.writer`. Busy where too many rows wait; TimeError for an event later than now by more than the setting
        `future`.
        """
        known = self.applied.source(source) if isinstance(source, str) else source
        running = running_writer(self.settings.lake, self.settings.online, self.settings.future)
        put = self._writer.ingest if running is None else running.ingest
        return ingest_parts(put, known, in_memory(rows), idempotency_key)

    def compact(self, source: DeltaSource | str) -> Compacted:
        """Folds the small files of a source's table into few, whoever made it; the rows stay as they are."""
        known = self.applied.source(source) if isinstance(source, str) else source
        return self._writer.compact(known)

    @cached_property
    def _writer(self) -> Writer:
        """The writer of this process, for where none runs in the cluster."""
        return Writer(self.settings.lake, self.online, clock=moments.now, future=self.settings.future)

    def materialize(
        self,
        service: FeatureService | str,
        *,
        until: datetime | None = None,
        history: timedelta = timedelta(0),
        progress: Callable[[Materialized], None] = lambda _: None,
        note: Callable[[str], None] = lambda _: None,
    ) -> list[Materialized]:
        """Loads the service's views into the online store, with events up to `until` (now); a load that was cut off
        goes on.

        history: answers are exact from until - history on. progress: told of each view; note: how far a view is.
        """
        done = []
        for one in materialize(
            self.online,
            self._service(service),
            self.settings.lake,
            history=microseconds(history),
            until=moments.now() if until is None else moments.of("until", until),
            note=note,
        ):
            progress(one)
            done.append(one)
        return done

    def get_features(
        self, service: FeatureService | str, rows: Any, *, at: Any = None, status: bool | Literal["values"] = False
    ) -> pa.Table:
        """One feature vector per row, in order, as of `at`: an aware datetime, one time per row, or None for now.

        status: adds per view its status and the time of its newest event, with "values" also each feature's status.
        """
        return self.read_features(service, rows, at=at, status=status).to_arrow()

    def read_features(
        self, service: FeatureService | str, rows: Any, *, at: Any = None, status: bool | Literal["values"] = False
    ) -> Vectors:
        """`get_features` before it is made into an Arrow table: `to_pylist()` of a few rows is far faster."""
        known = self._service(service)
        are_dicts = isinstance(rows, list) and all(type(row) is dict for row in rows)
        given = rows if are_dicts else in_memory(rows)
        if not len(given):
            given = pa.table({name: pa.nulls(0) for name in [*known.keys, *known.request]})
        return self._reader(known).read(given, moments.instants_of(at, len(given)), status=status)

    def _reader(self, service: FeatureService) -> Reader:
        """Kept, for it holds what was compiled for the service."""
        if id(service) not in self._readers:
            if len(self._readers) >= _READERS:
                self._readers.clear()
            self._readers[id(service)] = Reader(self.online, service, as_table=in_memory)
        return self._readers[id(service)]

    def verify(
        self,
        service: FeatureService | str,
        rows: int = 1000,
        *,
        spine: Any = None,
        timestamp: str = "timestamp",
        seed: int = 0,
    ) -> Verification:
        """Compares offline as of t with online at t, per cell; without a spine on keys and instants from the tables."""
        self.join_ray()
        known, lake = self._service(service), self.settings.lake
        if spine is None:
            spine = sampled_spine(known, lake, timestamp, rows, seed)
        with (
            TemporaryDirectory(prefix="mlray-verify-") as folder,
            empty_store(self.settings.online, folder, moments.now()) as empty,
        ):
            return verify(known, self.online, lake, spine, timestamp, rows=rows, replay=empty, folder=f"{folder}/lake")

    def verify_log(
        self,
        service: FeatureService | str,
        rows: int = 1000,
        *,
        log: str = "predictions",
        freshness: timedelta = FRESHNESS,
    ) -> list[LogVerification]:
        """Compares what served models were given with the same rows rebuilt offline: every version that reads the
        service and has a log, each by the definition that it pins.

        rows: of each version's log. log: as in the configuration of serving. freshness: how long an event may take
        from its commit until it can be read online. TableNotFound where no version has a log.
        """
        name, lake = service if isinstance(service, str) else service.name, self.settings.lake
        versions = list(self.registry.each(service=name))
        return [
            verify_log(
                version.reference,
                service_from_text(version.service_definition),
                path,
                lake,
                rows=rows,
                freshness=freshness,
            )
            for version, path in logged(delta.resolve(lake, log), versions)
        ]

    def online_stats(self) -> list[SpaceStats]:
        """What the online store holds, view by view, by reading all of it."""
        return space_stats(self.online, self.applied)

    def online_gc(self, *, dry_run: bool = False) -> list[Dropped]:
        """Drops what the online store holds of definitions that are no longer in force and that no registered model
        version, in any stage, pins, and what a `verify` that was killed a day ago has left; dry_run: only tells.
        """
        return drop_unread(self.online, self.applied, self.registry.each(), moments.now(), dry_run=dry_run)

    @property
    def inventory(self) -> Inventory:
        """The services in force and the model versions that read them, as they are now."""
        return Inventory.of(self.applied, self.registry.list())

    def find(self, text: str) -> list[Found]:
        """Entities, sources, views (as owner/view), features, services and models whose name holds the text."""
        return find(self.inventory, text)

    def describe(self, name: str, kind: Kind | None = None) -> dict[str, Any]:
        """All that is known of an entity, source, view, service or model, as a tree of texts."""
        return describe(self.applied, self.inventory, self.settings.lake, name, kind)

    def impact(self, name: str, kind: Kind | None = None) -> list[Fed]:
        """The views, services and model versions that a source, an entity, a view or a service feeds."""
        return impact(self.inventory, name, kind)

    def drop(self, name: str, kind: Kind | None = None) -> list[Drop]:
        """Takes a view, a source or a service out of force; Conflict where a model in Production or Canary reads it."""
        return drop(self.inventory, self.applied, self.registry, name, kind)

    def reproduce(self, version: ModelVersion | str) -> Reproduction:
        """Builds a version's training set anew, from what the version recorded, and compares: see `Reproduction`."""
        self.join_ray()
        known = self.registry.get(version) if isinstance(version, str) else version
        return reproduce(known, self.settings.lake)

    def retrain(self, version: ModelVersion | str, ts: TrainingSet) -> "Retrained":
        """Trains a version again, by the configuration that it recorded, on its training set (see `reproduce`), and
        compares weights and metrics. The run lies beside the first one.
        """
        from mlray.retrain import retrain  # torch, as for `train`

        self.join_ray()
        known = self.registry.get(version) if isinstance(version, str) else version
        return retrain(known, ts, ArtifactStore(self.settings.artifacts), known.config["storage"])

    def train(
        self,
        config: "Config",
        ts: TrainingSet | WrittenSet | str | Path,
        *,
        gates: Gates | None = Gates(),  # noqa: B008 - frozen
        model: str | None = None,
        card: Mapping[str, str] = {},
        on_epoch: Callable[[Mapping[str, float]], None] | None = None,
        on_status: Callable[[Any], None] | None = None,
    ) -> "Run":
        """Trains on the training set: a network by `Trainer.Config`, trees by `XGBoostTrainer.Config`, an estimator of
        scikit-learn by `SklearnTrainer.Config`; see `mlray.training`. A path, under the lake where it is relative,
        is of one that `write_delta` wrote: nothing is computed again.

        gates: what the run has to find out, see `mlray.gates`; None: nothing. model: the registered model whose
        Production this one is compared with. card: what a person has to say about the model: purpose, owner, limits.
        on_epoch, on_status: see launch.py. GateFailed where a gate fails that stops the run; ConfigError where
        max_drop_vs_production is asked for without `model`.
        """
        from mlray.gates.job import train  # torch takes seconds to import and only this verb needs it
        from mlray.gates.judge import production_of
        from mlray.training.kinds import train as train_alone

        self.join_ray()
        if isinstance(ts, str | Path):
            ts = WrittenSet.read(delta.resolve(self.settings.lake, str(ts)))

        def loop(rows: TrainingSet | WrittenSet) -> "Run":
            return train_alone(config, rows, on_epoch=on_epoch, on_status=on_status)

        if gates is None:
            return loop(ts)
        return train(
            config,
            ts,
            gates,
            loop=loop,
            production=None if model is None else lambda folder: production_of(self.registry, model, folder),
            card=card,
        )

    def serve(self, *models: str, **settings: Any) -> "Running":
        """Answers predictions of these model versions ('flights/3', 'flights@candidate') over HTTP; returns when it
        does.

        settings: those of `mlray.serving.config.Config`, such as port=8000 or allow_at=True.
        """
        from mlray.serving.app import deploy  # FastAPI and torch, which no other verb needs
        from mlray.serving.config import Config

        self.join_ray()
        versions = [self.registry.get(model) for model in models]
        return deploy(
            Config.of(settings),
            versions,
            online=self.settings.online,
            artifacts=self.settings.artifacts,
            lake=self.settings.lake,
            current={name: self.applied.get(name) for name in self.applied.names()},
            future=self.settings.future,
        )

    def _service(self, service: FeatureService | str) -> FeatureService:
        return self.applied.get(service) if isinstance(service, str) else service

    def join_ray(self) -> None:
        """Joins the configured cluster, or starts a local one, once per process."""
        cluster.join(self.settings.ray)
