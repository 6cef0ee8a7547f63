"""What is dropped from the catalog is read by no version in Production or Canary, whoever drops, promotes and applies
at the same moment, and wherever a process is killed in between.
"""

from dataclasses import dataclass, replace
from functools import partial

import pytest

import mlray as ml
from mlray.discovery import Drop, Inventory, apply, drop
from mlray.discovery.drop import Dropping
from mlray.errors import Conflict, MlrayError
from mlray.features.applied import Applied
from mlray.features.catalog import service_hash, service_text
from mlray.features.thing import Thing
from mlray.registry.identity import Call
from tests.registry.conftest import OTHERS, PASSED
from tests.registry.test_promotion_races import apart, at_once  # noqa: F401  # a fixture
from tests.registry.test_registry_kills import killed_everywhere
from tests.soak import rounds

PURCHASES = ml.DeltaSource("purchases", path="purchases", timestamp="at")
USER = ml.Entity("user", keys=["user_id"])
SPENDING = ml.FeatureView("spending", entity=USER, source=PURCHASES, owner="payments", features=["country"])
RAIN = ml.FeatureView("rain", entity=None, source=ml.DeltaSource("weather", path="weather", timestamp="at"),
                      features=["millimetres"])  # fmt: skip
FRAUD = ml.FeatureService("fraud", features=[SPENDING, RAIN])
VIEW = Thing("view", "spending")


@dataclass(frozen=True)
class Shop:
    """The team, and a lake whose catalog holds the service."""

    team: object
    applied: Applied

    def version(self, weights=b"1", service=FRAUD, stage="Production"):
        """A version of the service that is approved for the stage."""
        told = {"service_hash": service_hash(service), "service_definition": service_text(service)}
        run = self.team.make_run(weights, gates=OTHERS | {"evaluation": PASSED}, service=service.name, **told)
        made = self.team.ana.register("fraud", run)
        self.team.ben.approve(made, stage=stage, role="ml_engineer")
        if stage == "Production":
            self.team.cleo.approve(made, stage=stage, role="risk_officer")
        return made

    def drop(self, name, kind=None, by=None):
        inventory = Inventory.of(self.applied, self.team.ana.list())
        return drop(inventory, self.applied, by or self.team.ana, name, kind)

    def apply(self, service=FRAUD, by=None):
        return apply(self.applied, lambda: by or self.team.ana, service)


@pytest.fixture
def shop(team, tmp_path):
    made = Shop(team, Applied(str(tmp_path / "lake")))
    made.apply()
    return made


@pytest.mark.parametrize("stage", ["Production", "Canary"])
@pytest.mark.parametrize(("name", "kind"), [("spending", "view"), ("purchases", "source"), ("fraud", "service")])
def test_what_a_live_model_reads_is_not_dropped(shop, stage, name, kind):
    earlier = ml.FeatureService("fraud", features=[SPENDING])
    shop.team.ana.promote(shop.version(service=earlier, stage=stage), stage=stage)
    before = shop.team.ana.audit()

    with pytest.raises(Conflict, match=rf"{kind} {name} cannot be dropped: fraud/1 \({stage}\) reads it"):
        shop.drop(name, kind)
    assert (shop.applied.get("fraud"), shop.applied.dropped(), shop.team.ana.audit()) == (FRAUD, [], before)


def test_a_view_that_another_owner_took_over_is_read_by_who_pins_the_former_one(shop):
    shop.team.ana.promote(shop.version(), stage="Production")
    shop.apply(ml.FeatureService("fraud", features=[replace(SPENDING, owner="risk"), RAIN]))

    with pytest.raises(Conflict, match=r"view risk/spending cannot be dropped: fraud/1 \(Production\) reads it"):
        shop.drop("risk/spending")


def test_a_drop_is_a_row_of_the_audit(shop):
    assert shop.drop("spending") == [Drop("fraud", "without", ("payments/spending",))]

    row = shop.team.ana.audit()[-1]
    said = row["after"]
    assert (row["who"], row["action"], said["kind"], said["name"]) == ("ana", "drop", "view", "spending")
    assert shop.applied.get("fraud").views == (RAIN,)
    assert shop.team.ana.check_audit() is None


@pytest.mark.parametrize(("name", "kind"), [("payments/spending", "view"), ("purchases", "source"), ("fraud", None)])
def test_what_reads_a_dropped_thing_takes_no_traffic_until_it_is_applied_again(shop, name, kind):
    version = shop.version()
    shop.drop(name, kind or "service", by=shop.team.eve)

    with pytest.raises(Conflict, match=rf"fraud/1 cannot enter Production: it reads \w+ {name}, which eve dropped at"):
        shop.team.ana.promote(version, stage="Production")
    assert shop.team.ana.promote(version, stage="Staging").stage == "Staging"
    shop.apply()
    assert shop.team.ana.promote("fraud/1", stage="Production").stage == "Production"
    assert (shop.applied.get("fraud"), shop.applied.dropped()) == (FRAUD, [])
    assert [row["action"] for row in shop.team.ana.audit()[-2:]] == ["apply_again", "promote"]
    assert shop.team.ana.check_audit() is None


