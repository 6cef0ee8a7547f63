"""Who asks, and whom: what every route is given.

The server trusts nobody and holds no token of its own. It hands the caller's token to the rules, which look it up on
every call; a request asks them who that is, and a change carries the token along.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated
from uuid import uuid4

from fastapi import Depends, Header, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.types import Scope

from mlray.errors import InvalidRequest
from mlray.registry.artifacts import ArtifactStore
from mlray.registry.clock import utc_now
from mlray.registry.identity import Call
from mlray.registry.model_registry import ModelRegistry
from mlray.registry_server.config import Config

BEARER = HTTPBearer(auto_error=False, description="a token, as `mlray user add` or `mlray user token` prints it")
NOBODY = "http"
"""What a caller without a token is called, in a registry that has no users."""
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_ROW_VERSION = re.compile(r'"(0|[1-9][0-9]{0,9})"')


@dataclass(frozen=True, kw_only=True)
class Backend:
    """The rules, of this process or of the cluster's actor; the bytes beside them; the settings. clock: aware time."""

    rules: ModelRegistry
    artifacts: ArtifactStore
    config: Config
    clock: Callable[[], datetime] = utc_now


@dataclass(frozen=True, kw_only=True)
class Desk:
    """One request. key: the caller's Idempotency-Key; named: the request's own name, by key and content with a key.
    root: the path under which the server is reached.
    """

    backend: Backend
    token: str | None
    key: str | None
    named: str
    root: str

    @property
    def rules(self) -> ModelRegistry:
        return self.backend.rules

    @property
    def artifacts(self) -> ArtifactStore:
        return self.backend.artifacts

    @property
    def config(self) -> Config:
        return self.backend.config

    def call(self, why: str = "") -> Call:
        """The change, by whoever holds the token. The same key with the same content is the same change."""
        return Call(request=self.named, token=self.token, user=NOBODY, why=why)

    def fresh(self, request: str | None = None) -> Call:
        """A change that goes by a name of its own, or by none that anybody repeats."""
        return Call(request=request or uuid4().hex, token=self.token, user=NOBODY)

    def creation(self) -> Call:
        """The same for what the rules compare themselves: a key that comes again with other content is a Conflict."""
        return Call(request=self.key or self.named, token=self.token, user=NOBODY)


def path_of(scope: Scope) -> str:
    """The path of a request below the server's root."""
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path


def _bearer(credentials: Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]) -> str | None:
    return credentials.credentials if credentials is not None and credentials.credentials else None


Bearer = Annotated[str | None, Depends(_bearer)]


def _reading(request: Request, token: Bearer) -> Desk:
    desk = _desk(request, token, None, uuid4().hex)
    desk.rules.whoami(token)
    return desk


async def _joining(
    request: Request,
    token: Bearer,
    idempotency_key: Annotated[
        str | None, Header(description="1 to 255 visible characters: a repetition under the same key is done once")
    ] = None,
) -> Desk:
    named = uuid4().hex
    if idempotency_key is not None:
        if _KEY.fullmatch(idempotency_key) is None:
            raise InvalidRequest("Idempotency-Key must be 1 to 255 visible ASCII characters")
        content = await request.body()
        asked = f"{request.method} {request.url.path}?{request.url.query}\n{idempotency_key}\n".encode()
        named = hashlib.sha256(asked + content).hexdigest()
    return _desk(request, token, idempotency_key, named)


def _changing(joining: Annotated[Desk, Depends(_joining)]) -> Desk:
    joining.rules.whoami(joining.token)
    return joining


def _desk(request: Request, token: str | None, key: str | None, named: str) -> Desk:
    root = request.scope.get("root_path", "")
    return Desk(backend=request.app.state.backend, token=token, key=key, named=named, root=root)


Reading = Annotated[Desk, Depends(_reading)]
Changing = Annotated[Desk, Depends(_changing)]
"""A change by somebody who is known, before anything is read for it."""
Joining = Annotated[Desk, Depends(_joining)]
"""The change that adds a user: the first one is added by nobody."""


def _seen(
    if_match: Annotated[
        str | None, Header(description="the ETag of the version as the caller saw it; 409 where it has moved since")
    ] = None,
) -> int | None:
    """The row version that the caller has seen; None for any."""
    if if_match is None or if_match == "*":
        return None
    found = _ROW_VERSION.fullmatch(if_match)
    if found is None:
        raise InvalidRequest(f"If-Match: {if_match[:60]} is no row version; send the version's ETag, with its quotes")
    return int(found[1])


Seen = Annotated[int | None, Depends(_seen)]
