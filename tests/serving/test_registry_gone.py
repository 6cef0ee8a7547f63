"""The registry's database goes away: what serves goes on, nothing moves by half, and a switch works when it is back."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

import httpx
import pytest
import ray
from ray.util import list_named_actors
from shop import NOON, Shop, row, run

from mlray.errors import RegistryUnavailable
from mlray.platform import Platform
from mlray.registry import actor
from mlray.serving.app import undeploy
from mlray.settings import Settings
from tests.registry.postgres_server import PostgresServer, free_port, running_postgres

SECONDS = 60


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    """A server of this test's own, which it may stop."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def platform(ray_cluster: str, shop: Shop, postgres: PostgresServer) -> Iterator[Platform]:
    """The shop, with two versions of its model in a registry on PostgreSQL."""
    del ray_cluster
    actor.stop()
    url = postgres.url("registry")
    platform = Platform(Settings(lake=shop.lake, online=shop.online, registry=url, artifacts=shop.artifacts))
    for _ in range(2):
        platform.registry.register("fraud", run(shop.root / "trained", [*shop.version.features]))
    yield platform
    undeploy()
    actor.stop()


def answer(url: str) -> tuple[int, str]:
    """Its status, and the model that gives it."""
    given = httpx.post(url, json={"row": row(), "at": NOON.isoformat()}, timeout=SECONDS)
    return given.status_code, given.json()["model"] if given.status_code == 200 else given.text


@contextmanager
def asked_all_the_time(url: str) -> Iterator[list[tuple[int, str]]]:
    """The status and the model of every answer, one request after the other until the end."""
    answers: list[tuple[int, str]] = []
    over = Event()

    def ask() -> None:
        while not over.is_set():
            answers.append(answer(url))

    thread = Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        over.set()
        thread.join()


def until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def lose_the_replica() -> None:
    """Ends the process that answers; Ray Serve starts another one."""
    found = [one for one in list_named_actors(all_namespaces=True) if "#predictor#" in one["name"]]
    ray.kill(ray.get_actor(found[0]["name"], namespace=found[0]["namespace"]))


def test_predictions_go_on_without_the_registry_and_a_switch_works_when_it_is_back(
    platform: Platform, postgres: PostgresServer
) -> None:
    settings = {"port": free_port(), "allow_at": True, "cpus": 0.5}
    url = platform.serve("fraud/1", **settings).predict_url()

    with asked_all_the_time(url) as answers:
        postgres.stop()
        with pytest.raises(RegistryUnavailable, match=r"database postgresql.* does not answer"):
            platform.serve("fraud/2", **settings)
        with pytest.raises(RegistryUnavailable, match="does not answer"):
            platform.registry.promote("fraud/2", stage="Staging")
        seen = len(answers)
        until(lambda: len(answers) > seen + 10)
    assert set(answers) == {(200, "fraud/1")}
    lose_the_replica()
    until(lambda: answer(url) == (200, "fraud/1"))  # by a new replica, which asks the registry nothing

    postgres.start()
    assert platform.registry.get("fraud/2").stage == "None"
    platform.serve("fraud/2", **settings)
    until(lambda: answer(url) == (200, "fraud/2"))
    assert platform.registry.promote("fraud/2", stage="Staging").stage == "Staging"
    assert platform.registry.check_audit() is None
