"""The registry as one named, detached Ray actor: found by name from every job of the cluster, restarted by Ray.

It lives on the head node, where an SQLite file stays, and runs the installed package. Ray repeats a call whose actor
died (at least once, not exactly once): the rules recognise the repetition by the call's `request`.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayTaskError

from mlray.errors import ConfigError, MlrayError, RegistryUnavailable
from mlray.registry.artifacts import ArtifactStore, absolute_artifacts_url
from mlray.registry.clock import utc_now
from mlray.registry.database import Database, absolute_database_url, shown
from mlray.registry.model_registry import ModelRegistry

ACTOR_NAME = "registry"
NAMESPACE = "mlray"
# Reads run beside the one writer; SQLite and the row locks order the writers of other processes.
# A sweep of the janitor may take minutes, but holds the lock of the database for moments only.
CONCURRENCY_GROUPS = {"read": 4, "write": 1, "sweep": 1}
PLACEMENT = {"node:__internal_head__": 0.001}
# A detached actor inherits the working directory of the job that happens to start it, and with it that job's copy of
# the code. It gets a daemon's working directory instead.
RUNTIME_ENVIRONMENT = {"working_dir": "local:///"}
STOP_SECONDS = 30.0
METHODS = frozenset(name for name in dir(ModelRegistry) if not name.startswith("_"))
"""What can be asked of the registry. A change takes a `call`, which says who asks."""


class RegistryActor(ModelRegistry):
    """ModelRegistry over two URLs. The database is opened by the first call: a constructor that fails is final."""

    def __init__(self, database_url: str, artifacts_url: str) -> None:
        self._urls = (database_url, artifacts_url)
        super().__init__(Database(database_url), ArtifactStore(artifacts_url), clock=utc_now)

    def urls(self) -> tuple[str, str]:
        """Which database and which artifact store this actor serves."""
        return self._urls


class RemoteRegistry:
    """The methods of ModelRegistry, answered by the cluster's actor, which is started if there is none.

    What the rules raise arrives as they raised it. Can be pickled within the cluster.
    """

    def __init__(self, database_url: str, artifacts_url: str) -> None:
        self._urls = (absolute_database_url(database_url), absolute_artifacts_url(artifacts_url))
        self._actor = _start(*self._urls)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method not in METHODS:
            raise AttributeError(f"the registry has no method '{method}'")
        return partial(self._call, method)

    def _call(self, method: str, *arguments: Any, **named: Any) -> Any:
        group = "sweep" if method == "sweep" else "write" if "call" in named else "read"
        try:
            return _answer(self._actor, group, method, arguments, named)
        except ActorDiedError:  # stopped, or lost with its head node: the next one serves the same database
            self._actor = _start(*self._urls)
        try:
            return _answer(self._actor, group, method, arguments, named)
        except ActorDiedError as error:
            raise RegistryUnavailable(f"the registry's actor died twice during '{method}': {error}") from error


def stop() -> None:
    """Ends the cluster's registry actor, if any, and waits until its name is free; what it wrote stays."""
    deadline = time.monotonic() + STOP_SECONDS
    while True:
        try:
            actor = ray.get_actor(ACTOR_NAME, namespace=NAMESPACE)
        except ValueError:
            return
        if time.monotonic() > deadline:
            raise RegistryUnavailable(f"the registry's actor did not end within {STOP_SECONDS:.0f} s")
        ray.kill(actor, no_restart=True)
        time.sleep(0.02)


def _start(database_url: str, artifacts_url: str) -> Any:
    """The handle of the cluster's one registry actor; ConfigError where it serves other URLs than these."""
    if not ray.is_initialized():
        raise ConfigError("the registry actor lives in a Ray cluster: call ray.init() first, or pass embedded=True")
    remote: Any = ray.remote  # its annotations leave `concurrency_groups` out
    actor = (
        remote(concurrency_groups=CONCURRENCY_GROUPS)(RegistryActor)
        .options(
            name=ACTOR_NAME,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_task_retries=-1,
            num_cpus=0,
            resources=PLACEMENT,
            runtime_env=RUNTIME_ENVIRONMENT,
        )
        .remote(database_url, artifacts_url)
    )
    database, artifacts = _answer(actor, "read", "urls", (), {})
    if database != database_url:
        raise _serves_another("registry", shown(database_url), shown(database))
    if artifacts != artifacts_url:
        raise _serves_another("artifacts", artifacts_url, artifacts)
    return actor


def _answer(actor: Any, group: str, method: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    call = getattr(actor, method).options(concurrency_group=group)
    try:
        return ray.get(call.remote(*arguments, **named))
    except RayTaskError as error:
        if isinstance(error.cause, MlrayError):
            raise error.cause from None
        raise


def _serves_another(setting: str, asked: str, served: str) -> ConfigError:
    return ConfigError(
        f"{setting}={asked}: this cluster's registry actor serves {served}; use that, or end the actor first with "
        "mlray.registry.actor.stop()"
    )
