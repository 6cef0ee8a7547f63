"""Moves between stages: one Production, whatever happens."""

import pytest
from sqlalchemy.exc import IntegrityError

from mlray.errors import Conflict, Forbidden, NotApproved, UnknownName
from mlray.registry.evidence import Evidence
from mlray.registry.gates import Gate
from mlray.registry.identity import Call
from mlray.registry.lookup import version_row
from mlray.registry.policy import Policy
from mlray.registry.stages import promote

PRODUCTION = {"stage": "Production"}
PASSED = Gate(passed=True)


def test_a_version_starts_in_none_and_goes_to_staging_without_approvals(team):
    assert team.version().stage == "None"
    assert team.ana.promote("fraud/1", stage="Staging").stage == "Staging"


def test_promoting_archives_the_one_that_was_there(team):
    team.production(b"1")
    team.production(b"2")

    assert team.stages() == ["Archived", "Production"]
    last = team.ana.audit("fraud")[-2:]
    assert [(row["action"], row["after"]["version"], row["after"]["stage"]) for row in last] == [
        ("archive", 1, "Archived"),
        ("promote", 2, "Production"),
    ]
    assert last[0]["request"] == last[1]["request"]
    assert len(last[1]["after"]["approvals"]) == 2


def test_models_have_a_production_each(team):
    team.production()
    other = team.version(model="other", weights=b"2")
    team.ben.approve(other, **PRODUCTION, role="ml_engineer")
    team.cleo.approve(other, **PRODUCTION, role="risk_officer")
    team.ana.promote(other, **PRODUCTION)

    assert (team.stages("fraud"), team.stages("other")) == (["Production"], ["Production"])


def test_canary_and_production_are_held_side_by_side(team):
    team.production(b"1")
    for weights in (b"2", b"3"):
        team.ben.approve(team.version(weights), stage="Canary", role="ml_engineer")
    team.ana.promote("fraud/2", stage="Canary")
    team.ana.promote("fraud/3", stage="Canary")

    assert team.stages() == ["Production", "Archived", "Canary"]
    assert team.ana.get("fraud/Canary").version == 3


@pytest.mark.parametrize("stage", ["Production", "Canary"])
def test_the_database_itself_holds_one_version_in_a_stage_with_traffic(team, execute, stage):
    team.version(b"1")
    team.version(b"2")
    execute(f"UPDATE model_versions SET stage = '{stage}' WHERE version = 1")

    with pytest.raises(IntegrityError):
        execute(f"UPDATE model_versions SET stage = '{stage}' WHERE version = 2")


def test_who_looked_before_a_move_is_told_so(team):
    seen = team.approved()
    team.ana.promote(seen, stage="Staging")

    with pytest.raises(Conflict, match=r"fraud/1 has changed.*in Staging now \(row version 1, yours is 0\); get it"):
        team.ana.promote(seen, **PRODUCTION)
    assert team.ana.promote(team.ana.get("fraud/1"), **PRODUCTION).stage == "Production"


def test_approvals_do_not_move_a_version(team):
    assert team.approved() == team.ana.get("fraud/1")


def test_a_stage_that_is_reached_already_is_no_change_and_a_row_says_so(team):
    team.production()
    before = team.ana.audit()

    assert team.ana.promote("fraud/1", **PRODUCTION).row_version == 1
    [row] = team.ana.audit()[len(before) :]
    assert row["after"] == {"version": 1, "stage": "Production", "unchanged": True}
    assert team.ana.check_audit() is None


@pytest.mark.parametrize(("there", "stage", "ways"), [("Archived", "Production", "St"), ("Staging", "None", "Can")])
def test_a_move_that_the_policy_does_not_know_is_refused(team, there, stage, ways):
    team.version()
    team.ana.promote("fraud/1", stage=there)

    with pytest.raises(Conflict, match=f"1 is in {there}; from there the policy lets it go to {ways}.*not to {stage}"):
        team.ana.promote("fraud/1", stage=stage)


def test_a_misspelt_stage_points_at_the_nearest(team):
    with pytest.raises(UnknownName, match=r"there is no stage 'Prodution'.*did you mean 'Production'"):
        team.ana.promote(team.version(), stage="Prodution")


def test_taking_a_version_out_of_traffic_takes_a_role(team):
    team.production()

    with pytest.raises(Forbidden, match=r"ana may not take fraud/1 out of Production: that takes the role ml_engineer"):
        team.ana.promote("fraud/1", stage="Archived")
    assert team.cleo.promote("fraud/1", stage="Archived", why="complaints").stage == "Archived"
    with pytest.raises(UnknownName, match=r"no version of fraud is in Production"):
        team.ana.get("fraud/Production")


