"""POST /v1/sources/{name}/events: rows in, readable when it answers; and what bad ones are told."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from real_port import served

import mlray as ml
from mlray.errors import Busy, StoreError, Unanswered
from mlray.ingest import Ingested
from mlray.online.store import OnlineStore
from mlray.serving.answer import Problem, Taken
from mlray.serving.config import Config
from mlray.serving.events import Events
from mlray.serving.prediction_log import PredictionLog
from mlray.serving.server import create_app
from mlray.writer import writer
from mlray.writer.writer import Writer
from tests.redis_server import RedisServer, redis_call, running, until

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW = int(NOON.timestamp() * 1_000_000)
PATH = "/v1/sources/payments/events"

user = ml.Entity("user", keys=["user_id"])
payments = ml.DeltaSource("payments", path="payments", timestamp="at", known_at="known_at")
paid = ml.FeatureView("paid", entity=user, source=payments, features=[ml.Sum("amount", windows=[ml.lifetime])])
service = ml.FeatureService("service", features=[paid])
unmade = ml.FeatureView("unmade", entity=user, source=ml.DeltaSource("unmade", path="unmade", timestamp="at"),
                        features=["amount"])


class Till:
    """A lake with one payment of 1, and clients of applications over it."""

    def __init__(self, path: Path, running: ExitStack, **settings: Any) -> None:
        self.path, self._running = path, running
        self.platform = ml.connect(ml.Settings(lake=path, **settings))
        self.platform.apply(service)
        self.platform.ingest("payments", pa.table({
            "user_id": [7], "at": [NOON], "amount": [1.0], "small": pa.array([1], pa.int8()),
        }))
        self.platform.materialize(service, until=NOON)
        self.writer = Writer(str(path), self.platform.online, clock=lambda: NOW)

    async def put(self, source: ml.DeltaSource, rows: pa.Table, key: str | None) -> Ingested:
        return await asyncio.wrap_future(self.writer.submit(source, rows, key))

    def client(self, put: Any = None, **settings: Any) -> httpx.Client:
        config = Config(**{"ingest": ("payments", "unmade"), **settings})
        log = PredictionLog(f"{self.path}/predictions")
        app = create_app({}, log, config, clock=lambda: NOW, events=Events(str(self.path), config, put or self.put))
        return self._running.enter_context(served(app))

    def total(self) -> float:
        """What user 7 has paid, online, as of now; the rows are stamped with NOW."""
        return float(self.platform.get_features(service, [{"user_id": 7}])["amount_sum_lifetime"].to_pylist()[0])

    def rows(self) -> int:
        return DeltaTable(f"{self.path}/payments").to_pyarrow_table().num_rows


@pytest.fixture(scope="module")
def till(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Till]:
    with ExitStack() as running:
        yield Till(tmp_path_factory.mktemp("till"), running)


@pytest.fixture(scope="module")
def client(till: Till) -> httpx.Client:
    """Every source that it lets in; tests give it only what adds nothing, but for the first two."""
    return till.client()


def row(**changed: Any) -> dict[str, Any]:
    return {"user_id": 7, "at": "2026-03-01T12:00:00Z", "amount": 10.0, "small": None, **changed}


def test_rows_can_be_read_when_the_call_is_answered(till: Till, client: httpx.Client) -> None:
    before = till.rows()
    response = client.post(PATH, json={"rows": [row(), row(user_id=8)]}, headers={"X-Request-ID": "mine"})
    taken = Taken.model_validate_json(response.text)
    assert (response.status_code, taken.request_id, taken.source, taken.rows) == (200, "mine", "payments", 2)
    assert (taken.views, till.total(), till.rows()) == (["paid"], 11.0, before + 2)
    assert taken.version == DeltaTable(f"{till.path}/payments").version()


def test_a_key_in_the_body_or_the_header_counts_once(till: Till, client: httpx.Client) -> None:
    before = till.rows()
    header = {"Idempotency-Key": "k"}
    answers = [client.post(PATH, json={"rows": [row(amount=0.0)], "idempotency_key": "k"}),
               client.post(PATH, json={"rows": [row(amount=0.0)]}, headers=header)]
    assert [one.json()["rows"] for one in answers] == [1, 0]
    assert (answers[1].json()["version"], till.rows()) == (None, before + 1)


BAD: list[tuple[Any, int, str]] = [
    (b"{", 400, "not JSON"),
    ({"row": row()}, 400, "the request has no 'row'; known are idempotency_key, rows; did you mean 'rows'?"),
    ({"rows": []}, 400, "a list of at least one object"),
    ({"rows": [row()], "idempotency_key": ""}, 400, "a text of 1 to 255 characters"),
    ({"rows": [row(), {**row(), "colour": "red"}]}, 422, "row 1: there is no field 'colour'; known are amount"),
    ({"rows": [{k: v for k, v in row().items() if k != "amount"}]}, 422, "row 0: field 'amount' is missing"),
    ({"rows": [row(), row(amount="ten")]}, 422, "row 1: field 'amount' is 'ten', but a number is due"),
    ({"rows": [row(small=1), row(small=300)]}, 422, "row 1: field 'small' is 300, beyond int8"),
    ({"rows": [row(at="2026-03-01T12:00:00")]}, 422, "no time zone"),
    ({"rows": [row(at="2026-03-01T12:10:01Z")]}, 422, "column 'at' holds 2026-03-01T12:10:01+00:00, which is later"),
    ({"rows": [row(known_at=None), row()]}, 422, "row 1: field 'known_at' is missing"),
    ({"rows": [row()] * 5}, 413, "5 rows in one request, at most 4"),
    (b" " * 5000, 413, "at most 4000"),
]


@pytest.mark.parametrize(("body", "status", "wrong"), BAD)
def test_a_bad_call_is_told_why_and_adds_nothing(
    till: Till, small: httpx.Client, body: Any, status: int, wrong: str
) -> None:
    before = till.rows()
    content = {"content": body} if isinstance(body, bytes) else {"json": body}
    response = small.post(PATH, **content)
    assert (response.status_code, till.rows()) == (status, before)
    assert wrong in Problem.model_validate_json(response.text).message


@pytest.fixture(scope="module")
def small(till: Till) -> httpx.Client:
    return till.client(max_events=4, max_events_bytes=4000)


def test_a_source_that_is_unknown_or_has_no_table_yet_is_named(till: Till, client: httpx.Client) -> None:
    response = client.post("/v1/sources/payment/events", json={"rows": [row()]})
    assert (response.status_code, "did you mean 'payments'?" in response.json()["message"]) == (404, True)
    till.platform.apply(ml.FeatureService("later", features=[unmade]))  # applied after the server has started
    response = client.post("/v1/sources/unmade/events", json={"rows": [row()]})
    assert (response.status_code, "there is no Delta table" in response.json()["message"]) == (404, True)


@pytest.mark.parametrize("ingest", [False, ("others",)])
def test_a_source_is_closed_unless_the_configuration_names_it(till: Till, ingest: Any) -> None:
    response = till.client(ingest=ingest).post(PATH, json={"rows": [row()]})
    assert (response.status_code, 'ingest = ["payments"]' in response.json()["message"]) == (403, True)


@pytest.mark.parametrize(("error", "status", "retry"), [
    (Busy("full", 7), 429, "7"), (StoreError("away"), 503, "5"), (Unanswered("died"), 503, "5"),
])
def test_what_may_be_tried_again_says_when(till: Till, error: Exception, status: int, retry: str) -> None:
    async def refuse(*_: Any) -> Ingested:
        raise error

    response = till.client(refuse).post(PATH, json={"rows": [row()]})
    assert (response.status_code, response.headers["Retry-After"]) == (status, retry)


class Dying:
    """A real store whose server is killed at the next write, between Delta and the store."""

    def __init__(self, store: OnlineStore, server: RedisServer) -> None:
        self._store, self._server = store, server

    def write(self, *arguments: Any, **named: Any) -> int:
        self._server.kill()
        self.write = self._store.write  # type: ignore[method-assign]
        return self._store.write(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_redis_that_goes_away_in_the_middle_is_a_503_and_once_back_has_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "REPAIR_EVERY", 0.1)
    with running(tmp_path, appendonly="yes", appendfsync="always") as server, ExitStack() as stack:
        till = Till(tmp_path / "lake", stack, online=server.url)
        till.writer = Writer(str(till.path), Dying(till.platform.online, server), clock=lambda: NOW)  # type: ignore[arg-type]
        before, client = till.rows(), till.client()
        call = {"rows": [row()], "idempotency_key": "k"}
        refused = client.post(PATH, json=call)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        assert "is it running, and reachable from here?" in refused.json()["message"]
        till.writer.start()
        server.start()
        until(lambda: "'loading': 0" in str(redis_call(server.url, "INFO", "persistence")))
        until(lambda: till.total() == 11.0)  # by itself, before the call is repeated
        again = client.post(PATH, json=call)
        assert (again.status_code, again.json()["rows"], till.rows(), till.total()) == (200, 0, before + 1, 11.0)
        till.writer.stop()


def test_the_route_is_described(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()["paths"]["/v1/sources/{name}/events"]["post"]
    assert described["requestBody"]["content"]["application/json"]["schema"]["required"] == ["rows"]
    assert {"200", "403", "404", "413", "422", "429", "503"} <= described["responses"].keys()
