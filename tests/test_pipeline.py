"""What the verbs share: recipes, and runs that are found again."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

import mlray as ml
from mlray import pipeline
from mlray.gates.settings import DataValidation, Gates
from mlray.recipe import Recipe
from mlray.training.run import Run

RECIPE = """
[platform]
lake = "{lake}"
[recipe]
service = "configs.flights.features:flights"
[online]
until = {until}
[verify]
rows = {rows}
"""


def recipe(folder: Path, until: str = "2026-01-31T00:00:00Z", rows: str = "10") -> Recipe:
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(lake=folder, until=until, rows=rows))
    return Recipe.load(path)


def finished(folder: Path, name: str) -> Run:
    run = Run(
        id=name, metrics={"test_auc": 0.7}, checkpoint="model", service="flights", service_hash="h",
        service_definition="{}", sources={"departures": 1}, fingerprint="f", spine="s", features=("a", "b"),
        label="late", config={}, provenance={}, history=({"epoch": 1.0},),
    )
    path = folder / "_mlray/runs" / name / pipeline.RESULT_FILE
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(asdict(run)))
    return run


def test_a_finished_run_is_found_as_it_was(tmp_path: Path) -> None:
    run = finished(tmp_path, "flights-1")
    assert pipeline.saved_run(recipe(tmp_path)) == run
    assert pipeline.saved_run(recipe(tmp_path), "flights-1") == run


def test_a_run_of_another_name_has_a_suggestion(tmp_path: Path) -> None:
    finished(tmp_path, "flights-1")
    with pytest.raises(ml.MlrayError, match=r"no run 'flights-2'.*did you mean 'flights-1'"):
        pipeline.saved_run(recipe(tmp_path), "flights-2")


def test_a_run_is_another_one_where_the_network_or_what_its_data_has_to_be_was_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("edited_nets", "edited_checks"):
        (tmp_path / f"{name}.py").write_text("class Net: ...\nschema = 1\n")
    (tmp_path / "suite.json").write_text("{}")
    suite = str(tmp_path / "suite.json")
    gates = Gates(data_validation=DataValidation(schema="edited_checks:schema", suite=suite))
    before = pipeline.code_of({"model": "edited_nets:Net"}, gates)
    (tmp_path / "edited_checks.py").write_text("class Net: ...\nschema = 2\n")
    after = pipeline.code_of({"network": {"model": "edited_nets:Net"}}, gates)
    assert [name for name in before if before[name] != after[name]] == ["edited_checks:schema"]
    assert list(before) == list(after) == ["edited_nets:Net", "edited_checks:schema", suite]
    assert pipeline.code_of({"model": "mlp"}, None) == {}


def test_a_date_is_no_instant_and_a_text_no_number(tmp_path: Path) -> None:
    with pytest.raises(ml.MlrayError, match=r"\[online\] until=.* is no instant"):
        _ = recipe(tmp_path, until="2026-01-31").until
    with pytest.raises(ml.MlrayError, match=r"\[verify\] rows='x' is no number"):
        _ = recipe(tmp_path, rows='"x"').verify_rows
