"""What each verb of the command line does, and how its result is shown."""

import json as jsonlib
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import pyarrow as pa
from pyarrow import csv, json, parquet

from mlray import pipeline
from mlray.demo import run_demo
from mlray.errors import ConfigError, SchemaError, TimeError
from mlray.gates.result import told
from mlray.materialize import Materialized
from mlray.offline.write import BuildProgress
from mlray.offline.written import WrittenSet
from mlray.platform import Platform, connect
from mlray.recipe import Recipe
from mlray.screen import Screen, Shown
from mlray.verify import LogVerification, Verification

_READERS: Mapping[str, Callable[[Path], pa.Table]] = {
    ".parquet": parquet.read_table,
    ".csv": csv.read_csv,
    ".jsonl": json.read_json,
}


def run(verb: str, config: Path, as_json: bool, arguments: Mapping[str, Any]) -> int:
    """Does a verb; gives the exit code."""
    recipe = Recipe.load(config)
    return _VERBS[verb](Screen(as_json), recipe, connect(recipe.settings), **arguments)


def demo(screen: Screen, recipe: Recipe, platform: Platform) -> int:
    """Every stage in turn, with what it took."""
    with screen.working("demo") as note:
        result = run_demo(recipe, platform, note)
    screen.show("From raw tables to a served prediction", result.stages, result.summary)
    return 0 if result.ok else 1


def apply(screen: Screen, recipe: Recipe, platform: Platform) -> int:
    diff = platform.applied_diff(recipe.service)
    screen.show(f"feature service {diff.service} {diff.digest[:12]}", [{"change": line} for line in diff.lines])
    return 0


def ingest(
    screen: Screen, recipe: Recipe, platform: Platform, source: str | None, file: Path | None, key: str | None
) -> int:
    started = perf_counter()
    with screen.working("ingest"):
        if source is None:
            done = pipeline.ingest_tables(recipe, platform)
        else:
            rows = _read(file)
            done = {source: platform.ingest(source, rows, idempotency_key=key or pipeline.content_key(rows))}
    screen.show("ingested", [asdict(one) for one in done.values()], {"seconds": perf_counter() - started})
    return 0


def layout(screen: Screen, recipe: Recipe, platform: Platform, source: str, entity: str | None) -> int:
    known = {one.name: one for one in recipe.service.sources}.get(source, source)
    with screen.working("layout") as note:
        done = platform.layout(known, entity, progress=note)
    screen.show("laid out", [asdict(one) | {"keys": ", ".join(one.keys)} for one in done])
    return 0


def compact(screen: Screen, recipe: Recipe, platform: Platform, source: str) -> int:
    known = {one.name: one for one in recipe.service.sources}.get(source, source)
    with screen.working("compact"):
        done = platform.compact(known)
    screen.show("compacted", [asdict(done)])
    return 0


def build(screen: Screen, recipe: Recipe, platform: Platform, out: str | None, explain: bool) -> int:
    started = perf_counter()
    with screen.working("build") as note:
        ts = pipeline.training_set(recipe, platform)
        if explain:
            screen.show("plan", [], {"plan": ts.explain()})
            return 0
        rows = ts.write_delta(out, lambda now: note(_written(now))) if out else ts.cached().count()
    screen.show(
        "training set",
        [{"service": ts.service, "rows": rows, "features": len(ts.features), "seconds": perf_counter() - started}],
        {"sources": ts.sources, "fingerprint": ts.fingerprint, "written to": out or "nowhere (--out PATH)"},
    )
    return 0


def train(screen: Screen, recipe: Recipe, platform: Platform, data: str | None) -> int:
    with screen.working("train") as note:
        ts = WrittenSet.read(data) if data else pipeline.training_set(recipe, platform)
        run = pipeline.train_model(recipe, platform, ts, on_status=lambda status: note(str(status)))
    screen.show(
        f"run {run.id}",
        [{"metric": k, "value": v} for k, v in run.metrics.items()],
        {"checkpoint": run.checkpoint, "report": f"{run.checkpoint}/report.html"}
        | {f"gate {name}": found for name, found in told(run.checkpoint).items()},
    )
    return 0


def register(screen: Screen, recipe: Recipe, platform: Platform, run: str | None) -> int:
    with screen.working("register"):
        finished = pipeline.saved_run(recipe, run)  # before Ray is joined for the registry
        version = pipeline.register_run(recipe, platform.registry, finished)
    screen.show("registered", [{"model": version.reference, "alias": recipe.alias, "digest": version.digest}])
    return 0


