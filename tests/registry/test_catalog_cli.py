"""The catalog on the command line, over a lake with two services and a model that reads one of them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import mlray as ml
from mlray.cli import app
from mlray.errors import ConfigError, Conflict, Forbidden, MlrayError
from mlray.features.applied import Applied
from mlray.features.catalog import service_hash, service_text
from mlray.registry.gates import Gate

PURCHASES = ml.DeltaSource("purchases", path="purchases", timestamp="at")
SPENDING = ml.FeatureView("spending", entity=ml.Entity("user", keys=["user_id"]), source=PURCHASES, owner="payments",
                          features=[ml.Sum("amount", windows=[ml.days(7)])])
FRAUD = ml.FeatureService("fraud", features=[SPENDING])


@pytest.fixture
def mlray(team, urls, tmp_path, monkeypatch):
    """Runs a command as somebody of the team; its JSON answer, or its text."""
    Applied(str(tmp_path)).apply(FRAUD)
    config = tmp_path / "platform.toml"
    config.write_text(f'[platform]\nlake = "{tmp_path}"\nregistry = "{urls[0]}"\nartifacts = "{urls[1]}"\n')
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def run(who, *words, as_json=True):
        token = {"MLRAY_TOKEN": getattr(team, who)._token, "COLUMNS": "200"}
        done = CliRunner().invoke(app, [*words, "--config", str(config), *(["--json"] if as_json else [])], env=token)
        if isinstance(done.exception, MlrayError):
            raise done.exception
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)["result"] if as_json else done.stdout

    return run


@pytest.fixture
def version(team):
    """A version of the service, in Production."""
    fields = {"service": "fraud", "service_hash": service_hash(FRAUD), "service_definition": service_text(FRAUD)}
    passed = dict.fromkeys(("data_validation", "evaluation", "bias", "model_card"), Gate(passed=True))
    run = team.make_run(b"1", gates=passed, **fields)
    made = team.ana.register("fraud", run)
    team.ben.approve(made, stage="Production", role="ml_engineer")
    team.cleo.approve(made, stage="Production", role="risk_officer")
    return team.ana.promote(made, stage="Production")


def test_a_source_is_found_described_and_followed_to_the_model_and_not_dropped(mlray, version):
    assert [row["name"] for row in mlray("ana", "find", "spend")] == ["payments/spending"]
    assert mlray("ana", "describe", "spending")["view spending"]["models"] == {
        version.reference: "Production, service fraud, as in force"}
    assert [(row["kind"], row["name"], row["stage"]) for row in mlray("ana", "impact", "purchases")] == [
        ("view", "payments/spending", ""), ("service", "fraud", ""), ("model", "fraud/1", "Production")]

    with pytest.raises(Conflict, match=r"source purchases cannot be dropped: fraud/1 \(Production\) reads it"):
        mlray("ana", "drop", "purchases")
    mlray("ben", "promote", "fraud/1", "--stage", "Archived")
    [gone] = mlray("ana", "drop", "purchases")

    assert gone == {"service": "fraud", "change": "withdrawn", "views": "payments/spending"}
    assert [row["kind"] for row in mlray("ana", "find", "")] == ["model"]


def test_people_are_shown_tables(mlray, version):
    for words in (["find", "fraud"], ["impact", "purchases"], ["describe", "fraud"]):
        assert version.name in mlray("ana", *words, as_json=False)


def test_a_card_is_printed_and_written(mlray, version, tmp_path):
    text = mlray("ana", "card", version.reference, as_json=False)
    assert text.startswith("# Model card: fraud/1\n")
    assert mlray("ana", "card", version.reference)["reference"] == "fraud/1"

    mlray("ana", "card", "fraud/Production", "--html", "-o", str(tmp_path / "card.html"))

    assert Path(tmp_path, "card.html").read_text().startswith("<!doctype html>")


def test_the_janitor_is_for_an_admin_and_its_grace_is_a_duration(mlray, version):  # noqa: ARG001
    nothing = {"artifacts": 0, "blobs": 0, "partial": 0, "bytes": 0}

    assert mlray("root", "registry", "janitor", "--dry-run", "--grace", "0s") == [nothing]
    with pytest.raises(Forbidden, match="ben may not remove artifacts"):
        mlray("ben", "registry", "janitor", "--grace", "12h")
    with pytest.raises(ConfigError, match="--grace soon is no duration; write a whole number and s, m, h or d"):
        mlray("root", "registry", "janitor", "--grace", "soon")
    for long in ("9999999999d", "3661d", "9" * 5000 + "s"):
        with pytest.raises(ConfigError, match=r"--grace \d+d?.* is too long; it is at most 3660d"):
            mlray("root", "registry", "janitor", "--grace", long)
