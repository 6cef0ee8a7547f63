"""Eight clients register at once: versions without a gap, each once. `make soak`: 50 registrations by each.

Every client is a thread with a registry of its own, which has its own connections: to the database it is another
process. `test_model_registry` does the same with processes.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest

from mlray.errors import Conflict, MlrayError, UnknownName
from mlray.registry.client import Registry
from tests.registry.test_promotion_races import at_once
from tests.soak import rounds

CLIENTS = 8
EACH = rounds(10, 50)


@pytest.fixture
def clients(urls):
    return [Registry.connect(*urls, embedded=True) for _ in range(CLIENTS)]


def test_eight_clients_get_versions_without_a_gap(clients, registry, make_run):
    run = make_run()

    def register(client):
        return [client.register("flights", run).version for _ in range(EACH)]

    with ThreadPoolExecutor(CLIENTS) as threads:
        given = list(threads.map(register, clients))

    everything = list(range(1, CLIENTS * EACH + 1))
    assert sorted(sum(given, [])) == everything  # noqa: RUF017
    assert all(own == sorted(own) for own in given)
    assert [version.version for version in registry.list("flights")] == everything
    assert registry.check_audit() is None


def test_eight_clients_that_send_the_same_keys_make_each_version_once(clients, registry, make_run):
    run = make_run()

    def register(client):
        return [client.register("flights", run, idempotency_key=f"night-{one}").version for one in range(EACH)]

    with ThreadPoolExecutor(CLIENTS) as threads:
        given = list(threads.map(register, clients))

    assert all(own == given[0] for own in given)
    assert sorted(given[0]) == list(range(1, EACH + 1))
    assert [version.version for version in registry.list("flights")] == sorted(given[0])


def test_who_creates_a_model_at_once_with_others_makes_it_or_is_told(clients, registry):
    answers = at_once([lambda c=client: c.create("flights") for client in clients])

    assert sum(isinstance(answer, MlrayError) for answer in answers) == CLIENTS - 1
    assert all(isinstance(answer, Conflict) for answer in answers if isinstance(answer, MlrayError))
    assert len(registry.audit()) == 1


@pytest.mark.timeout(1800)
def test_a_rename_a_deletion_and_registrations_at_once_give_no_number_twice(clients, registry, make_run):
    run, given = make_run(), []
    registry.register("flights", run)
    for number in range(rounds(3, 200)):
        rename, delete, *register = clients
        answers = at_once([
            lambda c=rename, n=number: c.rename("flights", f"flights-{n}"),
            lambda c=delete: c.delete("flights"),
            *(lambda c=client: c.register("flights", run) for client in register),
        ])  # fmt: skip

        assert not [one for one in answers[:2] if isinstance(one, MlrayError) and not isinstance(one, UnknownName)]
        given += [version.version for version in answers[2:]]
    assert len(set(given)) == len(given)
    assert registry.check_audit() is None
