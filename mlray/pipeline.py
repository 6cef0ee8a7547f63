"""The stages from raw tables to a served model, one function each: what the CLI, the jobs and the demo call."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mlray.errors import ConfigError, UnknownName
from mlray.features.service import FeatureService
from mlray.features.source import DeltaSource
from mlray.gates.settings import Gates
from mlray.ingest import Ingested
from mlray.materialize import Materialized
from mlray.offline import fingerprint
from mlray.offline.training_set import TrainingSet
from mlray.offline.written import WrittenSet
from mlray.platform import Platform
from mlray.recipe import Recipe
from mlray.registry.client import Registry
from mlray.registry.model_version import ModelVersion
from mlray.serving.config import Config
from mlray.verify import LogVerification, Verification

if TYPE_CHECKING:
    from mlray.serving.app import Running
    from mlray.training.run import Run

RESULT_FILE = "result.json"
"""In a run's folder, beside what the training keeps there: the finished run."""


def ingest_tables(recipe: Recipe, platform: Platform) -> dict[str, Ingested]:
    """Ingests the recipe's tables; a table of the same content is not ingested twice."""
    return {
        name: platform.ingest(_source(recipe, name), rows, idempotency_key=content_key(rows))
        for name, rows in recipe.tables().items()
    }


def content_key(rows: pa.Table) -> str:
    """An idempotency key for a table: its content."""
    return fingerprint.combined([fingerprint.digest(rows)], rows.schema)[:32]


def training_set(recipe: Recipe, platform: Platform, service: FeatureService | None = None) -> TrainingSet:
    """The recipe's training set, lazily."""
    return platform.build_training_set(
        service or recipe.service, recipe.spine(), label=recipe.label, timestamp=recipe.timestamp
    )


def train_model(
    recipe: Recipe,
    platform: Platform,
    ts: TrainingSet | WrittenSet,
    on_epoch: Callable[[Any], None] | None = None,
    on_status: Callable[[Any], None] | None = None,
    *,
    judged: bool = True,
) -> "Run":
    """Trains as [training] says, through the gates of [gates] unless not `judged`. The run is named by data, code and
    configuration, so an interrupted one goes on, and a finished one is not trained again.
    """
    from mlray.training.kinds import config_of  # torch takes seconds to import

    platform.join_ray()
    settings = {"storage": runs_folder(recipe), **recipe.training}
    gates = Gates.from_json(recipe.gates) if judged else None
    card = recipe.card if judged else {}
    judging = [None if gates is None else asdict(gates), card]
    outcome = [config_of(settings).outcome(), judging, code_of(recipe.training, gates)]
    digest = hashlib.sha256(f"{json.dumps(outcome, sort_keys=True)}{ts.fingerprint}".encode()).hexdigest()
    config = config_of({"run": f"{ts.service}-{digest[:12]}", **settings})
    path = Path(config.storage, str(config.run), RESULT_FILE)
    if path.exists():
        return read_run(path)
    model = recipe.model_name if judged else None
    run = platform.train(config, ts, gates=gates, model=model, card=card, on_epoch=on_epoch, on_status=on_status)
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps(asdict(run)))
    aside.replace(path)
    return run


def code_of(training: Mapping[str, Any], gates: Gates | None) -> dict[str, str]:
    """SHA-256 of each file that a run is made of besides the features': of its model, its schema and its suite."""
    from mlray.training.imported import file_sha256

    named = [training.get("model"), dict(training.get("network", {})).get("model")]
    validation = None if gates is None else gates.data_validation
    named += [] if validation is None else [validation.schema, validation.suite]
    found = {}
    for path in map(str, filter(None, named)):
        if path.endswith(".json") and Path(path).exists():
            found[path] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        elif ":" in path:
            found[path] = file_sha256(path, "the recipe:")
    return found


def read_run(path: Path) -> "Run":
    """A finished run from its file."""
    from mlray.training.run import Run

    plain = json.loads(path.read_text())
    return Run(**{**plain, "features": tuple(plain["features"]), "history": tuple(plain["history"])})


def runs_folder(recipe: Recipe) -> str:
    """Where runs lie where [training] does not say."""
    return str(recipe.training.get("storage", f"{recipe.settings.lake}/_mlray/runs"))


def saved_run(recipe: Recipe, name: str | None = None) -> "Run":
    """The run of that name, or the newest of the recipe's service."""
    folder = Path(runs_folder(recipe))
    found = {p.parent.name: p for p in folder.glob(f"*/{RESULT_FILE}")}
    own = {k: p for k, p in found.items() if k.startswith(f"{recipe.service.name}-")}
    if name is not None and name not in found:
        raise UnknownName.of("run", name, found)
    if name is None and not own:
        raise ConfigError(f"there is no finished run of {recipe.service.name} in {folder}; train one first")
    return read_run(found[name] if name else max(own.values(), key=lambda p: p.stat().st_mtime_ns))


def register_run(recipe: Recipe, registry: Registry, run: "Run") -> ModelVersion:
    """Registers the run's checkpoint under the recipe's model name and alias; the same run again is the same
    version.
    """
    return registry.register(recipe.model_name, run, alias=recipe.alias, idempotency_key=run.id)


def materialize_service(
    recipe: Recipe,
    platform: Platform,
    *,
    until: datetime | None = None,
    progress: Callable[[Materialized], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> list[Materialized]:
    """Loads the online store as [online] says; see `Platform.materialize`."""
    return platform.materialize(
        recipe.service, until=until or recipe.until, history=recipe.history, progress=progress, note=note
    )


def verify_service(recipe: Recipe, platform: Platform, rows: int | None = None, seed: int = 0) -> Verification:
    """The law, checked on rows of the recipe's spine, or on rows drawn from the tables where it has none."""
    spine = recipe.spine() if "spine" in recipe.recipe else None
    return platform.verify(
        recipe.service, rows or recipe.verify_rows, spine=spine, timestamp=recipe.timestamp, seed=seed
    )


def verify_logs(
    recipe: Recipe, platform: Platform, service: str | None = None, rows: int | None = None
) -> list[LogVerification]:
    """What models that read the service, or the recipe's, were given, by the log that [serving] names."""
    log = str(recipe.serving.get("log", Config().log))
    return platform.verify_log(service or recipe.service, rows or recipe.verify_rows, log=log)


def serve_model(recipe: Recipe, platform: Platform, *, model: str | None = None, port: int | None = None) -> "Running":
    """Serves the recipe's model as [serving] says; returns when it answers."""
    settings = {k: v for k, v in recipe.serving.items() if k != "model"} | ({"port": port} if port else {})
    reference = model or recipe.serving.get("model") or f"{recipe.model_name}@{recipe.alias}"
    return platform.serve(reference, **settings)


def stop_serving() -> None:
    """Ends what `serve_model` started, its prediction log written."""
    from mlray.serving.app import undeploy  # FastAPI and torch, as above

    undeploy()


def _source(recipe: Recipe, name: str) -> DeltaSource:
    """The source of this name; a table that no view reads is kept as it is."""
    known = {source.name: source for source in recipe.service.sources}
    return known.get(name) or DeltaSource(name, path=name, timestamp=None)
