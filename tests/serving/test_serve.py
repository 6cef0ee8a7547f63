"""The same behind Ray Serve and real HTTP: deployed, asked, logged, ended; and what `deploy` refuses."""

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest
from shop import HOUR, NOON, Shop, asked, bits, model, row, service, spending, traffic, trees

import mlray as ml
from mlray._ray_compat import serve_address
from mlray.errors import ConfigError, DefinitionChanged, NotMaterialized, PortInUse, UnknownName
from mlray.features.applied import Applied
from mlray.features.catalog import service_hash, service_text
from mlray.serving.app import Running, deploy, undeploy
from mlray.serving.config import Config
from mlray.serving.ingress import check_port
from mlray.serving.prediction_log import read, table_path
from mlray.writer.actor import running_writer


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def config(port: int, **more: object) -> Config:
    return Config(port=port, allow_at=True, cpus=0.5, log_seconds=600, ingest=("purchases",), **more)  # type: ignore[arg-type]


def start(shop: Shop, settings: Config, **changed: object) -> Running:
    given = {"online": shop.online, "artifacts": shop.artifacts, "lake": shop.lake, "current": {"fraud": service()}}
    return deploy(settings, [shop.version], **{**given, **changed})  # type: ignore[arg-type]


@pytest.mark.usefixtures("ray_cluster")
class TestBeforeAnythingStarts:
    """Each is refused with Serve not even started."""

    @pytest.fixture(autouse=True)
    def nothing_started(self) -> Iterator[None]:
        yield
        assert serve_address() is None

    def test_an_occupied_port_is_named(self, shop: Shop) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(PortInUse, match=f"port {port} is held by another process"):
                start(shop, config(port))

    def test_a_definition_that_is_no_longer_applied_is_refused(self, shop: Shop) -> None:
        with pytest.raises(DefinitionChanged, match="again_amount_sum_1d is new"):
            start(shop, config(free_port()), current={"fraud": service(traffic.prefixed("again_"))})

    def test_a_view_without_online_state_is_refused(self, shop: Shop) -> None:
        fresh = ml.FeatureService("fraud", features=[replace(spending, name="spending_again"), traffic])
        version = replace(shop.version, service_definition=service_text(fresh), service_hash=service_hash(fresh),
                          signature={"inputs": {"count_7d": "int64"}})
        with pytest.raises(NotMaterialized, match="spending_again"):
            deploy(config(free_port()), [version], online=shop.online, artifacts=shop.artifacts, lake="")

    def test_a_checkpoint_that_is_not_there_is_refused(self, shop: Shop, tmp_path: Path) -> None:
        with pytest.raises(UnknownName, match="there is no artifact"):
            start(shop, config(free_port()), artifacts=str(tmp_path))

    def test_a_store_of_this_process_alone_is_refused(self, shop: Shop) -> None:
        with pytest.raises(ConfigError, match="use lmdb://"):
            start(shop, config(free_port()), online="memory://here")

    def test_a_version_that_keeps_nothing_to_be_explained_by_is_refused(self, shop: Shop) -> None:
        with pytest.raises(ConfigError, match=r"fraud/1 keeps no background.arrow; train it with \[gates.explan"):
            start(shop, config(free_port(), explain=True))

    def test_a_model_to_explain_that_is_not_served_is_refused(self, shop: Shop) -> None:
        with pytest.raises(UnknownName, match="did you mean 'fraud'"):
            start(shop, config(free_port(), explain=("fruad",)))

    def test_two_versions_of_one_model_are_refused(self, shop: Shop) -> None:
        with pytest.raises(ConfigError, match="one version of each model, at least one; got fraud/1, fraud/1"):
            deploy(config(free_port()), [shop.version] * 2, online=shop.online, artifacts=shop.artifacts, lake="")


@pytest.fixture(scope="module")
def running(ray_cluster: str, shop: Shop) -> Iterator[Running]:
    del ray_cluster
    vectors = shop.features(asked(), NOON)
    explained = [shop.explained("net", model(vectors.schema)), shop.explained("trees", trees(vectors.schema, vectors))]
    settings = config(free_port(), explain=("net", "trees"))
    yield deploy(settings, [shop.version, *explained], online=shop.online, artifacts=shop.artifacts, lake=shop.lake,
                 current={"fraud": service()})
    undeploy()


def test_rows_are_answered_over_http_with_the_features_of_get_features_to_the_bit(running: Running, shop: Shop) -> None:
    asked = [row(amount=1 / 3), row(user_id=2, items=0), row(user_id=99)]
    body = {"rows": asked, "features": True, "at": NOON.isoformat()}
    answer = httpx.post(running.predict_url("fraud"), json=body).json()
    wanted = shop.features(asked, NOON)
    for name in wanted.column_names:
        got = pa.chunked_array([pa.array([v[name] for v in answer["features"]], wanted.schema.field(name).type)])
        assert bits(wanted.column(name)) == bits(got), name
    assert (answer["model"], answer["scores"]) == ("fraud/1", shop.predictor().model.predict(wanted).tolist())


