"""What of Ray is not plain public API, in one place; a test imports every symbol."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import RayError, RayTaskError

from mlray import errors
from mlray.errors import MlrayError

# Ray Data wraps what a task raises and loses it on the way to the driver; its text is left in the traceback.
_RAISED = re.compile(r"^mlray\.errors\.(\w+): (.*?)(?=\n\n[A-Z]|\n\Z|\Z)", re.DOTALL | re.MULTILINE)


@contextmanager
def mlray_errors() -> Iterator[None]:
    """An MlrayError raised in a Ray task arrives as itself, not wrapped."""
    try:
        yield
    except RayError as error:
        found = _original(error)
        if found is None:
            raise
        raise found from None


def _original(error: RayError) -> MlrayError | None:
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, MlrayError):
        return cause
    return raised_in(str(error))


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
