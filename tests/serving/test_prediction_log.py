"""Every prediction reaches Delta, once the log can be written; what finds no room is refused; nothing is swallowed."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pyarrow as pa
import pytest
from shop import NOON, Connect, Shop, bits, row

from mlray.errors import LogUnavailable, TableNotFound
from mlray.features.types import INSTANT, instants
from mlray.registry.model_version import ModelVersion
from mlray.serving.prediction_log import PredictionLog, log_rows, read

PATH = "/v1/models/fraud/predict"
LONG = 600.0


def rows(version: ModelVersion, request_id: str, ratio: tuple[float | None, ...] = (0.5,)) -> pa.Table:
    count = len(ratio)
    at = instants(pa.array([NOON] * count, INSTANT), "at")
    asked, vectors = pa.table({"user_id": list(range(count))}), pa.table({"ratio": pa.array(ratio, pa.float64())})
    return log_rows(request_id, 1_000_000, version, asked, at, vectors, np.arange(count) / 10)


def eventually(met: Callable[[], bool]) -> None:
    deadline = monotonic() + 30
    while not met():
        assert monotonic() < deadline
        sleep(0.01)


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """A file stands where the folder should be."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("in the way")
    yield
    folder.unlink()


def test_what_was_answered_stands_in_the_log(connect: Connect, shop: Shop, tmp_path: Path) -> None:
    log = PredictionLog(f"{tmp_path}/log", seconds=LONG)
    asked = [row(amount=1 / 3), row(user_id=2)]
    answer = connect(log).post(PATH, json={"rows": asked, "at": "2026-01-10T11:00:00Z"}).json()
    log.flush()
    found = read(log.root, shop.version).sort_by("row").to_pydict()
    assert (found["request_id"], found["row"]) == ([answer["request_id"]] * 2, [0, 1])
    assert (found["model"], found["version"], found["score"]) == (["fraud"] * 2, [1, 1], answer["scores"])
    assert found["served_at"] == [NOON] * 2
    assert [q.hour for q in found["q"]] == [11, 11]
    assert [one["user_id"] for one in found["asked"]] == [1, 2]


def test_the_vector_is_logged_to_the_bit(connect: Connect, shop: Shop, tmp_path: Path) -> None:
    log = PredictionLog(f"{tmp_path}/log", seconds=LONG)
    asked = [row(amount=1 / 3), row(user_id=99), row(user_id=2)]
    connect(log).post(PATH, json={"rows": asked})
    log.flush()
    wanted, found = shop.features(asked, NOON), read(log.root, shop.version).sort_by("row").column("vector")
    for place, name in enumerate(wanted.column_names):
        assert bits(wanted.column(name)) == bits(found.combine_chunks().flatten()[place]), name


def test_nan_infinity_and_null_stay_apart(shop: Shop, tmp_path: Path) -> None:
    log = PredictionLog(str(tmp_path), seconds=LONG)
    log.add(shop.version, rows(shop.version, "a", (float("nan"), float("-inf"), None)))
    log.close()
    ratio = [vector["ratio"] for vector in read(log.root, shop.version).column("vector").to_pylist()]
    assert repr(ratio) == "[nan, -inf, None]"


def test_rows_are_written_when_there_are_enough_of_them(shop: Shop, tmp_path: Path) -> None:
    log = PredictionLog(str(tmp_path), rows=3, seconds=LONG)
    log.add(shop.version, rows(shop.version, "a", (0.5, 0.5)))
    with pytest.raises(TableNotFound):
        read(log.root, shop.version)
    log.add(shop.version, rows(shop.version, "b"))
    eventually(lambda: log.health().written == 3)
    log.close()


def test_a_few_rows_are_written_when_they_have_waited(shop: Shop, tmp_path: Path) -> None:
    log = PredictionLog(str(tmp_path), rows=1000, seconds=0.05)
    log.add(shop.version, rows(shop.version, "a"))
    eventually(lambda: log.health().written == 1)
    log.close()