def test_it_is_ready_healthy_and_described(running: Running) -> None:
    assert running.models == ("fraud/1", "net/1", "trees/1")
    for path in ("healthz", "readyz"):
        assert httpx.get(f"{running.url}/{path}").json()["status"] == "ok"
    assert httpx.get(f"{running.url}/v1/models/fraud").json()["label"] == "is_fraud"
    assert "/v1/models/fraud/predict" in httpx.get(f"{running.url}/openapi.json").json()["paths"]


@pytest.mark.parametrize(("body", "status", "wrong"), [
    (b"{", 400, "not JSON"),
    (b'{"row": {"amuont": 1}}', 422, "did you mean 'amount'?"),
    (b'{"row": {}, "at": "2026-01-10T12:00:00"}', 422, "has no time zone"),
    (b" " * 2_000_000, 413, "at most 1048576"),
])
def test_bad_requests_are_told_why(running: Running, body: bytes, status: int, wrong: str) -> None:
    response = httpx.post(running.predict_url(), content=body)
    assert (response.status_code, wrong in response.json()["message"]) == (status, True)


@pytest.mark.parametrize(("name", "method", "near"), [("net", "deep", 1e-9), ("trees", "tree", 1e-6)])
def test_a_prediction_is_explained_by_what_each_feature_adds(
    running: Running, shop: Shop, name: str, method: str, near: float
) -> None:
    rows = asked()[:3]
    answer = httpx.post(f"{running.url}/v1/models/{name}/explain", json={"rows": rows, "at": NOON.isoformat()}).json()

    assert (answer["method"], answer["unit"]) == (method, "log-odds")
    for score, told in zip(answer["scores"], answer["explanations"], strict=True):
        assert set(told["features"]) == set(shop.features(rows, NOON).column_names)
        assert told["base"] + sum(told["features"].values()) == pytest.approx(told["output"], abs=near)
        assert 1 / (1 + np.exp(-told["output"])) == pytest.approx(score, abs=near)
        sizes = [abs(one) for one in told["features"].values()]
        assert sizes == sorted(sizes, reverse=True)


def test_a_model_that_is_not_explained_here_says_how_it_can_be(running: Running) -> None:
    response = httpx.post(f"{running.url}/v1/models/fraud/explain", json={"row": row()})
    assert (response.status_code, response.json()["error"]) == (403, "Forbidden")
    assert "explain = true in [serving]" in response.json()["message"]


def test_events_of_a_source_are_read_by_the_next_prediction(running: Running, shop: Shop) -> None:
    Applied(shop.lake).apply(service())
    bought = {"user_id": 4711, "channel": "test", "country": "PT", "amount": 2.5, "bought_at": NOON.isoformat()}
    url, key = f"{running.url}/v1/sources/purchases/events", {"Idempotency-Key": "4711"}
    sent = [httpx.post(url, json={"rows": [bought]}, headers=key, timeout=60).json() for _ in range(2)]
    assert [one["rows"] for one in sent] == [1, 0]
    body = {"row": row(user_id=4711), "features": True, "at": (NOON + HOUR).isoformat()}
    [found] = httpx.post(running.predict_url("fraud"), json=body).json()["features"]
    assert (found["country"], found["count_7d"], found["amount_mean_7d"]) == ("PT", 1, 2.5)


def test_another_port_than_that_of_the_running_server_is_refused(running: Running, shop: Shop) -> None:
    port = int(running.url.rpartition(":")[2])
    with pytest.raises(ConfigError, match=f"this cluster's Ray Serve listens on {port}"):
        start(shop, config(free_port()))


def written(running: Running, shop: Shop) -> list[pa.Table]:
    """The rows of each model's log, of those that have one."""
    versions = [shop.registry.get(model) for model in running.models]
    return [read(running.log, known) for known in versions if Path(table_path(running.log, known)).exists()]


def logged(running: Running, shop: Shop) -> int:
    """How many predictions are written or wait: looked at until nothing is written meanwhile."""
    while True:
        rows = [one.num_rows for one in written(running, shop)]
        waiting = httpx.get(f"{running.url}/healthz").json()["log"]["waiting"]
        if rows == [one.num_rows for one in written(running, shop)]:
            return sum(rows) + int(waiting)


def test_what_waits_in_the_log_is_written_when_the_server_ends(running: Running, shop: Shop) -> None:
    before = logged(running, shop)
    at = [(NOON - HOUR).isoformat(), NOON.isoformat()]
    answer = httpx.post(running.predict_url(), json={"rows": [row(), row()], "at": at}).json()
    undeploy()
    assert running_writer(shop.lake, shop.online) is None
    each = written(running, shop)
    assert sum(one.num_rows for one in each) == before + 2
    mine = each[0].filter(pa.compute.equal(each[0].column("request_id"), answer["request_id"])).sort_by("row")
    assert mine.column("score").to_pylist() == answer["scores"]
    assert mine.column("q").to_pylist() == [NOON - HOUR, NOON]


def test_the_port_is_free_again_after_the_end(running: Running) -> None:
    undeploy()
    host, _, port = running.url.removeprefix("http://").rpartition(":")
    check_port(host, int(port))


