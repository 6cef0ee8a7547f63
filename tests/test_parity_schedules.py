"""The law over schedules of every length and order, against the oracle and real stores: 25 of them, shared by the
stores; in `make soak` 1,000 on each store.

A world's rows arrive in any order: late, corrected, repeated, in a commit whose writer died before it told the online
store. Between them come materialisations, restarts and other definitions of the view; and reads, of which each answer
is what the oracle says of the rows that the store was told of, its statuses and event times too. What those are,
`Told` says.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import ClassVar

import declared
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from generated import KINDS, START, STEP, UTC_TIME, Aggregate, Query, World, differences, every_window, ties, world
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from oracle import Row, answer, statuses

import mlray as ml
from mlray.errors import TimeError
from mlray.features.types import instants
from mlray.offline import delta
from mlray.online import state
from mlray.online.folding import FOLD, LATE_READS
from mlray.online.retrieval import Reader
from tests.soak import SOAKING, rounds

STORES = ("memory", "lmdb", "redis")
SCHEDULES = rounds(test=-(-25 // len(STORES)), soak=1000)
"""Of each store."""
PHASES = (Phase.reuse, Phase.generate, *([Phase.shrink] if SOAKING else []))
"""A shorter schedule that fails as well takes minutes to find, more than a test may take."""
ACTIONS = (
    *["ingest"] * 5,
    *["materialize"] * 3,
    "ingest_a_batch_again",
    "ingest_named_events_again",
    "die_between_delta_and_the_store",
    "compact",
    "restart",
    "change_the_definition",
)
"""What a step may be; repeated for its share."""
STEPS, QUESTIONS = 15, 3
ALL = 1_000_000
NANOSECONDS = pa.timestamp("ns", tz="UTC")


class Seeded(Random):
    """Random choices that a report of a failure can name."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.name = seed

    def __repr__(self) -> str:
        return f"Seeded({self.name})"


LUCK = st.integers(0, 2**16).map(Seeded)


@dataclass
class Told:
    """What the online store was told of one definition's events: positions of the world's rows.

    rows: those that count. behind: of commits that did not reach the store; the next ingest brings them. since: the
    instant from which answers are promised, None for all.
    """

    known: bool = False
    rows: set[int] = field(default_factory=set)
    behind: set[int] = field(default_factory=set)
    until: int | None = None
    since: int | None = None

    def commit(self, rows: set[int], first: bool, pushed: bool, in_force: bool) -> None:
        """A commit to the table. first: there was none before; pushed: its writer lived to tell the store."""
        if first and pushed and in_force:
            self.known = True
        if self.known and pushed:
            self.rows |= rows | self.behind
            self.behind = set()
        elif self.known:
            self.behind |= rows

    def load(self, until: int, history: int, stored: set[int], times: Sequence[int | None]) -> None:
        """A materialisation of all that is stored."""
        self.known, self.behind, self.since = True, set(), until - history
        self.until = until if self.until is None else max(until, self.until)
        self.rows |= {row for row in stored if (time := times[row]) is not None and time <= self.until}

    def latest(self, times: Sequence[int | None]) -> int:
        """The latest instant that a watermark may have."""
        return max([START if self.until is None else self.until, *(times[row] or START for row in self.rows)])

    def latest_reach(self, times: Sequence[int | None]) -> int:
        """From when on answers must be given: as the load was asked, or so long and `LATE_READS` before the newest."""
        newest = max((time for row in self.rows if (time := times[row]) is not None), default=START)
        if self.since is None or self.until is None:
            return newest - LATE_READS
        return max(self.since, newest - (self.until - self.since) - LATE_READS)


def made(seed: int, size: int) -> World:
    """A world whose view has every aggregate once, each over some kind of window, of half of them a short one; or one
    of the seed's own making.
    """
    rng = Random(seed)
    if rng.random() < 0.2:
        return world(seed, size)
    short = rng.random() < 0.5
    choices: dict[str, list[Aggregate]] = {kind: [] for kind in KINDS}
    for feature in every_window():
        if isinstance(feature, Aggregate) and not (short and None in feature.sizes):
            choices[feature.kind].append(feature)
    return world(seed, size, timeless=False, features=["price", "country", *map(rng.choice, choices.values())])


