"""Where a version comes from, as an approver reads it."""

from pathlib import Path

import pytest

from mlray.errors import CorruptArtifact


def test_a_version_names_its_run_its_data_its_gates_and_its_approvals(team):
    version = team.approved()

    tree = team.ana.lineage(version)

    assert tree["version"]["reference"] == "fraud/1"
    assert tree["run"]["id"] == "run-1"
    assert tree["run"]["configuration"] == {"epochs": "3", "learning_rate": "0.1"}
    assert tree["data"]["tables"] == {"departures": "Delta version 4"}
    assert tree["data"]["fingerprint of the training set"] == "cd" * 32
    assert tree["gates"] == {
        "bias": "passed", "data_validation": "passed", "evaluation": "passed with 0.755, asked for 0.7",
        "model_card": "passed",
    }
    assert [who.split(" for ")[0] for who in tree["approvals"]] == ["ben as ml_engineer", "cleo as risk_officer"]
    assert set(tree["approvals"].values()) == {"counts"}


def test_what_is_not_known_says_so(team):
    tree = team.ana.lineage(team.ana.register("fraud", team.make_run(b"1")))

    assert (tree["run"]["code"], tree["run"]["lock file"]) == ("not recorded", "not recorded")
    assert tree["gates"] == {"none": "the run left no results"}
    assert tree["approvals"] == {"none": "nobody has approved it"}


def test_code_that_no_commit_holds_is_told(team):
    run = team.make_run(b"1", provenance={"commit": "ab12", "dirty": True, "python": "3.11.7"})

    assert team.ana.lineage(team.ana.register("fraud", run))["run"]["code"] == (
        "commit ab12, with changes that no commit holds"
    )


def test_a_run_that_went_on_from_another_checkpoint_names_it(team):
    team.version(b"1")
    tuned = team.ana.register("fraud", team.make_run(b"2", provenance={"commit": None, "parent": "fraud/1"}))

    assert team.ana.lineage("fraud/1")["run"]["parent checkpoint"] == "none recorded"
    assert team.ana.lineage(tuned)["run"]["parent checkpoint"] == "fraud/1"
    assert "fraud/1" in team.ana.card(tuned).markdown()


def test_an_approval_that_no_longer_counts_says_why(team):
    version = team.approved()
    team.root.users.disable("ben")

    [ben, _] = team.ana.lineage(version)["approvals"].values()

    assert ben == "does not count now: ben was disabled"


def test_results_are_read_from_verified_bytes_only(team, urls):
    version = team.version()
    for path in Path(urls[1]).rglob("*"):
        if path.is_file() and b'"gates"' in path.read_bytes():
            path.write_bytes(path.read_bytes().replace(b"0.755", b"0.999"))

    with pytest.raises(CorruptArtifact, match="wanted SHA-256"):
        team.ana.lineage(version)


def test_a_copy_names_its_original_and_a_source_says_that_nobody_has_verified_it(team):
    team.version()
    team.ana.register_source("far", "runs:/1/model", description="by MLflow")

    copy, far = team.ana.lineage(team.eve.copy("fraud/1", "other")), team.ana.lineage("far/1")

    assert copy["version"]["copy of"] == "fraud/1"
    assert far["version"]["digest"] == "none: nobody has verified the bytes at runs:/1/model"
    assert (far["version"]["copy of"], far["version"]["description"]) == ("nothing", "by MLflow")
    assert far["gates"] == {"none": "the run left no results"}
