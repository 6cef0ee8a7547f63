"""The writer as a named, detached Ray actor: one per lake and online store, found by name, restarted by Ray.

It outlives the process that started it, as servers need, and ends by `stop`, which serving calls at its end, or with
its cluster. Told to end by SIGTERM, it is let finish the calls that have begun (Ray does so), and is started again. It
lives on the head node, where a local lake and an LMDB file lie, and runs the installed package.
"""

import asyncio
import gc
import hashlib
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError, RayTaskError
from ray.util import list_named_actors
from ray.util.metrics import Gauge, Histogram

from mlray.errors import MlrayError, Unanswered
from mlray.features.source import DeltaSource
from mlray.ingest import Ingested
from mlray.offline.compaction import Compacted
from mlray.online.store import open_store
from mlray.writer.writer import FUTURE, Stats, Writer

logger = logging.getLogger(__name__)

NAMESPACE = "mlray"
PREFIX = "writer-"
CALLS = 10_000
"""Calls that may be under way; how many rows may wait is for the writer to say."""
PATIENCE = 60.0
"""Seconds in which a call that may be repeated is, while the actor is started again."""
PLACEMENT = {"node:__internal_head__": 0.001}
RUNTIME_ENVIRONMENT = {"working_dir": "local:///"}
"""Else a detached actor would keep the working directory, and the code, of the job that happens to start it."""
SELDOM = (100_000, 20, 100)
"""When the actor's process looks for garbage in cycles. A push makes tens of thousands of cells, none of them in one;
with the default thresholds a third of its time went into looking at them.
"""
_SECONDS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30]


class WriterActor:
    """`Writer` over a lake and the URL of an online store. The store is opened by the first call that succeeds in it: a
    constructor that fails is final.
    """

    def __init__(self, lake: str, online: str, future: timedelta) -> None:
        gc.set_threshold(*SELDOM)  # the process is this actor's own
        self._arguments = (lake, online, future)
        self._opening = threading.Lock()
        self._writer: Writer | None = None
        self._age = Gauge("mlray_ingest_event_age_seconds", "Age of the newest readable event.", ("source",))
        self._took = Histogram(
            "mlray_ingest_seconds", "From a call until its rows can be read.", boundaries=_SECONDS, tag_keys=("source",)
        )
        try:
            self._open()
        except MlrayError as error:
            logger.warning("writer: %s", error)

    async def ingest(self, source: DeltaSource, rows: pa.Table, key: str | None) -> Ingested:
        """`Writer.ingest`; a call that waits holds no thread."""
        writer = self._writer if self._writer is not None else await asyncio.to_thread(self._open)
        writer.admit(source, rows.num_rows)
        return await asyncio.wrap_future(await asyncio.to_thread(writer.accept, source, rows, key))

    async def compact(self, source: DeltaSource) -> Compacted:
        """`Writer.compact`."""
        return await asyncio.to_thread(lambda: self._open().compact(source))

    async def stats(self) -> list[dict[str, Any]]:
        """`Writer.stats`, as plain data."""
        return [asdict(one) for one in (self._writer.stats() if self._writer else ())]

    async def stop(self) -> None:
        """`Writer.stop`: returns when all that was accepted is answered."""
        if self._writer:
            await asyncio.to_thread(self._writer.stop)

    def _open(self) -> Writer:
        with self._opening:
            if self._writer is None:
                lake, online, future = self._arguments
                writer = Writer(lake, open_store(online), clock=_now, future=future, watch=self._watch)
                writer.start()
                self._writer = writer
            return self._writer

    def _watch(self, source: str, waited: Sequence[float], newest: int | None) -> None:
        tags = {"source": source}
        for seconds in waited:
            self._took.observe(max(seconds, 1e-6), tags)
        if newest is not None:
            self._age.set((_now() - newest) / 1e6, tags)


