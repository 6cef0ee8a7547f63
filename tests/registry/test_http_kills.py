"""A server that is killed within a change over HTTP, or between the change and its answer: the caller asks again, and
it was done once.
"""

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from http_server import record
from sqlalchemy import Engine, event
from test_registry_kills import PASSED, PROCESSES

from mlray.registry_server.alone import embedded
from mlray.registry_server.app import create_app
from mlray.registry_server.config import Config

POINTS = ["before the commit", "before the answer"]


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def serve(port, urls, point):
    """Serves on an open port until it is told to end, or kills itself at that point of the first change."""
    backend = embedded(*urls, Config())
    backend.rules.models()
    app = create_app(backend)
    if point == "before the commit":
        event.listen(Engine, "commit", die)
    elif point == "before the answer":
        app = dying_before_it_answers(app)
    uvicorn.Server(uvicorn.Config(app, log_level="critical")).run(sockets=[port])


def dying_before_it_answers(app):
    async def dying(scope, receive, send):
        is_change = scope["type"] == "http" and scope["path"].endswith(("/versions", "/model-versions/create"))
        await app(scope, receive, die if is_change and scope["method"] == "POST" else send)

    return dying


@contextmanager
def server(port, urls, point=None):
    """A server process on the port; one that is to kill itself has done so at the end."""
    process = PROCESSES.Process(target=serve, args=(port, urls, point))
    process.start()
    try:
        yield
    finally:
        if point is None:
            process.terminate()
        process.join(60)
        assert process.exitcode == (-signal.SIGTERM if point is None else -signal.SIGKILL) or process.exitcode == 0


@pytest.fixture
def port():
    """A port that stays open when its server dies: who connects in between waits for the next one."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.mark.parametrize("urls", ["sqlite"], indirect=True)
@pytest.mark.parametrize("point", POINTS)
def test_a_registration_is_repeated_under_its_key_and_done_once(team, urls, port, point):
    run = team.make_run(b"1", gates={"evaluation": PASSED})
    body = record(run, team.ana._artifacts.upload(run.checkpoint))
    url = f"http://127.0.0.1:{port.getsockname()[1]}/v1/models/fraud/versions"
    headers = {"Authorization": f"Bearer {team.ana._token}", "Idempotency-Key": "run-1"}

    with server(port, urls, point), pytest.raises(httpx.TransportError):
        httpx.post(url, json=body, headers=headers, timeout=60)
    with server(port, urls):
        answers = [httpx.post(url, json=body, headers=headers, timeout=60) for _ in range(2)]

    assert [(answer.status_code, answer.json()["version"]) for answer in answers] == [(201, 1), (201, 1)]
    assert team.stages() == ["None"]
    assert [row["action"] for row in team.ana.audit("fraud")] == ["register"]
    assert team.ana.check_audit() is None


@pytest.mark.parametrize("urls", ["sqlite"], indirect=True)
def test_an_mlflow_client_repeats_itself_and_makes_one_version(team, urls, port, mlflow, monkeypatch):
    team.ana.create("fraud")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", team.ana._token)
    url = f"http://127.0.0.1:{port.getsockname()[1]}"
    client = mlflow.MlflowClient(tracking_uri=url, registry_uri=url)

    with ThreadPoolExecutor(1) as aside:
        with server(port, urls, "before the answer"):
            made = aside.submit(client.create_model_version, "fraud", "runs:/8c1f/model", "8c1f")
        with server(port, urls):
            assert made.result(60).version == "1"

    assert team.stages() == ["None"]