def test_no_rollback_returns_to_what_reads_a_dropped_view(shop):
    rain = ml.FeatureService("fraud", features=[RAIN])
    shop.team.ana.promote(shop.version(b"1"), stage="Production")
    shop.team.ana.promote(shop.version(b"2", service=rain), stage="Production")
    shop.drop("spending")

    with pytest.raises(Conflict, match="fraud/1 cannot return to Production: it reads view spending, which ana"):
        shop.team.ben.rollback("fraud")
    shop.apply()
    assert shop.team.ben.rollback("fraud").version == 1


def test_who_says_that_something_is_dropped_and_leaves_the_catalog_alone_stops_nobody_for_long(shop):
    class Nothing:
        def mark(self):
            pass

        take = mark

    shop.version()
    shop.team.eve.drop_definition(replace(VIEW, definitions=("ab",)), Nothing())
    shop.drop("spending")
    shop.apply()

    assert shop.team.ana.promote("fraud/1", stage="Production").stage == "Production"
    with pytest.raises(MlrayError, match="there is no kind of thing to drop 'model'"):
        shop.team.eve.drop_definition(Thing("model", "fraud"), Nothing())


def test_applying_something_else_brings_nothing_back(shop):
    version = shop.version()
    shop.drop("spending")
    shop.apply(ml.FeatureService("fraud", features=[RAIN]))

    with pytest.raises(Conflict, match="it reads view spending, which ana dropped"):
        shop.team.ana.promote(version, stage="Production")


@pytest.mark.timeout(1800)
def test_of_a_drop_and_a_promotion_at_once_one_is_refused(shop, apart):  # noqa: F811
    dan, ana, applied = apart(shop.team.dan), apart(shop.team.ana), shop.applied
    for number in range(rounds(4, 200)):
        version = shop.version(b"%d" % number)
        dropped, promoted = at_once([
            lambda: drop(Inventory.of(applied, []), applied, dan, "spending"),
            lambda v=version: ana.promote(v, stage="Production"),
        ])  # fmt: skip

        assert sum(isinstance(answer, Conflict) for answer in (dropped, promoted)) == 1, (dropped, promoted)
        assert (SPENDING in applied.views()) is not isinstance(promoted, Conflict)
        if isinstance(dropped, Conflict):
            shop.team.ben.promote(promoted, stage="Archived")
        shop.apply()
    assert shop.team.ana.check_audit() is None


@pytest.mark.timeout(1800)
def test_among_drops_applications_and_promotions_no_live_version_reads_what_is_not_in_force(shop, apart):  # noqa: F811
    dan, ana, eve, lake = *map(apart, (shop.team.dan, shop.team.ana, shop.team.eve)), shop.applied.lake
    for number in range(rounds(4, 200)):
        version = shop.version(b"%d" % number)
        at_once([
            lambda: drop(Inventory.of(Applied(lake), []), Applied(lake), dan, "spending"),
            lambda: apply(Applied(lake), lambda: eve, FRAUD),
            lambda v=version: ana.promote(v, stage="Production"),
        ])  # fmt: skip

        live = [one for one in shop.team.ana.list("fraud") if one.stage == "Production"]
        assert not live or SPENDING in Applied(lake).views()
        for one in live:
            shop.team.ben.promote(one, stage="Archived")
        shop.apply()
        assert SPENDING in Applied(lake).views()
    assert shop.team.ana.check_audit() is None


def test_a_drop_that_is_killed_anywhere_is_refused_done_or_done_once_more(shop, urls):
    call = Call(request="the same", token=shop.team.dan._token)
    arguments = ((VIEW, Dropping(shop.applied.lake, VIEW)), {})
    version = shop.version()
    promote = partial(shop.team.ana.promote, version, stage="Production")
    rows = len(shop.team.ana.audit())

    for statement in killed_everywhere(urls, "drop_definition", arguments, call):
        noted = shop.team.ana.audit()[rows:]
        assert SPENDING in shop.applied.views() or [row["action"] for row in noted] == ["drop"], statement

    shop.team.dan._rules.drop_definition(*arguments[0], call=call)
    assert [row["action"] for row in shop.team.ana.audit()[rows:]] == ["drop"]
    assert SPENDING not in shop.applied.views()
    with pytest.raises(MlrayError, match="it reads view spending, which dan dropped"):
        promote()
    shop.apply()
    assert promote().stage == "Production"


def test_a_drop_that_comes_once_more_takes_nothing_that_was_applied_since(shop):
    rules, call = shop.team.dan._rules, Call(request="the same", token=shop.team.dan._token)
    rules.drop_definition(VIEW, Dropping(shop.applied.lake, VIEW), call=call)
    shop.apply()

    with pytest.raises(Conflict, match="somebody applied view spending again"):
        rules.drop_definition(VIEW, Dropping(shop.applied.lake, VIEW), call=call)
    assert shop.applied.get("fraud") == FRAUD
