"""The demo: every stage of a recipe in turn, timed, and at the end one HTTP request and its answer."""

import json
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mlray import pipeline
from mlray.demo_people import people, to_production
from mlray.errors import NotApproved
from mlray.online.store import shown
from mlray.platform import Platform
from mlray.recipe import Recipe
from mlray.registry import database

if TYPE_CHECKING:
    from mlray.training.run import Run

Note = Callable[[str], None]


@dataclass
class Demo:
    """What the stages took, in order, and what came of them. ok: the two sides agreed in every cell. model: what is
    served, None for the recipe's.
    """

    note: Note
    stages: list[Mapping[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    ok: bool = False
    model: str | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[int, str], None]]:
        """Times a stage; the yielded function says how many rows it had and what came of it."""
        self.note(name)
        started, said = perf_counter(), {"rows": 0, "result": ""}
        yield lambda rows, result: said.update(rows=rows, result=result)
        self.stages.append(
            {
                "stage": name,
                "rows": said["rows"],
                "seconds": round(perf_counter() - started, 1),
                "result": said["result"],
            }
        )


def run_demo(recipe: Recipe, platform: Platform, note: Note = lambda _: None) -> Demo:
    """Ingest, build, train (and the baseline), register, promote, materialize, verify, serve; one request over HTTP."""
    demo = Demo(note)
    _ingest(demo, recipe, platform)
    _train(demo, recipe, platform)
    _load(demo, recipe, platform)
    _verify(demo, recipe, platform)
    _predict(demo, recipe, platform)
    demo.summary |= {
        "lake": recipe.settings.lake,
        "online": shown(recipe.settings.online),
        "registry": database.shown(recipe.settings.registry),
        "artifacts": recipe.settings.artifacts,
        "runs": pipeline.runs_folder(recipe),
    }
    return demo


def _ingest(demo: Demo, recipe: Recipe, platform: Platform) -> None:
    with demo.stage("ingest") as done:
        tables = pipeline.ingest_tables(recipe, platform)
        new = sum(one.rows for one in tables.values())
        done(new, ", ".join(tables) + ("" if new else ": already there"))
    with demo.stage("apply") as done:
        diff = platform.applied_diff(recipe.service)
        done(0, f"{len(recipe.service.names)} features of {len(recipe.service.views)} views, {diff.digest[:12]}")
    with demo.stage("start Ray") as done:
        platform.join_ray()
        done(0, "a local cluster, unless one is running")


def _train(demo: Demo, recipe: Recipe, platform: Platform) -> None:
    with demo.stage("build") as done:
        ts = pipeline.training_set(recipe, platform).cached()
        done(ts.count(), f"point-in-time correct, {len(ts.features)} features, {ts.fingerprint[:12]}")
    with demo.stage("train") as done:
        run = pipeline.train_model(recipe, platform, ts, lambda e: demo.note(f"train, epoch {e['epoch']:.0f}"))
        name, value = headline(run.metrics)
        done(int(run.metrics["rows_train"]), f"{name} {value}")
    demo.summary[name] = value
    if recipe.baseline is not None:
        with demo.stage("train baseline") as done:
            rows = pipeline.training_set(recipe, platform, recipe.baseline)
            plain = pipeline.train_model(recipe, platform, rows, judged=False)
            done(int(plain.metrics["rows_train"]), " ".join(headline(plain.metrics)))
        demo.summary[name] += f" with the features, {headline(plain.metrics)[1]} on request fields only"
    _promote(demo, recipe, platform, run)


def headline(metrics: Mapping[str, float]) -> tuple[str, str]:
    """The one figure that is shown of a model: its AUC on the test rows, of values the RMSE."""
    name = "test_auc" if "test_auc" in metrics else "test_rmse"
    return {"test_auc": "test AUC", "test_rmse": "test RMSE"}[name], f"{metrics[name]:.4f}"


def _promote(demo: Demo, recipe: Recipe, platform: Platform, run: "Run") -> None:
    with demo.stage("register") as done:
        registries = people(platform.registry, Path(pipeline.runs_folder(recipe)).parent / "demo_people.json")
        author = registries.get("author", platform.registry)
        version = pipeline.register_run(recipe, author, run)
        done(0, f"{version.reference} is {recipe.model_name}@{recipe.alias}, by {version.author}")
    with demo.stage("promote") as done:
        if not registries:
            done(0, "left to the people of this registry")
            return
        try:
            version = to_production(registries, version)
        except NotApproved as error:  # the model is not good enough: the rest of the demo serves the candidate
            done(0, str(error))
            return
        demo.model = f"{version.name}/{version.stage}"
        done(0, f"{version.reference} is {demo.model}, approved by engineer and officer")


def _load(demo: Demo, recipe: Recipe, platform: Platform) -> None:
    with demo.stage("materialize") as done:
        views = pipeline.materialize_service(
            recipe, platform, progress=lambda one: demo.note(f"materialize {one.view}")
        )
        done(
            sum(v.rows for v in views),
            f"{sum(v.bytes for v in views) / 1e6:.1f} MB, {sum(v.keys for v in views):,} keys",
        )


def _verify(demo: Demo, recipe: Recipe, platform: Platform) -> None:
    with demo.stage("verify") as done:
        found = pipeline.verify_service(recipe, platform)
        done(found.rows, f"{found.cells:,} cells, {found.different} different, {found.stale} stale")
    demo.ok = found.ok and found.rows > 0
    demo.summary["the law"] = f"{found.cells:,} cells compared, {found.different} different, {found.stale} stale"


def _predict(demo: Demo, recipe: Recipe, platform: Platform) -> None:
    request = example_request(recipe)
    with demo.stage("serve") as done:
        running = pipeline.serve_model(recipe, platform, model=demo.model)
        done(0, running.url)
    with demo.stage("predict") as done:
        answer = post(running.predict_url(), request)
        done(1, f"score {answer['scores'][0]:.4f} by {answer['model']}")
    demo.summary |= {"POST": running.predict_url(), "request": json.dumps(request), "answer": json.dumps(answer)}
    demo.summary["prediction log"] = running.log
    demo.note("stop serving")
    pipeline.stop_serving()


def example_request(recipe: Recipe) -> dict[str, Any]:
    """The last row of the spine as a request: its keys, request fields and instant, without its outcome."""
    spine: pa.Table = recipe.spine()
    row = spine.sort_by(recipe.timestamp).slice(spine.num_rows - 1).to_pylist()[0]
    names = dict.fromkeys([*recipe.service.keys, *recipe.service.request])
    return {"rows": [{name: row[name] for name in names}], "at": row[recipe.timestamp].isoformat()}


def post(url: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """One JSON request and its answer."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        parsed: dict[str, Any] = json.loads(answer.read())
        return parsed
