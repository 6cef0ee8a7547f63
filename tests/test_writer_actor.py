"""The writer as an actor: found by name, restarted after a kill, ended when told to; and behind Ray Serve."""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
import ray
from deltalake import DeltaTable

import mlray as ml
from mlray.errors import SchemaError, Unanswered
from mlray.writer import actor
from mlray.writer.actor import NAMESPACE, RemoteWriter, running_writer

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

payments = ml.DeltaSource("payments", path="payments", timestamp="at")
user = ml.Entity("user", keys=["user_id"])
paid = ml.FeatureView("paid", entity=user, source=payments, features=[ml.Sum("amount", windows=[ml.lifetime])])
service = ml.FeatureService("service", features=[paid])


def rows(*amounts: int) -> pa.Table:
    return pa.table({"user_id": [7] * len(amounts), "at": [NOON] * len(amounts), "amount": list(amounts)})


@pytest.fixture(scope="module")
def platform(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ml.Platform]:
    """A lake with one payment of 1, loaded, and its writer in the cluster. Later tests find what earlier ones added."""
    del ray_cluster
    platform = ml.connect(ml.Settings(lake=tmp_path_factory.mktemp("lake")))
    platform.apply(service)
    platform.ingest("payments", rows(1))
    platform.materialize(service, until=NOON)
    assert running_writer(platform.settings.lake, platform.settings.online) is None
    writer(platform)
    yield platform
    actor.stop()


def writer(platform: ml.Platform) -> RemoteWriter:
    return RemoteWriter(platform.settings.lake, platform.settings.online).start()


def pid(handle: Any) -> int:
    return int(ray.get(handle.__ray_call__.remote(lambda _: os.getpid())))


def total(platform: ml.Platform) -> int:
    """What user 7 has paid online, which is what Delta holds."""
    at = NOON + timedelta(hours=1)
    online = platform.get_features(service, [{"user_id": 7}], at=at)["amount_sum_lifetime"].to_pylist()[0]
    assert online == sum(DeltaTable(f"{platform.settings.lake}/payments").to_pyarrow_table()["amount"].to_pylist())
    return int(online)


def test_where_a_writer_runs_a_platform_ingests_through_it(platform: ml.Platform) -> None:
    before = total(platform)
    assert platform.ingest("payments", rows(10, 20)).rows == 2
    [stats] = [one for one in writer(platform).stats() if one.calls]
    assert (total(platform), stats.rows, stats.newest) == (before + 30, 2, int(NOON.timestamp() * 1_000_000))
    with pytest.raises(SchemaError, match="'colour' is not in the table"):
        platform.ingest("payments", rows(1).append_column("colour", pa.array(["red"])))


ENDS = {
    "SIGKILL": lambda writer: os.kill(pid(writer), signal.SIGKILL),
    "SIGTERM": lambda writer: os.kill(pid(writer), signal.SIGTERM),
    "told by Ray to end": lambda writer: writer.__ray_terminate__.remote(),
}
"""How a writer ends that nobody has told to stop; Ray starts it again, or its next caller."""


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_writer_that_is_ended_is_started_again_and_repeated_calls_count_once(
    platform: ml.Platform, end: Callable[[Any], Any], request: pytest.FixtureRequest
) -> None:
    before, handle = total(platform), ray.get_actor(writer(platform).name, namespace=NAMESPACE)
    ended = pid(handle)

    def push(number: int) -> int:
        return platform.ingest("payments", rows(100), idempotency_key=f"{request.node.name}-{number}").rows

    with ThreadPoolExecutor(4) as threads:
        pending = [threads.submit(push, number) for number in range(20)]
        pending[0].result()
        end(handle)
        for each in pending:
            each.result()
    after = pid(ray.get_actor(writer(platform).name, namespace=NAMESPACE))
    assert (total(platform), after != ended) == (before + 2000, True)


@pytest.mark.parametrize("end", ["SIGTERM", "told by Ray to end"])
def test_a_writer_that_is_told_to_end_answers_first_what_it_has_begun(platform: ml.Platform, end: str) -> None:
    before, handle = total(platform), ray.get_actor(writer(platform).name, namespace=NAMESPACE)
    pending = [handle.ingest.remote(payments, rows(*[1] * 2000), None) for _ in range(40)]
    ray.get(pending[0])
    ENDS[end](handle)
    done = sum(one.rows for one in _answered(pending))  # a call that Ray had not handed over yet is refused
    assert (done > 2000, total(platform)) == (True, before + done)


def test_a_call_without_a_key_is_told_where_its_writer_died(platform: ml.Platform) -> None:
    remote = writer(platform)
    ray.kill(ray.get_actor(remote.name, namespace=NAMESPACE), no_restart=True)
    with pytest.raises(Unanswered, match="with an idempotency key it would have been repeated"):
        remote.ingest(payments, rows(5))
    before = total(platform)
    assert remote.ingest(payments, rows(5), "five").rows == 1
    assert total(platform) == before + 5


def test_a_writer_that_is_just_started_again_is_stopped_all_the_same(platform: ml.Platform) -> None:
    remote = writer(platform)
    ENDS["SIGKILL"](ray.get_actor(remote.name, namespace=NAMESPACE))
    actor.stop()
    assert (remote.running(), remote.stats()) == (False, [])


def test_stop_answers_what_was_accepted_and_leaves_no_writer(platform: ml.Platform) -> None:
    before, remote = total(platform), writer(platform)
    handle = ray.get_actor(remote.name, namespace=NAMESPACE)
    pending = [handle.ingest.remote(payments, rows(1), None) for _ in range(30)]
    ray.get(pending[0])
    actor.stop()
    done = sum(one.rows for one in _answered(pending))
    assert running_writer(platform.settings.lake, platform.settings.online) is None
    assert (done > 0, total(platform)) == (True, before + done)


def _answered(pending: list[Any]) -> Iterator[Any]:
    """The answers of calls, but of those that came too late."""
    for ref in pending:
        with suppress(ray.exceptions.RayTaskError, ray.exceptions.RayActorError):
            yield ray.get(ref)