def other(asked: World) -> World:
    """The same source behind another definition of the view: fewer features, another ttl."""
    features = asked.features[: max(1, len(asked.features) // 2)]
    names = [name for f in features for name in ([f] if isinstance(f, str) else [n for n, _ in f.windows()])]
    ttl = None if asked.view.source.timestamp is None else 2 * STEP
    kept = {name: asked.view.features[name] for name in names}
    return replace(
        asked, features=features, view=replace(asked.view, features=kept, ties=ties(features, asked.where), ttl=ttl)
    )


class Schedule(RuleBasedStateMachine):
    """One lake, one store; `url` and `folder` are given by the test."""

    url: ClassVar[str]
    folder: ClassVar[Path]
    runs: ClassVar[int] = 0

    @initialize(seed=st.integers(0, 2**32 - 1), size=st.integers(8, 40), fold=st.sampled_from([2, 8]))
    def begin(self, seed: int, size: int, fold: int) -> None:
        state.push.__kwdefaults__["fold"] = fold
        type(self).runs += 1
        self.place = f"{self.folder}/{self.runs}"
        asked = made(seed, size)
        self.worlds = [asked, other(asked)]
        self.services = [ml.FeatureService("service", features=[declared.view(one)]) for one in self.worlds]
        self.told = [Told(), Told()]
        clock = asked.view.source.timestamp
        self.times = [row[clock] if clock else 0 for row in asked.rows]
        self.waiting, self.stored = list(range(asked.table.num_rows)), set[int]()
        self.batches: list[tuple[str, list[int]]] = []
        self.marks = [START]
        self.now = 0
        self.questions = Random(seed)
        self.platform = self.connect()
        for space in self.platform.online.spaces():  # one server serves many schedules
            self.platform.online.drop(space)
        self.platform.applied_diff(self.services[0])

    def connect(self) -> ml.Platform:
        return ml.connect(ml.Settings(lake=f"{self.place}/lake", online=self.url.format(f"{self.place}/online")))

    @rule(action=st.sampled_from(ACTIONS), luck=LUCK)
    def step(self, action: str, luck: "Seeded") -> None:
        """One rule for all: of many, Hypothesis leaves out some, and most schedules would lack what makes others
        matter.
        """
        getattr(self, action)(luck)

    def ingest(self, luck: Random) -> None:
        if picked := self.arriving(luck):
            self.batches.append((f"batch {len(self.batches)}", picked))
            self.push(*self.batches[-1])

    def ingest_a_batch_again(self, luck: Random) -> None:
        if not self.batches:
            return
        key, picked = luck.choice(self.batches)
        assert self.platform.ingest("events", self.rows(picked), idempotency_key=key).rows == 0
        for told in self.told:  # the repair comes first, also where the batch is not new
            told.commit(set(), first=False, pushed=True, in_force=False)

    def ingest_named_events_again(self, luck: Random) -> None:
        named = [row for row in sorted(self.stored) if self.worlds[0].rows[row]["seq"] is not None]
        if named and self.worlds[0].view.source.sequence:
            self.push(None, luck.sample(named, luck.randint(1, len(named))))

    def die_between_delta_and_the_store(self, luck: Random) -> None:
        if picked := self.arriving(luck):
            version = delta.append(f"{self.place}/lake/events", self.rows(picked), "a process that dies now")
            self.note(picked, first=version == 0, pushed=False)

    def materialize(self, luck: Random) -> None:
        if not self.stored:
            return
        until = START + luck.randint(-1, 20) * STEP + luck.choice([0, 0, 1, -1])
        history = luck.choice([0, STEP, 9 * STEP])
        self.platform.materialize(self.services[self.now], until=instant(until), history=duration(history))
        self.told[self.now].load(until, history, self.stored, self.times)
        self.marks += [until, until - history]

    def compact(self, _luck: Random) -> None:
        if self.stored:
            DeltaTable(f"{self.place}/lake/events").optimize.compact()

    def restart(self, _luck: Random) -> None:
        self.platform.online.close()
        self.platform = self.connect()

    def change_the_definition(self, _luck: Random) -> None:
        self.now = 1 - self.now
        self.platform.applied_diff(self.services[self.now])

    def arriving(self, luck: Random) -> list[int]:
        """Some rows that were not there yet."""
        picked = luck.sample(self.waiting, min(luck.choice([1, 2, 3, 5, 9]), len(self.waiting)))
        self.waiting = [row for row in self.waiting if row not in picked]
        return picked

    def push(self, key: str | None, picked: list[int]) -> None:
        version = self.platform.ingest("events", self.rows(picked), idempotency_key=key).version
        self.note(picked, first=version == 0, pushed=True)

    def note(self, picked: list[int], *, first: bool, pushed: bool) -> None:
        self.stored |= set(picked)
        for number, told in enumerate(self.told):
            told.commit(set(picked), first, pushed, in_force=number == self.now)

    @invariant()
    def answers_are_those_of_the_oracle(self) -> None:
        """Both definitions are read, as models may pin them."""
        for asked, service, told in zip(self.worlds, self.services, self.told, strict=True):
            if told.known:
                self.check(asked, service, told, [self.query(asked, self.questions) for _ in range(QUESTIONS)])

    def check(self, asked: World, service: ml.FeatureService, told: Told, queries: list[Query]) -> None:
        reach = state.state_of(self.platform.online, service.views[0]).reach
        assert reach is None or reach <= told.latest_reach(self.times)
        answered = [q for q in queries if q[1] is None or reach is None or q[1] // 1000 >= reach]
        if any(None not in key for key, q in queries if (key, q) not in answered):
            rows, at = question(asked, queries)
            with pytest.raises(TimeError, match="answers exactly only from"):
                self.platform.get_features(service, rows, at=at)
        rows, at = question(asked, answered)
        arrived = [row for number, row in enumerate(asked.rows) if number in told.rows]
        wanted = [answer(asked.view, arrived, key, q) for key, q in answered]
        for few in (0, ALL):  # in columns, and each row by itself
            found = Reader(self.platform.online, service, few=few).read(rows, instants(at, "at")).to_arrow()
            assert differences(replace(asked, queries=answered), found, wanted) == []
        self.check_statuses(asked, service, told, [(key, q) for key, q in answered if q is not None], arrived)

    def check_statuses(
        self, asked: World, service: ml.FeatureService, told: Told, queries: list[Query], arrived: list[Row]
    ) -> None:
        """What is said beside the values, under a watermark that lies no later than what the store was told of."""
        name = service.views[0].name
        watermark = state.state_of(self.platform.online, service.views[0]).watermark
        assert watermark is None or watermark <= told.latest(self.times)
        assert watermark is None or told.until is None or watermark >= told.until
        rows, at = question(asked, queries)
        found = Reader(self.platform.online, service).read(rows, instants(at, "at"), status="values").to_arrow()
        times = found[f"{name}__event_time"].cast(pa.int64()).to_pylist()
        for i, (key, q) in enumerate(queries):
            assert q is not None
            row = {feature: found[f"{feature}__status"][i].as_py() for feature in asked.view.features}
            said = found[f"{name}__status"][i].as_py(), times[i], row
            assert said == statuses(asked.view, arrived, key, q, watermark), (key, q)

    def query(self, asked: World, rng: Random) -> Query:
        """A key that is there, or another; at an event, where it enters or leaves a window, or at a boundary."""
        key, q = rng.choice(asked.queries) if asked.queries else ((None,) * len(asked.view.keys), None)
        times = [t for row in asked.rows for t in (row["ts"], row["known"]) if t is not None]
        if rng.random() < 0.4:
            q = rng.choice(self.marks) * 1000 + rng.choice([0, 0, 1, 1000])
        elif times and rng.random() < 0.8:
            later = asked.view.source.lag + rng.choice([0, *edges(asked)]) + rng.choice([0, 0, 1, -1])
            q = (rng.choice(times) + later) * 1000 + rng.choice([0, 0, 0, 1, 999])
        return key, q

    def rows(self, picked: Sequence[int]) -> pa.Table:
        return self.worlds[0].table.take(pa.array(picked, pa.int64()))

    def teardown(self) -> None:
        self.platform.online.close()


def edges(asked: World) -> Iterator[int]:
    """How long after its time an event enters or leaves a window."""
    for feature in asked.features:
        for size in () if isinstance(feature, str) else feature.sizes:
            yield from (feature.offset, feature.offset + (size or 0), feature.offset + (size or 0) + feature.resolution)
    if asked.view.ttl is not None:
        yield asked.view.ttl


def question(asked: World, queries: Sequence[Query]) -> tuple[pa.Table, pa.Array]:
    kinds = asked.table.schema
    columns = {
        name: pa.array([key[i] for key, _ in queries], kinds.field(name).type) for i, name in enumerate(asked.view.keys)
    }
    return pa.table(columns), pa.array([q for _, q in queries], NANOSECONDS)


def instant(microseconds: int):  # type: ignore[no-untyped-def]
    return pa.scalar(microseconds, UTC_TIME).as_py()


def duration(microseconds: int) -> timedelta:
    return timedelta(microseconds=microseconds)


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest) -> str:
    """Of a store, with a gap for a place of its own."""
    return str(request.getfixturevalue("redis_url")) if request.param == "redis" else f"{request.param}://{{}}"


def test_any_schedule_answers_as_the_oracle(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(state.push.__kwdefaults__, "fold", FOLD)  # each schedule sets its own; this puts it back
    schedule = type("Schedule", (Schedule,), {"url": url, "folder": tmp_path})
    bounds = settings(
        max_examples=SCHEDULES,
        stateful_step_count=STEPS,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=PHASES,
        report_multiple_bugs=False,
    )
    run_state_machine_as_test(schedule, settings=bounds)
    assert schedule.runs >= SCHEDULES  # else Hypothesis has stopped early, and the soak would say more than it did
