"""A request that comes once more, however late, undoes nothing that somebody else has done since."""

import pytest

from mlray.errors import Conflict
from mlray.registry import stages
from mlray.registry.identity import Call
from mlray.registry.policy import Policy


def call(registry, request="the same"):
    return Call(request=request, token=registry._token)


def test_a_role_that_was_held_already_is_not_given_again_after_it_was_taken(team):
    rules, once = team.root._rules, call(team.root)
    rules.grant("cleo", "risk_officer", call=once)
    team.root.users.revoke("cleo", "risk_officer")

    rules.grant("cleo", "risk_officer", call=once)

    assert next(user for user in team.root.users.list() if user.name == "cleo").roles == ()
    assert team.root.check_audit() is None


def test_an_approval_that_was_given_already_is_not_given_again_after_it_was_taken_back(team):
    version, rules, once = team.approved(), team.ben._rules, call(team.ben)
    word = {"stage": "Production", "role": "ml_engineer"}
    rules.approve("fraud", 1, **word, call=once)
    team.ben.revoke_approval(version, stage="Production")

    rules.approve("fraud", 1, **word, call=once)

    assert [one.void for one in team.ana.approvals(version) if one.who == "ben"] == ["it was taken back"]


def test_a_policy_that_was_in_force_already_does_not_replace_the_next_one(team):
    rules, once, first = team.root._rules, call(team.root), team.root.policy()
    rules.set_policy(first.to_json(), call=once)
    stricter = team.root.set_policy(Policy.parse({"withdraw": ["operator"]}))

    assert rules.set_policy(first.to_json(), call=once) == stricter
    assert team.root.policy() == stricter


def test_a_tag_and_a_description_that_were_so_already_do_not_replace_the_next_ones(team):
    team.version()
    rules, once = team.ana._rules, call(team.ana)
    for _ in range(2):
        team.ana.tag("fraud/1", "data", "2026")
        team.ana.describe("fraud", "cards")
        rules.set_tag("fraud", "data", "2026", version=1, call=once)
        rules.describe("fraud", "cards", call=once)
        team.ben.tag("fraud/1", "data", "2027")
        team.ben.describe("fraud", "all cards")
    rules.set_tag("fraud", "data", "2026", version=1, call=once)
    rules.describe("fraud", "cards", call=once)

    assert team.ana.get("fraud/1").tags == {"data": "2027"}
    assert team.ana.model("fraud").description == "all cards"
    assert team.ana.check_audit() is None


def test_a_stage_that_was_reached_already_is_not_returned_to(team):
    team.version()
    team.ben.promote("fraud/1", stage="Staging")
    rules, once = team.ben._rules, call(team.ben)
    move = {"stage": "Staging", "row_version": None}
    rules.promote("fraud", 1, **move, call=once)
    team.eve.approve("fraud/1", stage="Canary", role="ml_engineer")
    team.dan.promote("fraud/1", stage="Canary")

    assert rules.promote("fraud", 1, **move, call=once).stage == "Canary"


def test_a_move_that_comes_again_without_a_word_on_what_was_seen_does_not_undo_the_next_one(team):
    team.version()
    team.ben.promote("fraud/1", stage="Staging")
    team.eve.approve("fraud/1", stage="Canary", role="ml_engineer")
    team.dan.promote("fraud/1", stage="Canary")

    with pytest.raises(Conflict, match=r"ben moved fraud/1 to Staging already, at .* dan has moved it to Canary since"):
        team.ben.promote("fraud/1", stage="Staging")  # another request: MLflow's client gives its repetitions no name
    assert team.stages() == ["Canary"]
    assert team.ben.promote(team.ben.get("fraud/1"), stage="Staging").stage == "Staging"


def test_a_move_that_comes_again_much_later_is_another_one(team, monkeypatch):
    team.version()
    team.ben.promote("fraud/1", stage="Staging")
    team.eve.approve("fraud/1", stage="Canary", role="ml_engineer")
    team.dan.promote("fraud/1", stage="Canary")
    now = team.ben._rules._clock()
    monkeypatch.setattr(team.ben._rules, "_clock", lambda: now + stages.LATE * 2)

    assert team.ben.promote("fraud/1", stage="Staging").stage == "Staging"


def test_a_rollback_that_comes_again_without_a_word_on_what_was_seen_goes_back_once(team):
    for weights in (b"1", b"2", b"3"):
        seen = team.production(weights)
    team.ben.rollback("fraud")

    for again in (team.ben, team.dan):  # a repetition without a name; another on call, at the same moment
        with pytest.raises(Conflict, match="ben has rolled fraud back to fraud/2 already, at 20"):
            again.rollback("fraud")
    with pytest.raises(Conflict, match="Production of fraud is not what you have seen: fraud/2, row version 3, is"):
        team.dan.rollback(seen)
    assert team.ben.rollback("fraud/2").version == 1


def test_a_rollback_says_what_it_has_seen_by_number_and_row_version(team):
    for weights in (b"1", b"2", b"3"):
        team.production(weights)
    rules = team.ben._rules
    for wrong in ({"version": 2}, {"row_version": 0}, {"version": 3, "row_version": 0}):
        with pytest.raises(Conflict, match="is not what you have seen: fraud/3, row version 1, is there"):
            rules.rollback("fraud", **wrong, call=call(team.ben))
    assert rules.rollback("fraud", row_version=1, call=call(team.ben)).version == 2
    team.ben.promote("fraud/2", stage="Archived")

    with pytest.raises(Conflict, match="is not what you have seen: nothing is there"):
        team.ben.rollback("fraud/2")


def test_a_rollback_much_later_or_after_another_promotion_is_another_one(team, monkeypatch):
    for weights in (b"1", b"2", b"3"):
        team.production(weights)
    team.ben.rollback("fraud")
    team.production(b"4")
    assert team.ben.rollback("fraud").version == 2

    now = team.ben._rules._clock()
    monkeypatch.setattr(team.ben._rules, "_clock", lambda: now + stages.LATE * 2)
    assert team.ben.rollback("fraud").version == 1


def test_a_key_stands_for_one_change_of_one_caller(team):
    team.version(b"1")
    rules = team.ben._rules
    rules.promote("fraud", 1, stage="Staging", row_version=None, call=call(team.ben))
    approve = {"stage": "Canary", "role": "ml_engineer"}
    rules.approve("fraud", 1, **approve, call=call(team.ben))

    with pytest.raises(Conflict, match="'the same' stands for a 'promote' by ben with stage Staging; use a key"):
        rules.promote("fraud", 1, stage="Canary", row_version=None, call=call(team.ben))
    with pytest.raises(Conflict, match="'the same' stands for a 'approve' by ben; use a key of your own"):
        rules.approve("fraud", 1, **approve, call=call(team.eve))
