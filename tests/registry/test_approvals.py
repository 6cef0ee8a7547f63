"""Whose word counts for what, and until when."""

import pickle
from pathlib import Path

import pytest

from mlray.errors import Conflict, CorruptArtifact, Forbidden, NotApproved, UnknownName

PRODUCTION = {"stage": "Production"}


def why_void(registry, version):
    return {approval.who: approval.void for approval in registry.approvals(version)}


def test_two_people_in_two_roles_open_production(team):
    version = team.version()
    with pytest.raises(NotApproved, match=r"it lacks an approval as ml_engineer; an approval as risk_officer$"):
        team.ana.promote(version, **PRODUCTION)
    team.ben.approve(version, **PRODUCTION, role="ml_engineer")
    with pytest.raises(NotApproved, match=r"fraud/1 may not enter Production, it lacks an approval as risk_officer$"):
        team.ana.promote(version, **PRODUCTION)
    team.cleo.approve(version, **PRODUCTION, role="risk_officer", why="reviewed on Monday")

    promoted = team.ana.promote(version, **PRODUCTION)

    assert (promoted.stage, promoted.row_version) == ("Production", 1)
    assert team.ana.get("fraud/Production") == promoted
    assert [row["why"] for row in team.ana.audit("fraud") if row["who"] == "cleo"] == ["reviewed on Monday"]


def test_an_author_approves_nothing_of_her_own(team):
    team.root.users.grant("ana", "ml_engineer")

    with pytest.raises(Forbidden, match=r"ana registered fraud/1, or the same bytes, and cannot approve it"):
        team.ana.approve(team.version(), **PRODUCTION, role="ml_engineer")


def test_the_same_bytes_registered_by_another_have_two_authors(team):
    team.root.users.grant("ana", "ml_engineer")
    version = team.version(b"1")
    copy = team.ben.register("other", team.make_run(b"1"))

    assert copy.digest == version.digest
    with pytest.raises(Forbidden, match=r"ana registered other/1, or the same bytes"):
        team.ana.approve(copy, **PRODUCTION, role="ml_engineer")
    with pytest.raises(Forbidden, match=r"ben registered fraud/1, or the same bytes"):
        team.ben.approve(version, **PRODUCTION, role="ml_engineer")


def test_who_registers_the_bytes_after_approving_them_has_approved_nothing(team):
    version = team.approved(b"1")
    team.ben.register("other", team.make_run(b"1"))

    with pytest.raises(NotApproved, match=r"lacks an approval as ml_engineer.*ben registered the same bytes"):
        team.ana.promote(version, **PRODUCTION)


def test_one_person_has_one_voice(team):
    version = team.version()
    team.dan.approve(version, **PRODUCTION, role="ml_engineer")

    with pytest.raises(Conflict, match=r"dan has approved fraud/1 as ml_engineer; one person has one voice"):
        team.dan.approve(version, **PRODUCTION, role="risk_officer")
    with pytest.raises(NotApproved, match=r"risk_officer"):
        team.ana.promote(version, **PRODUCTION)


def test_the_same_approval_again_changes_nothing(team):
    version = team.version()
    for _ in range(2):
        team.ben.approve(version, **PRODUCTION, role="ml_engineer")

    assert len(team.ana.approvals(version)) == 1


def test_a_role_that_is_not_held_or_not_asked_for_approves_nothing(team):
    version = team.version()

    with pytest.raises(Forbidden, match=r"approve fraud/1 as risk_officer: that takes the role risk_officer, and ben"):
        team.ben.approve(version, **PRODUCTION, role="risk_officer")
    with pytest.raises(UnknownName, match=r"no role whose approval Production asks for 'ml_enginer'.*'ml_engineer'"):
        team.ben.approve(version, **PRODUCTION, role="ml_enginer")
    with pytest.raises(UnknownName, match=r"no role whose approval Staging asks for 'ml_engineer'"):
        team.ben.approve(version, stage="Staging", role="ml_engineer")


def test_an_approval_is_for_one_stage(team):
    version = team.approved()

    with pytest.raises(NotApproved, match=r"may not enter Canary, it lacks an approval as ml_engineer"):
        team.ana.promote(version, stage="Canary")
    team.eve.approve(version, stage="Canary", role="ml_engineer")
    assert team.ana.promote(version, stage="Canary").stage == "Canary"
    assert team.ana.promote("fraud/1", **PRODUCTION).stage == "Production"


def test_an_approval_is_for_one_version(team):
    team.approved(b"1")

    with pytest.raises(NotApproved, match=r"fraud/2 may not enter Production"):
        team.ana.promote(team.version(b"2"), **PRODUCTION)


def test_an_approval_is_for_one_promotion(team):
    team.production()
    team.ben.promote("fraud/1", stage="Archived")
    team.ana.promote("fraud/1", stage="Staging")

    with pytest.raises(NotApproved, match=r"lacks an approval as ml_engineer; an approval as risk_officer$"):
        team.ana.promote("fraud/1", **PRODUCTION)
    assert why_void(team.ana, "fraud/1")["ben"] == "an earlier promotion has used it"


def test_an_approval_that_was_taken_back_does_not_count_and_can_be_given_again(team):
    version = team.approved()
    team.cleo.revoke_approval(version, **PRODUCTION, why="the bias report was wrong")

    with pytest.raises(NotApproved, match=r"lacks an approval as risk_officer$"):
        team.ana.promote(version, **PRODUCTION)
    assert team.ana.audit("fraud")[-1]["why"] == "the bias report was wrong"
    team.cleo.approve(version, **PRODUCTION, role="risk_officer")
    assert team.ana.promote(version, **PRODUCTION).stage == "Production"


