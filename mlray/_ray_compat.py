"""What of Ray is not plain public API, in one place; a test imports every symbol."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

from mlray import errors
from mlray.errors import MlrayError

# Ray Data wraps what a task raises and loses it on the way to the driver; its text is left in the traceback.
_RAISED = re.compile(r"^mlray\.errors\.(\w+): (.*?)(?=\n\n[A-Z]|\n\Z|\Z)", re.DOTALL | re.MULTILINE)


Tasks = Sequence[tuple[Callable[[], Iterable[pa.Table]], int]]
"""Functions without arguments that give blocks, and how many rows each gives."""


def dataset_of(tasks: Tasks, schema: pa.Schema) -> Any:
    """The lazy ray.data.Dataset of what the tasks give, one read task each, on one CPU."""
    return ray.data.read_datasource(_Parts(tasks, schema), num_cpus=1, override_num_blocks=len(tasks))


class _Parts(Datasource):
    """Read tasks that are given, not listed."""

    def __init__(self, tasks: Tasks, schema: pa.Schema) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tasks, self._schema = tasks, schema

    def get_name(self) -> str:
        return "PointInTimeJoin"

    def estimate_inmemory_data_size(self) -> int | None:
        return sum(map(self._size, (rows for _, rows in self._tasks)))

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002
        per_task_row_limit: int | None = None,
        data_context: Any = None,  # noqa: ARG002
    ) -> list[ReadTask]:
        return [
            ReadTask(
                function,
                BlockMetadata(num_rows=rows, size_bytes=self._size(rows), input_files=None, exec_stats=None),
                schema=self._schema,
                per_task_row_limit=per_task_row_limit,
            )
            for function, rows in self._tasks
        ]

    def _size(self, rows: int) -> int:
        return 8 * rows * len(self._schema)


@contextmanager
def mlray_errors() -> Iterator[None]:
    """An MlrayError raised in a Ray task arrives as itself, not wrapped."""
    try:
        yield
    except RayError as error:
        found = _original(error) or _died(error)
        if found is None:
            raise
        raise found from None


def _original(error: RayError) -> MlrayError | None:
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, MlrayError):
        return cause
    return raised_in(str(error))


def _died(error: RayError) -> MlrayError | None:
    """Where the worker of a task died again and again."""
    if not isinstance(error, WorkerCrashedError | OutOfMemoryError | NodeDiedError):
        return None
    return MlrayError(
        f"a task died as often as it was tried, and gave no reason but: {str(error).strip()} If it is memory, give "
        "each task more (fewer CPUs per node), or let mlray layout keep the table in smaller buckets"
    )


def raised_in(text: str) -> MlrayError | None:
    """The last MlrayError that a traceback speaks of, as itself."""
    raised = _RAISED.findall(text)
    if not raised:
        return None
    name, message = raised[-1]
    kind = getattr(errors, name, MlrayError)
    made: MlrayError = kind(message.strip())
    return made


def serve_address() -> tuple[str, int] | None:
    """Host and port of the cluster's Ray Serve; None where it does not run."""
    # Serve takes a second to import, and only serving needs it.
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    return None if client is None else (str(client.http_config.host), int(client.http_config.port))
