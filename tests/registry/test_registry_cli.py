"""The registry on the command line, from the first user to a rollback, each command with its own token."""

import json

import pytest
from typer.testing import CliRunner

from mlray.cli import app
from mlray.errors import MlrayError


@pytest.fixture
def mlray(team, urls, tmp_path, monkeypatch):
    """Runs a command as somebody of the team; the rows of its JSON answer."""
    config = tmp_path / "platform.toml"
    config.write_text(f'[platform]\nlake = "{tmp_path}"\nregistry = "{urls[0]}"\nartifacts = "{urls[1]}"\n')
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def run(who, *words, exit_code=0, as_json=True):
        token = {} if who is None else {"MLRAY_TOKEN": getattr(team, who)._token}
        done = CliRunner().invoke(app, [*words, "--config", str(config), *["--json"] * as_json], env=token)
        if isinstance(done.exception, MlrayError):
            raise done.exception
        assert done.exit_code == exit_code, done.output
        return json.loads(done.stdout)["result"] if as_json else done.output

    return run


def test_a_version_goes_to_production_and_back(mlray, team):
    team.version(b"1")
    team.version(b"2")
    for version in ("fraud/1", "fraud/2"):
        mlray("ben", "approve", version, "--role", "ml_engineer")
        [shown] = mlray("cleo", "approve", version, "--role", "risk_officer", "--why", "reviewed")
        assert shown["approvals"] == "Production: ben as ml_engineer, Production: cleo as risk_officer"
        mlray("ana", "promote", version, "--stage", "Production")
    assert [row["stage"] for row in mlray(None, "versions", "fraud")] == ["Archived", "Production"]

    with pytest.raises(MlrayError, match="is not what you have seen: fraud/2, row version 1, is there"):
        mlray("ben", "rollback", "fraud/1")
    [shown] = mlray("ben", "rollback", "fraud/2", "--why", "latency")

    assert (shown["version"], shown["stage"]) == ("fraud/1", "Production")
    assert mlray(None, "audit", "fraud")[-1]["why"] == "latency"


def test_the_lineage_is_a_tree(mlray, team):
    team.version()

    assert mlray(None, "lineage", "fraud/1")["data"]["tables"] == {"departures": "Delta version 4"}


def test_an_approval_is_taken_back(mlray, team):
    team.approved()
    [shown] = mlray("cleo", "approve", "fraud/1", "--role", "risk_officer", "--revoke")

    assert shown["approvals"] == "Production: ben as ml_engineer"
    with pytest.raises(MlrayError, match="lacks an approval as risk_officer"):
        mlray("ana", "promote", "fraud/1")


def test_people_come_and_go(mlray):
    [made] = mlray("root", "user", "add", "fay", "--role", "ml_engineer", "--role", "operator")
    mlray("root", "user", "grant", "fay", "risk_officer")
    mlray("root", "user", "revoke", "fay", "operator")
    [renewed] = mlray("root", "user", "token", "fay")
    fay = {"name": "fay", "roles": "ml_engineer, risk_officer", "disabled": False}
    assert fay in mlray(None, "user", "list")
    assert made["token"] != renewed["token"]

    assert fay | {"disabled": True} in mlray("root", "user", "disable", "fay")


def test_models_and_versions_are_found_and_labelled(mlray, team):
    mlray("ana", "model", "create", "fraud", "--description", "cards", "--tag", "team=risk")
    team.version(b"1")
    team.version(b"2")
    mlray("ana", "model", "tag", "fraud/2", "data=2026", "kind=a=b")
    mlray("ana", "model", "untag", "fraud/2", "data")
    mlray("ana", "model", "describe", "fraud/2", "the second")

    [model] = mlray(None, "model", "list", "fr%", "--tag", "team=risk")
    assert (model["model"], model["last version"], model["description"]) == ("fraud", 2, "cards")
    [found] = mlray(None, "model", "search", "fr%", "--stage", "None", "--run", "run-1", "--tag", "kind=a=b")
    assert (found["version"], found["tags"], found["description"]) == ("fraud/2", "kind=a=b", "the second")
    newest = mlray(None, "model", "search", "--newest", "--limit", "1")
    assert [row["version"] for row in newest] == ["fraud/2"]
    with pytest.raises(MlrayError, match="a tag is written key=value, not 'kind'"):
        mlray("ana", "model", "tag", "fraud/2", "kind")


def test_a_model_is_copied_renamed_and_deleted(mlray, team):
    team.production()
    [copy] = mlray("ben", "model", "copy", "fraud/Production", "fraud-eu")
    assert (copy["version"], copy["stage"], copy["author"]) == ("fraud-eu/1", "None", "ben")
    [renamed] = mlray("ben", "model", "rename", "fraud", "cards", "--why", "two kinds")
    assert renamed["model"] == "cards"

    mlray("ben", "model", "delete", "cards/1")
    mlray("ana", "model", "delete", "fraud-eu", "--why", "a try")

    assert [row["model"] for row in mlray(None, "model", "list")] == ["cards"]
    assert mlray(None, "audit", "fraud-eu")[-1]["why"] == "a try"
    assert mlray(None, "audit", "--check")[0]["chain"] == "whole"


def test_a_policy_is_shown_and_put_in_force(mlray, tmp_path):
    (tmp_path / "policy.toml").write_text("[stages.Canary]\napprovals = ['risk_officer']\n")

    mlray("root", "policy", str(tmp_path / "policy.toml"), "--why", "smaller team")

    assert mlray(None, "policy") == [{"stage": "Canary", "approvals": "risk_officer", "gates": ""}]


def test_a_broken_audit_is_exit_code_1(mlray, execute):
    assert mlray(None, "audit", "--check")[0]["chain"] == "whole"

    execute("UPDATE audit SET who = 'somebody' WHERE sequence = 2")

    assert mlray(None, "audit", "--check", exit_code=1)[0]["chain"] == "audit row 2 was changed"


def test_an_audit_of_many_rows_is_one_json_object_or_table_after_table(mlray, team, monkeypatch):
    team.production()
    rows = [row["sequence"] for row in team.ana.audit()]
    monkeypatch.setattr("mlray.screen._PAGE", 3)
    monkeypatch.setattr("mlray.registry.reader.PAGE", 3)

    assert [row["sequence"] for row in mlray(None, "audit")] == rows
    assert mlray(None, "audit", "--check") == [{"chain": "whole", "rows": len(rows)}]
    shown = mlray(None, "audit", as_json=False)
    assert shown.count("audit, continued") == (len(rows) - 1) // 3


def test_without_a_token_nothing_is_changed(mlray, team):
    team.version()

    with pytest.raises(MlrayError, match="a change needs a token: set MLRAY_TOKEN"):
        mlray(None, "promote", "fraud/1", "--stage", "Staging")
