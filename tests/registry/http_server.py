"""The registry's HTTP server on a real port of this process: one for the session, its backend changed per test."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from mlray.registry.manifest import Manifest, manifest_of
from mlray.registry_server.config import Config

LIMITS = Config(max_body_bytes=1 << 20, max_file_bytes=4 << 20)


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """The application behind a free port; its URL. Its end is awaited."""
    with socket.create_server(("127.0.0.1", 0)) as port:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
        thread = Thread(target=server.run, kwargs={"sockets": [port]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{port.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Somebody with a token, or nobody, in front of the server."""

    client: httpx.Client
    token: str | None

    def ask(self, method: str, path: str, /, status: int | None = None, **more: Any) -> Any:
        """The JSON of an answer with the status that is expected; any other fails the test."""
        answer = self.send(method, path, **more)
        assert answer.status_code == (status or {"POST": 201, "DELETE": 204}.get(method, 200)), answer.text
        return answer.json() if answer.content else None

    def send(self, method: str, path: str, /, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        own = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        return self.client.request(method, path, headers=own | (headers or {}), **more)

    def upload(self, checkpoint: str) -> str:
        """Puts the files of a folder and its manifest into the store, as any HTTP client can; the digest."""
        manifest: Manifest = manifest_of(Path(checkpoint))
        for file in manifest.files:
            self.ask("PUT", f"/v1/blobs/{file.sha256}", 201, content=(Path(checkpoint) / file.path).read_bytes())
        files = [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in manifest.files]
        made: str = self.ask("POST", "/v1/artifacts", json={"files": files})["digest"]
        return made


def record(run: Any, digest: str, **more: Any) -> dict[str, Any]:
    """The body that registers a run's artifact."""
    fields = (
        "service", "service_hash", "service_definition", "sources", "fingerprint", "spine", "features", "label",
        "metrics", "config", "provenance",
    )  # fmt: skip
    body = {name: getattr(run, name) for name in fields} | {"digest": digest, "run_id": run.id} | more
    found: dict[str, Any] = json.loads(json.dumps(body))
    return found
