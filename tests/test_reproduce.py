"""The training set of a version is built anew from what the version recorded, or what is missing for that is said."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from pyarrow import parquet
from typer.testing import CliRunner

import mlray as ml
from mlray import hours
from mlray.cli import app
from mlray.offline.content import content_digest
from mlray.offline.training_set import TrainingSet, build
from mlray.registry.client import Registry
from mlray.registry.model_version import ModelVersion
from mlray.reproduce import CONTENT, RECORDED, reproduce
from mlray.training.launch import train
from mlray.training.trainer import Trainer

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
EVENTS = ml.DeltaSource("events", path="events", timestamp="at")
VIEW = ml.FeatureView("recent", entity=ml.Entity("user", keys=["user_id"]), source=EVENTS, features=[
    "amount", ml.Sum("amount", windows=[hours(3)])])
SERVICE = ml.FeatureService("fraud", features=[VIEW])


def events(*amounts: float) -> pa.Table:
    at = [NOON - timedelta(minutes=10 * i) for i in range(len(amounts))]
    return pa.table({"user_id": [i % 2 for i in range(len(amounts))], "at": at, "amount": list(amounts)})


def spine(rows: int = 4) -> pa.Table:
    at = [NOON + timedelta(minutes=i) for i in range(rows)]
    users, bad = [i % 2 for i in range(rows)], [i % 3 == 0 for i in range(rows)]
    return pa.table({"user_id": users, "timestamp": at, "bad": bad})


@pytest.fixture
def lake(tmp_path: Path, ray_cluster: str) -> str:  # noqa: ARG001
    write_deltalake(str(tmp_path / "events"), events(1.5, 2.5, 4.0, 8.0))
    write_deltalake(str(tmp_path / "spine"), spine())
    return str(tmp_path)


def trained(lake: str, on: Any = "spine") -> ModelVersion:
    """A version as it is when a run has trained on the service as of the spine."""
    ts: TrainingSet = build(SERVICE, on, lake=lake, label="bad", timestamp="timestamp")
    content, _ = content_digest(ts.dataset, [*ts.features, "bad"])
    return ModelVersion(
        name="fraud", version=3, author="ana", created_at=NOON, updated_at=NOON, aliases=(), digest="", service="fraud",
        service_hash=ts.service_hash, service_definition=ts.service_definition, sources=ts.sources, spine="",
        fingerprint=ts.fingerprint, features=tuple(ts.features), label="bad", metrics={}, run_id="run-1", config={},
        provenance=json.loads(json.dumps({RECORDED: ts.recorded, CONTENT: content})), signature={},
    )  # fmt: skip


@pytest.mark.parametrize("on", ["spine", spine()], ids=["a Delta table", "a table in memory"])
def test_the_training_set_is_the_same_when_tables_have_moved_on(lake, on):
    version = trained(lake, on)
    write_deltalake(f"{lake}/events", events(9.0, 9.0), mode="append")
    write_deltalake(f"{lake}/spine", spine(7), mode="overwrite")

    again = reproduce(version, lake)

    assert (again.same, again.missing, again.rows) == (True, {}, 4)
    assert (again.fingerprint, again.content) == (version.fingerprint, version.provenance[CONTENT])
    assert again.training_set is not None
    assert again.training_set.to_arrow().column("amount_sum_3h").to_pylist() == [4.0, 10.5, 5.5, 10.5]


def test_a_spine_in_memory_is_kept_once_whatever_is_trained_on_it(lake):
    trained(lake, spine())
    trained(lake, spine())

    assert len(list(Path(lake, "_mlray/spines").iterdir())) == 1


def test_a_vacuumed_version_says_which_source_lacks_how_many_files(lake):
    version = trained(lake)
    write_deltalake(f"{lake}/events", events(9.0), mode="overwrite")
    DeltaTable(f"{lake}/events").vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)

    again = reproduce(version, lake)

    assert not again.same
    assert list(again.missing) == ["source events"]
    assert "1 of 1 files of" in again.missing["source events"]
    assert "are gone, as VACUUM takes them" in again.missing["source events"]


def test_a_version_that_the_log_does_not_have_any_more_is_missing(lake):
    version = trained(lake)
    shutil.rmtree(f"{lake}/spine")
    Path(lake, "events", "_delta_log", f"{0:020}.json").unlink()

    missing = reproduce(version, lake).missing

    assert set(missing) == {"source events", "spine"}
    assert "there is no Delta table at" in missing["spine"]


def test_a_table_that_was_made_again_is_another_one(lake):
    version = trained(lake)
    shutil.rmtree(f"{lake}/events")
    write_deltalake(f"{lake}/events", events(1.5, 2.5, 4.0, 8.0))

    assert "another table than the one that was read" in reproduce(version, lake).missing["source events"]


def test_a_file_changed_beside_the_log_is_seen_by_the_content(lake):
    version = trained(lake)
    [path] = DeltaTable(f"{lake}/events").file_uris()
    parquet.write_table(events(1.5, 2.5, 4.0, 8.5), path)

    again = reproduce(version, lake)

    assert (again.missing, again.fingerprint == version.fingerprint) == ({}, True)
    assert again.content != version.provenance[CONTENT]
    assert not again.same


def test_a_spine_that_is_not_kept_any_more_is_missing(lake):
    version = trained(lake, spine())
    shutil.rmtree(f"{lake}/_mlray/spines")

    assert "is not kept in" in reproduce(version, lake).missing["spine"]


def test_a_definition_that_is_not_the_pinned_one_builds_nothing(lake):
    version = trained(lake)
    object.__setattr__(version, "service_hash", "0" * 64)

    assert "is not the one of hash" in reproduce(version, lake).missing["feature service"]


def test_a_version_that_recorded_no_spine_says_so(lake):
    version = trained(lake)
    del version.provenance[RECORDED]

    assert "did not record its spine" in reproduce(version, lake).missing["record"]


def test_code_and_packages_that_are_others_now_are_told_and_decide_nothing(lake):
    version = trained(lake)
    version.provenance.update(commit="0" * 40, packages={"ray": "1.0"})

    again = reproduce(version, lake)

    assert again.same
    assert again.changed["ray"].startswith("was 1.0, is ")
    assert set(again.changed) == {"commit", "ray"}


def test_the_command_trains_again_and_finds_the_same_weights(lake, tmp_path):
    write_deltalake(f"{lake}/spine", spine(90), mode="overwrite")
    places = {"lake": lake, "registry": f"sqlite:///{tmp_path}/registry.db", "artifacts": f"{tmp_path}/artifacts"}
    ends = {end: NOON + timedelta(minutes=m) for end, m in (("train", 50), ("validation", 70), ("test", 90))}
    small = {"epochs": 2, "batch_size": 16, "shuffle_rows": 64, "workers": 0}
    settings = Trainer.Config.from_json({"split": ends, "storage": f"{tmp_path}/runs", **small})
    run = train(settings, build(SERVICE, "spine", lake=lake, label="bad", timestamp="timestamp"))
    Registry.connect(places["registry"], places["artifacts"], embedded=True).register("fraud", run)
    write_deltalake(f"{lake}/events", events(9.0, 9.0), mode="append")
    config = tmp_path / "platform.toml"
    config.write_text("[platform]\n" + "".join(f'{name} = "{place}"\n' for name, place in places.items()))

    done = CliRunner().invoke(app, ["reproduce", "fraud/1", "--retrain", "--config", str(config), "--json"])

    told = json.loads(done.stdout)
    assert (done.exit_code, told["verdict"], told["weights"]) == (0, "the same", "the same, to the bit")
    assert {"what": "test_auc", "recorded": run.metrics["test_auc"], "now": run.metrics["test_auc"]} in told["result"]


def test_the_command_ends_with_0_where_it_is_the_same_and_with_1_where_not(lake, tmp_path):
    version = trained(lake)
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "signature.json").write_text("{}")
    run = {name: getattr(version, name) for name in vars(version)}
    registry = Registry.connect(f"sqlite:///{tmp_path}/registry.db", str(tmp_path / "artifacts"), embedded=True)
    registry.register("fraud", SimpleNamespace(**run, id="run-1", checkpoint=str(checkpoint)))
    config = tmp_path / "platform.toml"
    places = {"lake": lake, "registry": f"sqlite:///{tmp_path}/registry.db", "artifacts": f"{tmp_path}/artifacts"}
    config.write_text("[platform]\n" + "".join(f'{name} = "{place}"\n' for name, place in places.items()))

    def run_command() -> tuple[int, Any]:
        done = CliRunner().invoke(app, ["reproduce", "fraud/1", "--config", str(config), "--json"])
        return done.exit_code, json.loads(done.stdout)["verdict"]

    assert run_command() == (0, "the same")
    shutil.rmtree(f"{lake}/spine")
    assert run_command() == (1, "cannot be built")
