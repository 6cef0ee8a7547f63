"""Checkpoints, runs and registries to test with; a test sees only what it changes of them."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from http_server import LIMITS, Caller, listening
from postgres_server import PostgresServer, running_postgres
from sqlalchemy import NullPool, create_engine

from mlray.registry.artifacts import ArtifactStore
from mlray.registry.client import Registry
from mlray.registry.database import Database
from mlray.registry.gates import Gate, write_gates
from mlray.registry.model_version import ModelVersion
from mlray.registry.policy import Policy
from mlray.registry_server.app import create_app
from mlray.registry_server.desk import Backend

if TYPE_CHECKING:
    from s3_server import S3Server


@dataclass(frozen=True, kw_only=True)
class SomeRun:
    """A training run, as far as the registry looks at one."""

    checkpoint: str
    id: str = "run-1"
    metrics: dict[str, float] = field(default_factory=lambda: {"auc": 0.755})
    service: str = "flights"
    service_hash: str = "ab" * 32
    service_definition: str = '{"name": "flights"}'
    sources: dict[str, int] = field(default_factory=lambda: {"departures": 4})
    fingerprint: str = "cd" * 32
    spine: str = "lake/spine at version 2"
    features: tuple[str, ...] = ("count_1h", "delay_mean_1d")
    label: str = "is_late"
    config: dict[str, Any] = field(default_factory=lambda: {"epochs": 3, "learning_rate": 0.1})
    provenance: dict[str, Any] = field(default_factory=lambda: {"commit": None, "python": "3.11.7"})


MakeRun = Callable[..., SomeRun]


ROLES: dict[str, tuple[str, ...]] = {
    "ana": (), "ben": ("ml_engineer",), "cleo": ("risk_officer",), "dan": ("ml_engineer", "risk_officer"),
    "eve": ("ml_engineer",),
}  # fmt: skip


@dataclass(frozen=True)
class Staffed:
    """A registry to copy, and the tokens of its people."""

    template: str
    tokens: dict[str, str]


def staff(database: str) -> dict[str, str]:
    """Adds root, who is the admin, and by root the people of ROLES; their tokens."""
    nobody = Registry.connect(database, "/nowhere", embedded=True)
    root = nobody.users.add("root")
    return {"root": root} | {name: nobody.acting(root).users.add(name, roles) for name, roles in ROLES.items()}


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Makes a run whose checkpoint holds `weights`, and the results of `gates` if given, the evaluation's beside
    those of the other gates that Production asks for, passed; other fields as named.
    """

    def make(weights: bytes = b"\x00\x01\x02", gates: dict[str, Gate] | None = None, **fields: Any) -> SomeRun:
        checkpoint = tmp_path / f"checkpoint-{weights.hex()[:40]}"
        checkpoint.mkdir(exist_ok=True)
        (checkpoint / "model.safetensors").write_bytes(weights)
        (checkpoint / "signature.json").write_text(json.dumps({"inputs": {"count_1h": "int64"}, "label": "is_late"}))
        run = SomeRun(checkpoint=str(checkpoint), **fields)
        if gates is not None:
            write_gates(checkpoint, run.id, gates | OTHERS if [*gates] == ["evaluation"] else gates)
        return run

    return make


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this session, in a folder that goes with it."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator["S3Server"]:
    """An S3 server of this session."""
    from s3_server import running_s3  # boto3 takes a while to import

    with running_s3() as server:
        yield server


