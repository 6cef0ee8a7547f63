"""Whatever anybody asks for, in whatever order: the tables are what the audit tells, one version is in Production, and
a protected alias points at it. `make soak` asks for very much more.
"""

import random
from contextlib import suppress

import pytest

from mlray.errors import MlrayError
from mlray.registry.identity import Call
from mlray.registry.policy import LIVE, Policy
from tests.soak import rounds

NAMES, ALIASES, ROLES = ("fraud", "cards"), ("live", "champion"), ("ml_engineer", "risk_officer")
POLICIES = (Policy(), Policy(protected_aliases=ALIASES), Policy(withdraw=("operator", "ml_engineer")))
STEPS, EVERY = 60, 15


def moved(some, rules, at, call):
    rules.promote(*at, stage=some.choice(["Staging", "Canary", "Production", "Archived"]), row_version=None, call=call)


def approved(some, rules, at, call):
    rules.approve(*at, stage=some.choice(LIVE), role=some.choice(ROLES), call=call)


CHANGES = (
    *[moved] * 4,
    *[approved] * 8,
    lambda some, rules, at, call: rules.revoke_approval(*at, stage=some.choice(LIVE), call=call),
    lambda some, rules, at, call: rules.rollback(at[0], version=some.choice([None, at[1]]), call=call),
    lambda some, rules, at, call: rules.set_alias(at[0], some.choice(ALIASES), at[1], call=call),
    lambda some, rules, at, call: rules.remove_alias(at[0], some.choice(ALIASES), call=call),
    lambda some, rules, at, call: rules.set_tag(at[0], "data", some.choice("xy"), version=at[1], call=call),
    lambda _some, rules, at, call: rules.delete_tag(at[0], "data", version=at[1], call=call),
    lambda some, rules, at, call: rules.describe(at[0], some.choice("xy"), call=call),
    lambda some, rules, at, call: rules.copy(*at, some.choice(NAMES), call=call),
    lambda some, rules, at, call: rules.rename_model(at[0], some.choice(NAMES), call=call),
    lambda _some, rules, at, call: rules.delete_version(*at, call=call),
    lambda some, rules, at, call: some.random() < 0.2 and rules.delete_model(at[0], call=call),
    lambda some, rules, _at, call: rules.grant("eve", some.choice(ROLES), call=call),
    lambda some, rules, _at, call: rules.revoke("eve", some.choice(ROLES), call=call),
    lambda some, rules, _at, call: rules.set_policy(some.choice(POLICIES).to_json(), call=call),
)


def one_change(some, team, number):
    """Somebody asks for something, now and then under a key that was used before."""
    person = some.choice([team.root, team.ana, team.ben, team.cleo, team.dan, team.eve])
    call = Call(request="often" if some.random() < 0.2 else f"once {number}", token=person._token)
    known = [(version.name, version.version) for version in team.ana.list()]
    if len(known) < 3:
        team.version(b"%d" % some.randrange(4), model=some.choice(NAMES))
    else:
        some.choice(CHANGES)(some, person._rules, some.choice(known), call)


@pytest.mark.timeout(1800)
def test_whatever_is_asked_for_in_whatever_order_agrees_with_its_rows(team):
    for seed in range(rounds(2, 100)):
        some = random.Random(seed)
        for number in range(STEPS):
            with suppress(MlrayError):
                one_change(some, team, f"{seed}-{number}")
            if number % EVERY == 0:
                assert team.root.check_audit() is None, (seed, number)
        protected = team.root.policy().protected_aliases
        for version in team.ana.list():
            assert version.stage == "Production" or not set(version.aliases) & set(protected), (seed, version)
        live = [(version.name, version.stage) for version in team.ana.list() if version.stage in LIVE]
        assert len(live) == len(set(live)), (seed, live)
    assert team.root.check_audit() is None