class RemoteWriter:
    """The writer of a lake and an online store in the joined cluster. Can be pickled within it."""

    def __init__(self, lake: str, online: str, future: timedelta = FUTURE) -> None:
        self._arguments = (lake, online, future)

    @property
    def name(self) -> str:
        return name_of(*self._arguments[:2])

    def start(self) -> "RemoteWriter":
        """Starts the actor, unless it runs; returns when it does. One that is just ending is waited for."""
        deadline = time.monotonic() + PATIENCE
        while True:
            was_there = self.running()
            try:
                ray.get(self._actor().stats.remote())
            except RayActorError as error:
                failed = isinstance(error, ActorDiedError) and not was_there  # in its constructor, which is final
                if failed or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return self

    def running(self) -> bool:
        """Whether there is such an actor."""
        return _found(self.name) is not None

    def ingest(self, source: DeltaSource, rows: pa.Table, key: str | None = None) -> Ingested:
        """`Writer.ingest`, by the actor. Where that dies, a call with a key is repeated; one without is Unanswered."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return _answer(ray.get(self._call(source, rows, key)))
            except RayTaskError as error:
                raise _raised(error) from None
            except RayActorError as error:
                self._lost(error, key, deadline)
                time.sleep(0.1)

    async def ingest_async(self, source: DeltaSource, rows: pa.Table, key: str | None = None) -> Ingested:
        """`ingest`, without holding a thread or the event loop."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return _answer(await self._call(source, rows, key))
            except RayTaskError as error:
                raise _raised(error) from None
            except RayActorError as error:
                self._lost(error, key, deadline)
                await asyncio.sleep(0.1)

    def stats(self) -> list[Stats]:
        """`Writer.stats`; none where it does not run."""
        actor = _found(self.name)
        return [Stats(**one) for one in _patiently(actor.stats)] if actor else []

    def _actor(self) -> Any:
        remote: Any = ray.remote
        return (
            remote(WriterActor)
            .options(
                name=self.name,
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                max_restarts=-1,
                max_task_retries=0,  # only a call with a key can be repeated: see `ingest`
                max_concurrency=CALLS,
                num_cpus=0,
                resources=PLACEMENT,
                runtime_env=RUNTIME_ENVIRONMENT,
            )
            .remote(*self._arguments)
        )

    def _call(self, source: DeltaSource, rows: pa.Table, key: str | None) -> Any:
        actor = _found(self.name)
        if actor is None:
            raise ActorDiedError
        return actor.ingest.remote(source, rows, key)

    def _lost(self, error: RayActorError, key: str | None, deadline: float) -> None:
        """Raises unless the call can be repeated now."""
        if not self.running():
            self.start()
        if key is None or time.monotonic() > deadline:
            again = "with an idempotency key it would have been repeated" if key is None else "repeat it with its key"
            raise Unanswered(
                f"the writer ended before it answered; whether the rows were added is not known: {again} "
                f"({type(error).__name__})"
            ) from error


def running_writer(lake: str, online: str, future: timedelta = FUTURE) -> RemoteWriter | None:
    """The writer that runs in the joined cluster; None where this process has joined none, or none runs."""
    writer = RemoteWriter(lake, online, future)
    return writer if ray.is_initialized() and writer.running() else None


def stop() -> None:
    """Ends every writer of the cluster: each refuses new calls, answers those it has accepted, and is gone."""
    mine = [one["name"] for one in list_named_actors(all_namespaces=True) if one["namespace"] == NAMESPACE]
    for name in (name for name in mine if name.startswith(PREFIX)):
        actor = _found(name)
        if actor is None:
            continue
        try:
            _patiently(actor.stop)
        except (ActorDiedError, ActorUnavailableError) as error:
            logger.warning("%s ended before it was asked to: %s", name, error)
        ray.kill(actor, no_restart=True)


def name_of(lake: str, online: str) -> str:
    """The actor's name: of the two that it connects."""
    return PREFIX + hashlib.sha256(f"{lake}\n{online}".encode()).hexdigest()[:16]


def _found(name: str) -> Any:
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return None


def _patiently(method: Any) -> Any:
    """What a method of an actor gives; called again while Ray starts the actor again."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return ray.get(method.remote())
        except ActorUnavailableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _answer(answer: Any) -> Ingested:
    assert isinstance(answer, Ingested)
    return answer


def _raised(error: RayTaskError) -> Exception:
    return error.cause if isinstance(error.cause, MlrayError) else error


def _now() -> int:
    """Microseconds UTC; the one place where the actor reads it."""
    return time.time_ns() // 1000