@pytest.fixture
def s3_url(s3: "S3Server", monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place in a bucket, which the environment's keys open."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return s3.url()


@pytest.fixture(scope="session")
def staffed_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Staffed:
    """A file to copy, of a registry with its people."""
    path = tmp_path_factory.mktemp("staffed") / "registry.db"
    tokens = staff(f"sqlite:///{path}")
    _into_one_file(path)
    return Staffed(str(path), tokens)


@pytest.fixture(scope="session")
def plain_sqlite(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file to copy, of a registry that holds nothing."""
    path = tmp_path_factory.mktemp("plain") / "registry.db"
    with Database(f"sqlite:///{path}").read():
        pass
    _into_one_file(path)
    return str(path)


def _into_one_file(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


@pytest.fixture
def bare() -> None:
    """Asks `urls` for a place where there is no database yet (on PostgreSQL: one that holds nothing)."""


@pytest.fixture(scope="session")
def staffed_postgres(postgres: PostgresServer) -> Staffed:
    """A template database, of a registry with its people."""
    postgres.execute("CREATE DATABASE staffed TEMPLATE registry")
    return Staffed("staffed", staff(postgres.url("staffed")))


@pytest.fixture(params=["sqlite", "postgresql"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A database and an artifact store of this test's own, with people where the test asks for its team. Each test
    runs with either database.
    """
    artifacts, has_team = str(tmp_path / "artifacts"), "team" in request.fixturenames
    if request.param == "sqlite":
        if has_team:
            shutil.copy(request.getfixturevalue("staffed_sqlite").template, tmp_path / "registry.db")
        elif "bare" not in request.fixturenames:
            shutil.copy(request.getfixturevalue("plain_sqlite"), tmp_path / "registry.db")
        yield f"sqlite:///{tmp_path}/registry.db", artifacts
        return
    template = request.getfixturevalue("staffed_postgres").template if has_team else "registry"
    with request.getfixturevalue("postgres").database(template) as url:
        yield url, artifacts


@pytest.fixture
def execute(urls: tuple[str, str]) -> Callable[[str], Any]:
    """Runs SQL beside the registry, as the owner of its database can; the first value of the answer, if any."""

    def run(statement: str) -> Any:
        engine = create_engine(urls[0], poolclass=NullPool)
        with engine.begin() as connection:
            answer = connection.exec_driver_sql(statement)
            return answer.scalar() if answer.returns_rows else None

    return run


@pytest.fixture
def registry(urls: tuple[str, str]) -> Registry:
    """An empty registry in this process."""
    return Registry.connect(*urls, embedded=True)


@pytest.fixture
def passed_run(make_run: MakeRun) -> Callable[[bytes], SomeRun]:
    """Makes a run whose evaluation has passed."""
    return lambda weights: make_run(weights, gates={"evaluation": PASSED})


PASSED = Gate(passed=True, value=0.755, threshold=0.7)
OTHERS = {gate: Gate(passed=True) for gate in Policy().rule("Production").gates if gate != "evaluation"}


@dataclass(frozen=True, kw_only=True)
class Team:
    """A registry with people: each field is the registry as that person has it, by a token.

    root is the admin. ana registers. ben and eve are ml_engineers, cleo is a risk_officer, dan is both.
    """

    root: Registry
    ana: Registry
    ben: Registry
    cleo: Registry
    dan: Registry
    eve: Registry
    make_run: MakeRun

    def version(self, weights: bytes = b"1", model: str = "fraud") -> ModelVersion:
        """A version by ana, whose evaluation has passed."""
        return self.ana.register(model, self.make_run(weights, gates={"evaluation": PASSED}))

    def approved(self, weights: bytes = b"1") -> ModelVersion:
        """A version by ana that ben and cleo have approved for Production."""
        version = self.version(weights)
        self.ben.approve(version, stage="Production", role="ml_engineer")
        self.cleo.approve(version, stage="Production", role="risk_officer")
        return version

    def production(self, weights: bytes = b"1") -> ModelVersion:
        """A version in Production."""
        return self.ana.promote(self.approved(weights), stage="Production")

    def stages(self, model: str = "fraud") -> list[str]:
        """The stages of the model's versions, in order."""
        return [version.stage for version in self.ana.list(model)]


@pytest.fixture
def team(request: pytest.FixtureRequest, urls: tuple[str, str], registry: Registry, make_run: MakeRun) -> Team:
    """A registry with its people and nothing else."""
    kind = "sqlite" if urls[0].startswith("sqlite") else "postgres"
    tokens = request.getfixturevalue(f"staffed_{kind}").tokens
    return Team(make_run=make_run, **{name: registry.acting(token) for name, token in tokens.items()})


@pytest.fixture(scope="session")
def http_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The registry's application behind a real port, for this session: the application and its URL."""
    nowhere = tmp_path_factory.mktemp("nowhere")
    registry = Registry.connect(f"sqlite:///{nowhere}/registry.db", str(nowhere), embedded=True)
    app = create_app(Backend(rules=registry._rules, artifacts=registry._artifacts, config=LIMITS))
    with listening(app) as url:
        yield app, url


@dataclass(frozen=True, kw_only=True)
class Callers:
    """The people of the team in front of the server, and nobody."""

    url: str
    nobody: Caller
    root: Caller
    ana: Caller
    ben: Caller
    cleo: Caller
    dan: Caller
    eve: Caller


@pytest.fixture
def http(http_server: Any, team: Team, urls: tuple[str, str]) -> Iterator[Callers]:
    """The server over the team's registry, as each of them reaches it."""
    app, url = http_server
    app.state.backend = Backend(rules=team.root._rules, artifacts=ArtifactStore(urls[1]), config=LIMITS)
    with httpx.Client(base_url=url, timeout=60) as client:
        people = {name: Caller(client=client, token=getattr(team, name)._token) for name in ("root", *ROLES)}
        yield Callers(url=url, nobody=Caller(client=client, token=None), **people)


@pytest.fixture(scope="session")
def mlflow() -> Iterator[Any]:
    """MLflow, which tells nobody that it is used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow

        yield mlflow
