"""Many promote, revoke and roll back at once: one Production in every round, and an audit that agrees.

Every promoter is a thread with a registry of its own, which has its own connections: to the database it is another
process. `make soak` runs 200 rounds, and 1000 of the smallest races.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from mlray.errors import Conflict, Forbidden, MlrayError, NotApproved
from mlray.registry.client import Registry
from tests.soak import rounds

PROMOTERS = 4


def at_once(calls: list[Callable[[], object]]) -> list[object]:
    """Runs them at the same moment; what each answered, or the error of mlray that it met."""
    gate = Barrier(len(calls))

    def run(call: Callable[[], object]) -> object:
        gate.wait()
        try:
            return call()
        except MlrayError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(run, calls))


@pytest.fixture
def apart(urls: tuple[str, str]) -> Callable[[Registry], Registry]:
    """The same person with a database connection of her own."""
    return lambda mine: Registry.connect(*urls, embedded=True, token=mine._token)


def production(team) -> list[int]:
    return [version.version for version in team.ana.list("fraud") if version.stage == "Production"]


@pytest.mark.timeout(1800)
def test_promoters_of_different_versions_leave_one_production(team, apart):
    promoters = [apart(team.ana) for _ in range(PROMOTERS)]
    for number in range(rounds(2, 200)):
        versions = [team.approved(b"%d-%d" % (number, one)) for one in range(PROMOTERS)]
        pairs = zip(promoters, versions, strict=True)
        answers = at_once([lambda p=p, v=v: p.promote(v, stage="Production") for p, v in pairs])

        assert not [answer for answer in answers if isinstance(answer, MlrayError)]
        assert len(production(team)) == 1
        assert sum(stage == "Archived" for stage in team.stages()) == (number + 1) * PROMOTERS - 1
    assert team.ana.check_audit() is None


@pytest.mark.timeout(1800)
def test_of_promoters_of_one_version_one_promotes_and_the_others_are_told(team, apart):
    promoters = [apart(team.ana) for _ in range(PROMOTERS)]
    for number in range(rounds(2, 200)):
        version = team.approved(b"%d" % number)
        answers = at_once([lambda p=p, v=version: p.promote(v, stage="Production") for p in promoters])

        losers = [answer for answer in answers if isinstance(answer, MlrayError)]
        assert [type(loser) for loser in losers] == [Conflict] * (PROMOTERS - 1)
        assert production(team) == [version.version]
        done = [row for row in team.ana.audit("fraud") if row["action"] == "promote"]
        assert len(done) == number + 1
    assert team.ana.check_audit() is None


@pytest.mark.timeout(1800)
def test_an_approval_taken_back_and_a_promotion_at_once_agree_on_which_was_first(team, apart):
    cleo, ana = apart(team.cleo), apart(team.ana)
    for number in range(rounds(3, 1000)):
        version = team.approved(b"%d" % number)
        revoked, promoted = at_once([
            lambda v=version: cleo.revoke_approval(v, stage="Production"),
            lambda v=version: ana.promote(v, stage="Production"),
        ])  # fmt: skip

        assert revoked is None
        assert isinstance(promoted, NotApproved) or promoted.stage == "Production"
        last = [row["action"] for row in team.ana.audit("fraud")[-2:]]
        assert last[-1] == "revoke_approval"
        assert (last[-2] == "promote") is not isinstance(promoted, NotApproved)
    assert team.ana.check_audit() is None


@pytest.mark.timeout(1800)
def test_a_role_taken_away_and_a_promotion_at_once_agree_on_which_was_first(team, apart):
    root, ana = apart(team.root), apart(team.ana)
    for number in range(rounds(3, 1000)):
        version = team.approved(b"%d" % number)
        _, promoted = at_once([
            lambda: root.users.revoke("cleo", "risk_officer"),
            lambda v=version: ana.promote(v, stage="Production"),
        ])  # fmt: skip
        team.root.users.grant("cleo", "risk_officer")

        order = [row["action"] for row in team.ana.audit()[-4:] if row["action"] in ("promote", "revoke")]
        assert order == (["revoke"] if isinstance(promoted, NotApproved) else ["promote", "revoke"])
    assert team.ana.check_audit() is None


@pytest.mark.timeout(1800)
def test_of_two_who_roll_back_at_once_one_goes_back_and_the_other_is_told(team, apart):
    ben, dan = apart(team.ben), apart(team.dan)
    first = team.production(b"first")
    for number in range(rounds(2, 200)):
        team.production(b"%d" % number)
        answers = at_once([lambda: ben.rollback("fraud"), lambda: dan.rollback("fraud")])

        assert [type(answer) for answer in answers if isinstance(answer, MlrayError)] == [Conflict]
        assert production(team) == [first.version]
    assert team.ana.check_audit() is None


def test_two_who_set_up_a_registry_at_once_make_one_admin(registry, urls):
    others = [Registry.connect(*urls, embedded=True) for _ in range(PROMOTERS)]
    registry.models()
    names = ["ana", "ben", "cleo", "dan"]

    answers = at_once([lambda o=o, n=n: o.users.add(n) for o, n in zip(others, names, strict=True)])

    assert sum(isinstance(answer, str) for answer in answers) == 1
    [admin] = registry.users.list()
    assert admin.roles == ("admin",)
    assert not [answer for answer in answers if isinstance(answer, Forbidden)]
