"""A run through its gates: what lands in the checkpoint, what stops, and what the registry then takes."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake

import mlray as ml
from mlray import hours
from mlray.errors import ConfigError, DefinitionError, GateFailed, SchemaError
from mlray.gates import job
from mlray.gates.judge import Judge, production_of, unfit, unfit_at
from mlray.gates.result import EVIDENCE_FILE, Result, read_evidence, write_evidence
from mlray.gates.settings import Bias, DataValidation, Evaluation, Gates, Leakage
from mlray.gates.terms import Terms
from mlray.offline.training_set import TrainingSet
from mlray.offline.written import WrittenSet
from mlray.platform import Platform
from mlray.registry.policy import Policy
from mlray.training.evaluate import auc
from mlray.training.model import Model, Signature, load_model
from mlray.training.network import Features, NetworkScorer
from mlray.training.run import Run
from mlray.training.task import Task
from mlray.training.trainer import Trainer
from tests.training.made import FEATURES, columns, parts, table

START = datetime(2026, 3, 1, tzinfo=UTC)
ROWS, SHOPS = 3000, 20


@dataclass(frozen=True)
class Shop:
    """A lake of sales, a training set over it, and a run through the gates."""

    platform: Platform
    ts: TrainingSet
    config: Trainer.Config
    gates: Gates
    run: Run

    def evidence(self) -> dict[str, Any]:
        """What the run has found out, by gate."""
        found = read_evidence(Path(self.run.checkpoint))
        assert found is not None
        gates: dict[str, Any] = found["gates"]
        return gates

    def judged(self, gates: Gates, production: Callable[[Path], Any] = lambda _: None) -> dict[str, Result]:
        folder = Path(self.config.storage, "theirs")
        return Judge(Terms.of(self.config), self.ts, gates, self.run).results(production(folder))


@pytest.fixture(scope="module")
def shop(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Shop:  # noqa: ARG001
    folder, random = tmp_path_factory.mktemp("shop"), np.random.default_rng(0)
    at = [START + timedelta(minutes=10 * i) for i in range(ROWS)]
    amount = random.normal(0, 1, ROWS)
    write_deltalake(f"{folder}/sales", pa.table({
        "shop": random.integers(0, SHOPS, ROWS), "at": at, "amount": amount,
    }))
    shops = ml.Entity("shop", keys=["shop"])
    sales = ml.DeltaSource("sales", path="sales", timestamp="at")
    view = ml.FeatureView("selling", entity=shops, source=sales, features=[
        "amount", ml.Count(windows=[hours(6)]), ml.Mean("amount", windows=[hours(24)]),
    ])
    asked = ml.RequestSource("asked", schema={"country": str, "size": float})
    country, size = random.choice(["DE", "FR"], ROWS), random.normal(0, 1, ROWS)
    spine = pa.table({
        "shop": random.integers(0, SHOPS, ROWS), "timestamp": at, "country": country, "size": size,
        "segment": random.choice(["old", "new"], ROWS),
        "bought": (size + 0.5 * (country == "DE") + random.normal(0, 0.7, ROWS) > 0).astype(np.int64),
    })
    platform = ml.connect(ml.Settings(
        lake=str(folder), registry=f"sqlite:///{folder}/registry.db", artifacts=f"{folder}/artifacts",
    ))
    ts = platform.build_training_set(ml.FeatureService("shop", features=[view, asked]), spine, label="bought").cached()
    ends = tuple(START + timedelta(minutes=10 * rows) for rows in (1800, 2200, ROWS))
    config = Trainer.Config.from_json({
        "split": ends, "storage": f"{folder}/runs", "run": "first", "epochs": 2, "batch_size": 128,
        "shuffle_rows": 1024, "workers": 0,
    })
    gates = Gates(
        evaluation=Evaluation(slices=("segment", "country"), samples=30, min_rows=50), bias=Bias(groups=("segment",))
    )
    card = {"purpose": "Says who will buy.", "owner": "sales", "limits": "Made up."}
    return Shop(platform, ts, config, gates, platform.train(config, ts, gates=gates, card=card))


def test_every_result_lies_in_the_checkpoint_bound_to_it_and_the_report_beside_it(shop: Shop) -> None:
    checkpoint = Path(shop.run.checkpoint)
    gates = json.loads((checkpoint / "gates.json").read_text())
    names = ["bias", "data_validation", "evaluation", "leakage", "model_card"]
    assert (gates["run"], sorted(gates["gates"])) == ("first", names)
    assert all(result["passed"] for result in gates["gates"].values())
    assert gates["gates"]["bias"]["link"] == "report.html#bias"
    report = (checkpoint / "report.html").read_text()
    assert report == (checkpoint.parent / "report.html").read_text()
    assert "Run first" in report
    evidence = read_evidence(checkpoint)
    assert evidence is not None
    assert evidence["rows"] == {"train": 1800, "validation": 400, "test": 800}


def test_the_scored_rows_are_the_test_rows_and_the_figures_those_of_the_run(shop: Shop) -> None:
    evidence = read_evidence(Path(shop.run.checkpoint))
    assert evidence is not None
    found = evidence["gates"]["evaluation"]["details"]
    assert found["rows"] == shop.run.metrics["rows_test"] == 800
    assert found["whole"]["auc"]["value"] == pytest.approx(shop.run.metrics["test_auc"], abs=1e-12)
    rows = shop.ts.to_arrow().slice(2200)
    new = np.array(rows.column("segment").to_pylist()) == "new"
    labels, scores = rows.column("bought").to_numpy()[new], load_model(shop.run.checkpoint).predict(rows)[new]
    line = next(line for line in found["slices"] if line["slice"] == "new")
    assert line["rows"] == new.sum()
    assert line["value"] == pytest.approx(auc(labels.astype(float), scores), abs=1e-12)


def test_a_rule_about_production_is_refused_where_no_model_is_named(shop: Shop) -> None:
    gates = Gates(evaluation=Evaluation(max_drop_vs_production=0.01))
    with pytest.raises(ConfigError, match=r"no model is named that has one; say platform.train\(..., model='fraud'\)"):
        shop.platform.train(shop.config, shop.ts, gates=gates)
    [note] = [one for one in shop.evidence()["evaluation"]["notes"] if "Production" in one]
    assert note == "no model was named with whose version in Production this one could be compared"


def test_a_run_is_compared_with_production_on_the_same_rows(shop: Shop) -> None:
    registry = shop.platform.registry
    registry.set_policy(Policy(stages={}))
    version = registry.register("shop", shop.run)
    assert shop.judged(shop.gates)["evaluation"].notes == ("there is no version in Production to compare with",)
    registry.promote(version, stage="Production")
    found = shop.judged(shop.gates, lambda folder: production_of(registry, "shop", folder))["evaluation"]
    assert found.details["production"]["version"] == "shop/1"
    assert (found.details["production"]["better"], found.details["production"]["low"]) == (0.0, 0.0)


def test_a_production_that_reads_other_features_is_not_compared_and_it_is_said_why(shop: Shop) -> None:
    theirs = load_model(shop.run.checkpoint)
    schema = shop.ts.schema.remove(shop.ts.schema.get_field_index("size"))
    assert unfit(theirs, theirs, schema) == "it reads size, which this training set does not have; not compared"
    other = replace(theirs, signature=replace(theirs.signature, label="returned"))
    assert unfit(other, theirs, shop.ts.schema) == "it predicts 'returned', not 'bought'; not compared"


def test_a_production_whose_code_has_changed_since_is_not_compared_and_does_not_end_the_run(tmp_path: Path) -> None:
    data = table(300)
    preprocessing, _ = parts(data, columns(data))
    scorer = NetworkScorer.build("tests.training.nets:Wide", {}, Features.of(preprocessing, Task()))
    signature = Signature(inputs=dict.fromkeys(FEATURES, "?"), label="bought", model=scorer.model, code_sha256="0" * 64)
    theirs = Model(scorer, preprocessing, signature)
    theirs.save(tmp_path)
    why = unfit_at(str(tmp_path), theirs, data.schema)
    assert why is not None
    assert why.startswith("the file of 'tests.training.nets:Wide' was 000000000000 when the model was trained")
    assert why.endswith("; not compared")


def test_a_failed_gate_that_stops_keeps_the_run_out_of_the_registry(shop: Shop) -> None:
    gates = replace(shop.gates, evaluation=Evaluation(threshold=0.999, samples=10, stop=True))
    judge = Judge(Terms.of(shop.config), shop.ts, gates, shop.run)
    found = judge.results(None)
    report = judge.write(found)
    with pytest.raises(GateFailed, match=r"gate 'evaluation' failed with 0\.\d+, asked for 0.999: auc is .*; see "):
        job.refuse(found, gates, f"see {report}")
    with pytest.raises(GateFailed, match="run first cannot be registered: gate 'evaluation' failed with 0"):
        shop.platform.registry.register("shop", shop.run)
    assert report.exists()


def test_a_failed_gate_of_the_data_stops_before_a_step_is_trained(shop: Shop) -> None:
    gates = Gates(data_validation=DataValidation(max_row_change=0.5, stop=True), leakage=None)
    few = shop.platform.build_training_set(
        shop.ts.definition, shop.ts.to_arrow().select(["shop", "timestamp", "country", "size", "bought"]).slice(0, 900),
        label="bought",
    )
    with pytest.raises(GateFailed, match=r"900 rows, -70% beside the 3,000 of run first.*no model was trained"):
        shop.platform.train(replace(shop.config, run="few"), few, gates=gates)
    assert not Path(shop.config.storage, "few").exists()


def test_rows_are_measured_by_the_last_run_whose_data_passed(tmp_path: Path) -> None:
    for number, (run, rows, passed) in enumerate((("a", 1000, True), ("b", 100, False), ("mine", 90, True))):
        checkpoint = tmp_path / run / "model"
        checkpoint.mkdir(parents=True)
        result = Result(passed=passed, details={"rows": rows})
        write_evidence(checkpoint, {"data_validation": result}, {"train": rows}, "shop")
        os.utime(checkpoint / EVIDENCE_FILE, (number, number))
    assert job.previous_rows(tmp_path, "shop", "mine") == ("a", 1000)
    assert job.previous_rows(tmp_path, "other", None) is None


def test_the_label_among_the_features_under_another_name_is_refused_before_the_loop(shop: Shop) -> None:
    rows = shop.ts.to_arrow()
    spine = rows.select(["shop", "timestamp", "country", "bought"]).append_column(
        "size", rows.column("bought").cast(pa.float64())
    )
    ts = shop.platform.build_training_set(shop.ts.definition, spine, label="bought")
    with pytest.raises(DefinitionError, match="feature 'size' equals the label 'bought' in all"):
        job.data_results(Terms.of(shop.config), ts, "binary", Gates(data_validation=None, leakage=Leakage(rows=500)))


def test_a_slice_by_a_column_that_is_not_there_is_refused_by_name(shop: Shop) -> None:
    with pytest.raises(SchemaError, match=r"column 'segmnt' is not in the training set.* did you mean 'segment'"):
        shop.judged(Gates(evaluation=Evaluation(slices=("segmnt",))))


def test_a_training_set_that_was_written_before_goes_through_the_same_gates(shop: Shop, tmp_path: Path) -> None:
    shop.ts.write_delta(tmp_path / "written")
    written, gates = WrittenSet.read(tmp_path / "written"), replace(shop.gates, data_validation=DataValidation())
    found = job.data_results(Terms.of(shop.config), written, "binary", gates)
    found |= Judge(Terms.of(shop.config), written, gates, shop.run).results(None)
    assert {name: result.passed for name, result in found.items()} == {
        "data_validation": True, "leakage": True, "evaluation": True, "bias": True,
    }
    assert found["leakage"].notes == ("the training set was written before: it was not built as of other instants",)
    assert found["evaluation"].value == pytest.approx(shop.run.metrics["test_auc"], abs=1e-12)
