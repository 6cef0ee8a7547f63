"""A Redis server or cluster: connections, what it must be like, and its errors in words."""

import logging
import re
from collections.abc import Sequence
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
)
from redis.retry import Retry

from mlray.errors import ConfigError, StoreError
from mlray.online.redis_scripts import SCRIPTS, Call
from mlray.online.store import SENTINEL, shown

logger = logging.getLogger(__name__)

OLDEST_SERVER = 7
# A connection is tried once more, for its server may have been restarted since; a script knows a repeated write.
_OPTIONS: dict[str, Any] = {
    "socket_connect_timeout": 5, "socket_timeout": 10, "socket_keepalive": True, "max_connections": 1 << 16,
    "protocol": 2,
}
_DO_AGAIN = "A write that was cut off may be done again"
_REMEDIES: Sequence[tuple[type[Exception], str]] = (
    (AuthenticationError, "give a user and password that it knows: redis://user:password@host or redis://:password@host"),
    (AuthorizationError, "give a user and password that it knows: redis://user:password@host or redis://:password@host"),
    (NoPermissionError, "its user must be allowed what docs/design/redis.md lists"),
    (BusyLoadingError, "it reads its data after a start; try again later"),
    (OutOfMemoryError, "nothing was written; raise its maxmemory, or run mlray online gc"),
    (ReadOnlyError, "nothing was written; name its primary, not a replica"),
    (redis.TimeoutError, f"it did not answer in time. {_DO_AGAIN}"),
    (redis.ConnectionError, f"is it running, and reachable from here? {_DO_AGAIN}"),
    (RedisClusterException, f"are all its nodes running, and reachable from here? {_DO_AGAIN}"),
)


class Server:
    """The server at a URL, checked. Safe to share between threads; a fork gets connections of its own."""

    def __init__(self, url: str) -> None:
        self.name = shown(url)
        self._client, self.is_cluster = _opened(url)

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """The answers, after one round trip; between two calls others may come."""
        try:
            try:
                return self._run(calls)
            except NoScriptError:  # it was started since, or never asked
                for script in SCRIPTS:
                    self._client.script_load(script.text)
                return self._run(calls)
        except (RedisError, RedisClusterException, OSError) as error:
            raise _explained(self.name, error) from error

    def close(self) -> None:
        self._client.close()

    def _run(self, calls: Sequence[Call]) -> list[Any]:
        if len(calls) == 1:
            return [self._client.execute_command(*calls[0])]
        pipeline = self._client.pipeline(transaction=False)
        for call in calls:
            pipeline.execute_command(*call)
        answers: list[Any] = pipeline.execute(raise_on_error=False)  # else the error repeats the call, values and all
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers


def _opened(url: str) -> tuple[Any, bool]:
    """A client, and whether it is a cluster's."""
    name, database = shown(url), urlsplit(url).path.strip("/")
    if not re.fullmatch("[0-9]*", database):
        raise ConfigError(f"online='{name}': a database is a number, not '{database}'")
    try:
        with closing(redis.Redis.from_url(url, **_OPTIONS, retry=_once_more())) as client:
            is_cluster = bool(_about(client, name).get("cluster_enabled"))
        kind: Any = redis.RedisCluster if is_cluster else redis.Redis
        return kind.from_url(url, **_OPTIONS, retry=_once_more()), is_cluster
    except (ValueError, TypeError) as error:
        raise ConfigError(f"online='{name}': {error}") from error
    except (RedisError, RedisClusterException, OSError) as error:
        raise _explained(name, error) from error


def _about(client: Any, name: str) -> dict[str, Any]:
    """What INFO says, checked; empty where it is forbidden."""
    try:
        about: dict[str, Any] = client.info()
    except NoPermissionError:
        logger.warning("%s: INFO is forbidden; that its maxmemory-policy is noeviction cannot be checked", name)
        client.ping()
        return {}
    if about.get("redis_mode") == "sentinel":
        raise ConfigError(f"{name}: {SENTINEL}")
    version, policy = str(about.get("redis_version", OLDEST_SERVER)), str(about.get("maxmemory_policy", ""))
    if int(version.split(".")[0]) < OLDEST_SERVER:
        raise StoreError(f"{name} is Redis {version}; mlray needs {OLDEST_SERVER} or newer")
    if policy.startswith("allkeys"):
        raise StoreError(
            f"{name} has the maxmemory-policy {policy}: when its memory is full it would forget events, and answers "
            "would be wrong without a sign; run CONFIG SET maxmemory-policy noeviction, or use another server"
        )
    return about


def _once_more() -> Retry:
    return Retry(NoBackoff(), 1)


def _explained(name: str, error: Exception) -> StoreError:
    remedy = next((remedy for kind, remedy in _REMEDIES if isinstance(error, kind)), "the server refused the call")
    return StoreError(f"{name}: {str(error).rstrip('.')}; {remedy}")
