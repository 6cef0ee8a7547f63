"""The jobs as a cluster runs them: `ray job submit --working-dir . -- python jobs/<verb>.py --config ...`."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from deltalake import DeltaTable
from ray.job_submission import JobStatus, JobSubmissionClient

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

RECIPE = """
[platform]
lake = "{lake}"

[recipe]
service = "configs.flights.features:flights"
tables = "configs.flights.recipe:tables"
spine = "configs.flights.recipe:spine"
timestamp = "timestamp"
label = "late"

[recipe.options]
start = 2013-01-01
end = 2013-01-15

[training]
split = [2013-01-11T05:00:00Z, 2013-01-13T05:00:00Z, 2013-01-15T05:00:00Z]
workers = 2
epochs = 1

[online]
until = 2013-01-15T05:00:00Z

[model]
name = "flights"
alias = "candidate"
"""


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    """The address of a cluster's job API, started as an operator would, on ports of its own."""
    port, ui, agent, client = free_ports(4)
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # sockets lie below it, and their paths must be short
    command = [
        BIN / "ray", "start", "--head", "--block", f"--port={port}", f"--dashboard-port={ui}", "--num-cpus=4",
        "--min-worker-port=0", "--max-worker-port=0",
        f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}",
        "--object-store-memory=500000000", f"--temp-dir={folder}", "--disable-usage-stats",
    ]
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as head:
        try:
            assert head.stdout is not None
            said = next((line for line in head.stdout if "Ray runtime started" in line), None)
            assert said, f"ray start ended with {head.poll()}"
            yield f"http://127.0.0.1:{ui}"
        finally:
            head.send_signal(signal.SIGTERM)
            head.communicate(timeout=60)
            shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    with ExitStack() as open_:
        sockets = [open_.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def recipe(folder: Path, lake: str) -> Path:
    """A recipe over two weeks of flights."""
    path = folder / "flights.toml"
    path.write_text(RECIPE.format(lake=lake))
    return path


def submit(dashboard: str, entrypoint: str) -> tuple[JobStatus, str]:
    """Submits a job, follows it to its end; how it ended and all it printed."""

    async def follow() -> str:
        return "".join([lines async for lines in client.tail_job_logs(job)])

    client = JobSubmissionClient(dashboard)
    job = client.submit_job(entrypoint=entrypoint, runtime_env={"working_dir": str(ROOT)})
    said = asyncio.run(follow())
    return client.get_job_status(job), said


@pytest.mark.timeout(900)  # three jobs, each with an interpreter and a driver of its own
def test_ingest_materialize_and_train_run_as_jobs(dashboard: str, tmp_path: Path) -> None:
    config = recipe(tmp_path, lake=f"{tmp_path}/lake")

    def succeeds(verb: str) -> None:
        status, said = submit(dashboard, f"python jobs/{verb}.py --config {config}")
        assert status is JobStatus.SUCCEEDED, said

    succeeds("ingest")
    with ThreadPoolExecutor(2) as at_once:
        list(at_once.map(succeeds, ("materialize", "train")))
    assert DeltaTable(f"{tmp_path}/lake/schedule").to_pyarrow_dataset().count_rows() == 12_208
    assert len(list(tmp_path.glob("lake/_mlray/runs/*/result.json"))) == 1


def test_a_job_refuses_a_lake_in_its_own_directory(dashboard: str, tmp_path: Path) -> None:
    status, said = submit(dashboard, f"python jobs/ingest.py --config {recipe(tmp_path, lake='data/lake')}")
    assert status is JobStatus.FAILED
    assert "lake='data/lake' is relative" in said
    assert "Traceback" not in said