def test_two_words_of_one_person_count_as_one_however_they_got_there(team, execute):
    version = team.version()
    team.dan.approve(version, **PRODUCTION, role="ml_engineer")
    rest = "model, version, digest, stage, policy_revision, who, at"
    execute(f"INSERT INTO approvals (id, role, {rest}) SELECT id + 1000, 'risk_officer', {rest} FROM approvals")

    with pytest.raises(NotApproved, match="fraud/1 may not enter Production, it lacks an approval as risk_officer"):
        team.ana.promote(version, **PRODUCTION)


def test_nobody_takes_back_what_another_said(team):
    version = team.approved()

    with pytest.raises(UnknownName, match=r"root has no approval of fraud/1 for Production to take back"):
        team.root.revoke_approval(version, **PRODUCTION)


def test_a_role_removed_before_the_promotion_voids_what_was_approved_in_it_for_good(team):
    version = team.approved()
    team.root.users.revoke("cleo", "risk_officer")
    with pytest.raises(NotApproved, match=r"cleo's approval does not count: cleo has lost the role risk_officer since"):
        team.ana.promote(version, **PRODUCTION)

    team.root.users.grant("cleo", "risk_officer")
    with pytest.raises(NotApproved, match=r"cleo has lost the role"):
        team.ana.promote(version, **PRODUCTION)
    team.cleo.approve(version, **PRODUCTION, role="risk_officer")
    assert team.ana.promote(version, **PRODUCTION).stage == "Production"


def test_an_approver_disabled_before_the_promotion_has_approved_nothing(team):
    version = team.approved()
    team.root.users.disable("ben")

    with pytest.raises(NotApproved, match=r"lacks an approval as ml_engineer; .ben's approval does not count: ben was"):
        team.ana.promote(version, **PRODUCTION)
    team.eve.approve(version, **PRODUCTION, role="ml_engineer")
    assert team.ana.promote(version, **PRODUCTION).stage == "Production"


def test_a_promotion_stands_when_an_approver_leaves_later(team):
    team.production()
    team.root.users.disable("cleo")

    assert team.stages() == ["Production"]


def test_another_policy_asks_for_new_approvals(team):
    version = team.approved()
    team.root.set_policy(team.root.policy().model_copy(update={"withdraw": ("operator",)}))

    with pytest.raises(NotApproved, match=r"ben's approval does not count: it was given under another policy"):
        team.ana.promote(version, **PRODUCTION)


def test_a_policy_that_comes_back_does_not_bring_its_approvals_back(team):
    version, first = team.approved(), team.root.policy()
    team.root.set_policy(first.model_copy(update={"withdraw": ("operator",)}))
    team.root.set_policy(first)

    assert why_void(team.ana, version) == dict.fromkeys(
        ("ben", "cleo"), "it was given before the policy was put in force anew"
    )
    with pytest.raises(NotApproved, match=r"lacks an approval as ml_engineer; an approval as risk_officer"):
        team.ana.promote(version, **PRODUCTION)
    team.ben.approve(version, **PRODUCTION, role="ml_engineer")
    team.cleo.approve(version, **PRODUCTION, role="risk_officer")
    assert team.ana.promote(version, **PRODUCTION).stage == "Production"


def test_the_policy_that_is_in_force_put_in_force_again_voids_nothing(team):
    version = team.approved()
    team.root.set_policy(team.root.policy())

    assert team.ana.promote(version, **PRODUCTION).stage == "Production"


def test_a_changed_digest_voids_the_approvals(team, execute):
    version = team.approved(b"1")
    other = team.version(b"2")
    execute(f"UPDATE model_versions SET digest = '{other.digest}' WHERE version = 1")

    with pytest.raises(NotApproved, match=r"it was given for other bytes"):
        team.ana.promote(version, **PRODUCTION)


def test_a_tampered_file_is_neither_approved_nor_promoted_nor_rolled_back_to(team, urls):
    version = team.production(b"weights")
    blob = next(path for path in Path(urls[1]).rglob("*") if path.is_file() and path.read_bytes() == b"weights")
    team.production(b"2")
    staged = team.approved(b"weights")
    blob.write_bytes(b"weighty")

    with pytest.raises(CorruptArtifact, match=r"wanted SHA-256"):
        team.ana.promote(staged, **PRODUCTION)
    with pytest.raises(CorruptArtifact, match=r"wanted SHA-256"):
        team.dan.approve(staged, **PRODUCTION, role="ml_engineer")
    with pytest.raises(CorruptArtifact, match=r"wanted SHA-256"):
        team.ben.rollback("fraud")
    assert team.stages() == ["Archived", "Production", "None"]
    assert version.digest == staged.digest


def test_a_version_of_nobody_cannot_be_approved(registry, make_run):
    registry.register("fraud", make_run())
    root = registry.acting(registry.users.add("root", ["ml_engineer"]))

    with pytest.raises(Forbidden, match=r"fraud/1 was registered without a token, by os:.*nobody can say whom"):
        root.approve("fraud/1", stage="Canary", role="ml_engineer")


def test_a_refusal_says_as_data_what_is_missing_and_keeps_it_when_it_is_pickled(team):
    version = team.ana.register("fraud", team.make_run(b"1"))

    with pytest.raises(NotApproved) as refused:
        team.ana.promote(version, stage="Production")

    carried = pickle.loads(pickle.dumps(refused.value))
    assert (carried.roles, carried.gates) == (
        ("ml_engineer", "risk_officer"), ("data_validation", "evaluation", "bias", "model_card"),
    )
    assert str(carried) == str(refused.value)