def test_a_policy_of_the_team_replaces_the_default(team):
    two = {"stages": {"Production": {"approvals": ["risk_officer", "risk_officer"], "gates": []}}}
    team.root.set_policy(Policy.parse(two), why="two risk officers from now on")
    version = team.version()
    team.cleo.approve(version, **PRODUCTION, role="risk_officer")
    with pytest.raises(NotApproved, match=r"lacks an approval as risk_officer$"):
        team.ana.promote(version, **PRODUCTION)

    team.dan.approve(version, **PRODUCTION, role="risk_officer")
    assert team.ana.promote(version, **PRODUCTION).stage == "Production"
    assert team.root.policy() == Policy.parse(two)


def test_rollback_returns_to_the_last_approved_production_without_new_approvals(team):
    team.production(b"1")
    team.production(b"2")
    team.production(b"3")

    assert team.ben.rollback("fraud", why="latency").version == 2
    assert team.stages() == ["Archived", "Production", "Archived"]
    assert team.ben.rollback("fraud/2").version == 1  # and never back to what was withdrawn
    with pytest.raises(Conflict, match=r"fraud has no earlier approved Production to go back to"):
        team.ben.rollback("fraud/1")
    assert team.ben.check_audit() is None


def test_rollback_works_after_the_bad_version_was_archived_by_hand(team):
    team.production(b"1")
    team.production(b"2")
    team.ben.promote("fraud/2", stage="Archived")

    assert team.ben.rollback("fraud").version == 1


def test_rollback_takes_a_role(team):
    team.production(b"1")
    team.production(b"2")

    with pytest.raises(Forbidden, match=r"ana may not roll fraud back: that takes the role"):
        team.ana.rollback("fraud")


def test_rollback_skips_a_version_whose_approval_was_taken_back(team):
    for weights in (b"1", b"2", b"3"):
        team.production(weights)
    team.cleo.revoke_approval("fraud/2", **PRODUCTION)

    assert team.ben.rollback("fraud").version == 1


def test_rollback_does_not_return_to_bytes_that_the_policy_by_now_wants_verified(team):
    lax = {"unverified_sources": True, "stages": {"Production": {"approvals": ["ml_engineer"], "gates": []}}}
    team.root.set_policy(Policy.parse(lax))
    for number in (1, 2):
        version = team.ana.register_source("fraud", f"runs:/{number}/model")
        team.ben.approve(version, **PRODUCTION, role="ml_engineer")
        team.ana.promote(version, **PRODUCTION)
    team.root.set_policy(Policy.parse(lax | {"unverified_sources": False}))

    with pytest.raises(NotApproved, match=r"fraud/1 was registered from runs:/1/model and nobody has verified its by"):
        team.ben.rollback("fraud")
    assert team.stages() == ["Archived", "Production"]


def test_a_version_that_was_withdrawn_needs_new_approvals(team):
    team.production(b"1")
    team.production(b"2")
    team.ben.rollback("fraud")
    team.ana.promote("fraud/2", stage="Staging")

    with pytest.raises(NotApproved):
        team.ana.promote("fraud/2", **PRODUCTION)


def test_a_digest_that_changes_after_its_bytes_were_verified_is_not_promoted(team):
    version = team.approved()
    verified = Evidence(digest="0" * 64, gates=dict.fromkeys(Policy().rule("Production").gates, PASSED))

    with (
        pytest.raises(Conflict, match="fraud/1: its digest is not the one whose bytes were verified"),
        team.ana._rules._changing(Call(request="r", token=team.ana._token)) as tx,
    ):
        promote(tx, Policy(), version_row(tx.session, "fraud", version.version), "Production", verified, None)
    assert team.stages() == ["None"]


def test_a_version_that_somebody_moves_past_the_lock_is_not_moved(team):
    version = team.approved()
    verified = Evidence(digest=version.digest, gates=dict.fromkeys(Policy().rule("Production").gates, PASSED))

    with team.ana._rules._changing(Call(request="r", token=team.ana._token)) as tx:
        row = version_row(tx.session, "fraud", 1)
        tx.session.connection().exec_driver_sql("UPDATE model_versions SET row_version = 7")
        with pytest.raises(Conflict, match=r"fraud/1 has changed since .* \(row version 7, yours is 0\)"):
            promote(tx, Policy(), row, "Production", verified, None)
    assert team.stages() == ["None"]