def test_what_waits_is_written_at_the_end(shop: Shop, tmp_path: Path) -> None:
    log = PredictionLog(str(tmp_path), rows=1000, seconds=LONG)
    log.add(shop.version, rows(shop.version, "a"))
    log.close()
    assert read(log.root, shop.version).num_rows == 1
    with pytest.raises(LogUnavailable, match="closed"):
        log.add(shop.version, rows(shop.version, "b"))


def test_a_failed_write_is_reported_and_repeated(connect: Connect, shop: Shop, tmp_path: Path) -> None:
    log = PredictionLog(f"{tmp_path}/log", seconds=0.01)
    client = connect(log)
    with unwritable(tmp_path / "log"):
        assert client.post(PATH, json={"row": row()}).status_code == 200
        eventually(lambda: log.health().failures > 1)
        health = client.get("/healthz").json()
        assert (health["status"], health["log"]["waiting"]) == ("degraded", 1)
        assert "Not a directory" in health["problems"][0]
        assert client.get("/readyz").status_code == 200
    log.flush()
    assert read(log.root, shop.version).num_rows == 1
    assert client.get("/healthz").json()["status"] == "ok"


def test_requests_are_refused_while_the_log_is_full(connect: Connect, tmp_path: Path) -> None:
    log = PredictionLog(f"{tmp_path}/log", seconds=0.01, capacity=2)
    client = connect(log)
    with unwritable(tmp_path / "log"):
        assert client.post(PATH, json={"rows": [row(), row()]}).status_code == 200
        refused = client.post(PATH, json={"row": row()})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert "2 predictions wait and no more fit; last error" in refused.json()["message"]
        assert client.get("/readyz").json()["status"] == "unavailable"
    log.flush()
    assert client.post(PATH, json={"row": row()}).status_code == 200


def test_a_request_waits_for_room_before_it_is_refused(shop: Shop, tmp_path: Path) -> None:
    log = PredictionLog(str(tmp_path), rows=2, seconds=LONG, capacity=2)
    with ThreadPoolExecutor(4) as callers:
        list(callers.map(lambda i: log.add(shop.version, rows(shop.version, str(i))), range(20)))
    log.close()
    assert sorted(read(log.root, shop.version).column("request_id").to_pylist()) == sorted(map(str, range(20)))


def test_rows_that_cannot_be_written_at_the_end_are_an_error(shop: Shop, tmp_path: Path) -> None:
    log = PredictionLog(f"{tmp_path}/log", seconds=LONG)
    log.add(shop.version, rows(shop.version, "a", (0.5, 0.5)))
    with unwritable(tmp_path / "log"), pytest.raises(LogUnavailable, match="2 predictions are lost; last error: Table"):
        log.close()


def test_a_flush_that_takes_too_long_says_what_waits(shop: Shop, tmp_path: Path) -> None:
    log = PredictionLog(f"{tmp_path}/log", seconds=LONG)
    log.add(shop.version, rows(shop.version, "a"))
    with unwritable(tmp_path / "log"), pytest.raises(LogUnavailable, match="1 predictions wait after 0 s"):
        log.flush(timeout=0.2)
    log.close()


def test_one_table_that_cannot_be_written_does_not_hold_up_another(shop: Shop, tmp_path: Path) -> None:
    log, second = PredictionLog(str(tmp_path), seconds=0.01), replace(shop.version, version=2)
    with unwritable(tmp_path / "fraud" / "1"):
        log.add(shop.version, rows(shop.version, "a"))
        log.add(second, rows(second, "b"))
        eventually(lambda: log.health().written == 1 and log.health().failures > 0)
        assert read(log.root, second).num_rows == 1
    log.close()
    assert read(log.root, shop.version).num_rows == 1


def test_many_processes_worth_of_writers_append_to_one_table(shop: Shop, tmp_path: Path) -> None:
    logs = [PredictionLog(str(tmp_path), rows=1, seconds=LONG) for _ in range(4)]

    def write(number: int) -> None:
        for i in range(5):
            logs[number].add(shop.version, rows(shop.version, f"{number}-{i}"))
        logs[number].close()

    with ThreadPoolExecutor(4) as writers:
        list(writers.map(write, range(4)))
    found = read(str(tmp_path), shop.version).column("request_id").to_pylist()
    assert sorted(found) == sorted(f"{n}-{i}" for n in range(4) for i in range(5))