def materialize(screen: Screen, recipe: Recipe, platform: Platform, until: str | None) -> int:
    with screen.working("materialize") as note:
        done = pipeline.materialize_service(
            recipe,
            platform,
            until=_instant(until) if until else None,
            progress=lambda one: note(f"{one.view}: {one.rows:,} rows"),
            note=note,
        )
    screen.show("materialized", [asdict(one) for one in done], _totals(done))
    return 0


def get(screen: Screen, recipe: Recipe, platform: Platform, rows: str, at: str | None) -> int:
    asked = _rows(rows)
    vectors = platform.get_features(recipe.service, asked, at=_instant(at) if at else None).to_pylist()
    if screen.as_json:
        screen.show("features", vectors)
    else:
        names = vectors[0] if vectors else {}
        shown = [{"feature": name, **{f"row {i}": v[name] for i, v in enumerate(vectors)}} for name in names]
        screen.show("features", shown)
    return 0


def serve(screen: Screen, recipe: Recipe, platform: Platform, model: str | None, port: int | None) -> int:
    with screen.working("serve"):
        running = pipeline.serve_model(recipe, platform, model=model, port=port)
    screen.show(
        "serving",
        [{"model": model, "url": running.predict_url(model.partition("/")[0])} for model in running.models],
        {"stop": "Ctrl-C"},
    )
    _until_stopped()
    with screen.working("stopping"):
        pipeline.stop_serving()
    return 0


def verify(
    screen: Screen, recipe: Recipe, platform: Platform, service: str | None, rows: int | None, seed: int, log: bool
) -> int:
    found: Sequence[Verification | LogVerification]
    with screen.working("verify"):
        if log:
            found = pipeline.verify_logs(recipe, platform, service, rows)
        elif service is not None:
            found = [platform.verify(service, rows or recipe.verify_rows, seed=seed)]
        else:
            found = [pipeline.verify_service(recipe, platform, rows, seed)]
    told = [difference for one in found for difference in one.differences]
    details = {"differences": [asdict(one) for one in told]} if screen.as_json else None
    screen.show("the law", [_counts(one) for one in found], details)
    lines = [f"not compared: {skipped}" for one in found for skipped in one.skipped]
    for line in [*lines, *map(str, told)]:
        screen.console.print(line, highlight=False, markup=False)
    return 0 if all(one.ok for one in found) else 1


_VERBS: Mapping[str, Callable[..., int]] = {
    "demo": demo,
    "apply": apply,
    "ingest": ingest,
    "layout": layout,
    "compact": compact,
    "build": build,
    "train": train,
    "register": register,
    "materialize": materialize,
    "get": get,
    "serve": serve,
    "verify": verify,
}


def _until_stopped() -> None:
    """Waits for SIGINT or SIGTERM."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    stopped.wait()


def _read(file: Path | None) -> pa.Table:
    if file is None or file.suffix not in _READERS:
        raise ConfigError(f"ingest SOURCE FILE: the file is {file}; give one that ends in {', '.join(_READERS)}")
    if not file.exists():
        raise ConfigError(f"there is no file at {file}")
    try:
        return _READERS[file.suffix](file)
    except pa.ArrowException as error:
        raise SchemaError(f"{file} cannot be read as {file.suffix[1:]}: {error}") from error


def _rows(text: str) -> list[dict[str, Any]]:
    try:
        plain = jsonlib.loads(text)
    except ValueError as error:
        raise ConfigError(f"the rows are no JSON: {error}; for example '{{\"user_id\": 7}}'") from error
    rows = plain if isinstance(plain, list) else [plain]
    if not all(isinstance(row, dict) for row in rows):
        raise ConfigError("the rows are a JSON object, or a list of objects")
    return rows


def _instant(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise TimeError(f"{text!r} is no instant; write it as 2026-01-31T00:00:00Z") from error
    if moment.tzinfo is None:
        raise TimeError.naive("the instant", moment)
    return moment


def _counts(found: Verification | LogVerification) -> Shown:
    """What a verification counted, without what it tells in full."""
    return {field.name: getattr(found, field.name) for field in fields(found) if field.repr}


def _written(now: BuildProgress) -> str:
    resumed = f", {now.resumed:,} from an earlier try" if now.resumed else ""
    return f"{now.parts} of {now.of} parts, {now.rows:,} rows{resumed}"


def _totals(done: list[Materialized]) -> Shown:
    return {
        "rows": sum(one.rows for one in done),
        "bytes": sum(one.bytes for one in done),
        "seconds": sum(one.seconds for one in done),
    }
