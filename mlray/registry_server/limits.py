"""How much a caller may send: more is refused as soon as it is announced, or comes."""

from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlray.registry_server.config import Config
from mlray.registry_server.desk import path_of

FILES = "/v1/blobs/"


class BodyLimit:
    """A middleware: 413 for a body beyond the limit, which is one for files and another for everything else."""

    def __init__(self, app: ASGIApp, config: Config) -> None:
        self._app, self._config = app, config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            is_file = path_of(scope).startswith(FILES)
            limit = self._config.max_file_bytes if is_file else self._config.max_body_bytes
            receive = limited(receive, limit, _declared(scope))
        await self._app(scope, receive, send)


def limited(receive: Receive, limit: int, declared: int) -> Receive:
    """`receive`, which raises once more than `limit` bytes are announced or have come."""
    size = 0

    async def counting() -> Message:
        nonlocal size
        if declared > limit:
            raise _too_large(f"{declared} bytes", limit)
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise _too_large(f"more than {limit} bytes", limit)
        return message

    return counting


def _declared(scope: Scope) -> int:
    headers: Any = dict(scope["headers"])
    text = headers.get(b"content-length", b"").decode("latin-1")
    return int(text) if text.isdecimal() and len(text) < 20 else 0


def _too_large(got: str, limit: int) -> HTTPException:
    return HTTPException(413, f"the body has {got}, at most {limit} are taken")
