"""A registry process that is killed within a change, before any of its statements or its commit (`make soak`: before
each of them): nothing is half done, and a retry does it once.
"""

import multiprocessing
import os
import signal
from itertools import count

import pytest
from sqlalchemy import Engine, event

from mlray.registry.client import Registry
from mlray.registry.gates import Gate
from mlray.registry.identity import Call
from mlray.registry.model_version import record_of
from tests.soak import rounds

PASSED = Gate(passed=True, value=0.755, threshold=0.7)
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["mlray.registry.client"])


def change(registry, method, arguments, call):
    return getattr(registry._rules, method)(*arguments[0], **arguments[1], call=call)


def change_until(urls, method, arguments, call, statement):
    """Does a change and ends the process by SIGKILL before the given statement, counted from 1; a commit counts."""
    registry = Registry.connect(*urls, embedded=True)
    registry.models()
    numbers = count(1)

    def die(*_):
        if next(numbers) == statement:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", die)
    event.listen(Engine, "commit", die)
    change(registry, method, arguments, call)


def killed_everywhere(urls, method, arguments, call):
    """Kills the change before its first statement, then before later ones, until it ends by itself; yields after each
    kill.
    """
    for statement in count(1, rounds(7, 1)):
        process = PROCESSES.Process(target=change_until, args=(urls, method, arguments, call, statement))
        process.start()
        process.join(60)
        if process.exitcode == 0:
            assert statement > 5
            return
        assert process.exitcode == -signal.SIGKILL
        yield statement


def test_a_promotion_is_done_or_not_done(team, urls):
    team.production(b"1")
    team.approved(b"2")
    call = Call(request="the same", token=team.ana._token)
    arguments = (("fraud", 2), {"stage": "Production", "row_version": 0})
    before = team.ana.audit()

    for statement in killed_everywhere(urls, "promote", arguments, call):
        assert (team.stages(), team.ana.audit()) == (["Production", "None"], before), statement

    again = change(team.ana, "promote", arguments, call)  # its answer was lost with the process
    assert (team.stages(), again.stage) == (["Archived", "Production"], "Production")
    assert [row["action"] for row in team.ana.audit()[len(before) :]] == ["archive", "promote"]
    assert team.ana.check_audit() is None


def test_a_registration_is_done_or_not_done(team, urls):
    run = team.make_run(b"1", gates={"evaluation": PASSED})
    record = record_of(run, digest=team.ana._artifacts.upload(run.checkpoint), signature={})
    call = Call(request="the same", token=team.ana._token)
    arguments = (("fraud", record), {"alias": "candidate"})

    for statement in killed_everywhere(urls, "register", arguments, call):
        assert team.ana.models() == [], statement

    assert change(team.ana, "register", arguments, call).version == 1
    assert [version.aliases for version in team.ana.list("fraud")] == [("candidate",)]
    assert team.ana.check_audit() is None


@pytest.mark.parametrize("method", ["rollback", "approve"])
def test_a_rollback_and_an_approval_are_done_or_not_done(team, urls, method):
    team.production(b"1")
    team.production(b"2")
    call = Call(request="the same", token=team.dan._token)
    arguments = {
        "rollback": (("fraud",), {}),
        "approve": (("fraud", 1), {"stage": "Canary", "role": "ml_engineer"}),
    }[method]
    before = team.ana.audit()

    for statement in killed_everywhere(urls, method, arguments, call):
        assert (team.stages(), team.ana.audit()) == (["Archived", "Production"], before), statement

    change(team.dan, method, arguments, call)
    assert team.ana.audit()[-1]["action"] == method
    assert len(team.ana.audit()) == len(before) + (2 if method == "rollback" else 1)
    assert team.ana.check_audit() is None


LIFECYCLE = {
    "rename_model": ("fraud", "cards"),
    "copy": ("fraud", 1, "cards"),
    "delete_version": ("fraud", 1),
    "delete_model": ("fraud",),
}


@pytest.mark.parametrize("method", list(LIFECYCLE)[: rounds(1, len(LIFECYCLE))])
def test_a_rename_a_copy_and_a_deletion_are_done_or_not_done(team, urls, method):
    team.production(b"1")
    team.ana.tag("fraud/1", "data", "2026")
    call = Call(request="the same", token=team.dan._token)
    before = (team.ana.models(), team.ana.list(), team.ana.audit())

    for statement in killed_everywhere(urls, method, (LIFECYCLE[method], {}), call):
        assert (team.ana.models(), team.ana.list(), team.ana.audit()) == before, statement

    for _ in range(2):
        change(team.dan, method, (LIFECYCLE[method], {}), call)
    assert len(team.ana.audit()) == len(before[2]) + (2 if method == "rename_model" else 1)
    assert team.ana.check_audit() is None
