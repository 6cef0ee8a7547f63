"""Bytes: a model's files, to the store and from it, each under its SHA-256. No path of a caller's reaches the store."""

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi import Path as InUrl
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from mlray.errors import CorruptArtifact, InvalidRequest, SchemaError, UnknownName
from mlray.registry.artifacts import ArtifactStore
from mlray.registry.manifest import CHUNK, Manifest, ManifestFile
from mlray.registry.model_version import ModelVersion
from mlray.registry_server.desk import Changing, Desk, Reading
from mlray.registry_server.kinds import InPath, Sha256, TextInPath, VersionInPath
from mlray.registry_server.problems import CHANGE, READ, problems
from mlray.registry_server.shapes import Artifact, Blob, NewArtifact, Sweep, SweptAway

router = APIRouter(prefix="/v1", tags=["artifacts"])
_BYTES: dict[str, Any] = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}


@router.put(
    "/blobs/{sha256}", response_model=Blob, status_code=201, responses=CHANGE,
    openapi_extra={"requestBody": {"required": True, **_BYTES}},
)
async def put_blob(desk: Reading, sha256: Annotated[Sha256, InUrl()], request: Request) -> Blob:
    """Stores a file's bytes under their SHA-256, which is checked while they come; again is fine. They belong to
    nothing until an artifact names them.
    """
    with TemporaryDirectory(prefix="mlray-upload-") as folder:
        path = Path(folder) / "blob"
        got, size = await _received(request, path)
        if got != sha256:
            raise InvalidRequest(f"the body's SHA-256 is {got}, not {sha256}: it came in damaged, or was named wrongly")
        await run_in_threadpool(desk.artifacts.put_blob, path, ManifestFile(path="blob", size=size, sha256=sha256))
    return Blob(sha256=sha256, size=size)


@router.post("/artifacts", response_model=Artifact, status_code=201, responses=CHANGE)
def put_artifact(desk: Reading, body: NewArtifact) -> Artifact:
    """Makes an artifact of files that are stored; its digest is what a version is registered with. Again is fine."""
    files = sorted((ManifestFile(**vars(file)) for file in body.files), key=lambda file: file.path)
    try:
        manifest = Manifest(tuple(files))
    except CorruptArtifact as error:  # the caller's, here: a path twice, or one that leaves its folder
        raise SchemaError(str(error)) from error
    desk.artifacts.put_manifest(manifest)
    return Artifact.of(manifest)


@router.post("/sweeps", response_model=SweptAway, responses=CHANGE)
def sweep(desk: Changing, body: Sweep) -> SweptAway:
    """Removes the bytes that no version names, by an admin."""
    grace = timedelta(seconds=body.grace_seconds)
    return SweptAway(**vars(desk.rules.sweep(grace=grace, dry_run=body.dry_run, call=desk.call(body.why))))


@router.get("/artifacts/{digest}", response_model=Artifact, responses=READ)
def artifact(desk: Reading, digest: Annotated[Sha256, InUrl()]) -> Artifact:
    """The files of an artifact."""
    return Artifact.of(desk.artifacts.manifest(digest))


@router.get("/models/{name}/versions/{version}/files", response_model=Artifact, responses=READ)
def files(desk: Reading, name: InPath, version: VersionInPath) -> Artifact:
    """The files of a version."""
    return Artifact.of(manifest_of(desk, desk.rules.get(f"{name}/{version}")))


@router.get(
    "/models/{name}/versions/{version}/files/{path:path}", response_class=Response,
    responses={
        **READ, **problems(409), 200: {**_BYTES, "description": "the bytes, verified; the ETag is their SHA-256"},
    },
)
def file(desk: Reading, name: InPath, version: VersionInPath, path: TextInPath) -> Response:
    """A file of a version. Where its bytes are not the recorded ones the answer is a 409, or breaks off."""
    return streamed(desk.artifacts, found(manifest_of(desk, desk.rules.get(f"{name}/{version}")), path))


def manifest_of(desk: Desk, version: ModelVersion) -> Manifest:
    """The files of a version; UnknownName for one without bytes here, CorruptArtifact where its manifest is lost."""
    if not version.digest:
        raise UnknownName(f"{version.reference} has no files here, its source is {version.source}; fetch it from there")
    try:
        return desk.artifacts.manifest(version.digest)
    except UnknownName as error:
        raise CorruptArtifact(f"{version.reference}: {error}") from error


def found(manifest: Manifest, path: str) -> ManifestFile:
    """The file of that path; UnknownName points at the nearest."""
    known = {file.path: file for file in manifest.files}
    if path not in known:
        raise UnknownName.of("file", path, known)
    return known[path]


def streamed(artifacts: ArtifactStore, file: ManifestFile) -> Response:
    """The file's bytes. The first piece is read before the answer begins, so that what can be known by then is told by
    its status; the last piece goes out only when the whole is verified, and the length is announced, so that no
    caller takes a damaged file for a whole one.
    """
    pieces = artifacts.stream(file)
    first = next(pieces)
    headers = {
        "Content-Length": str(file.size),
        "ETag": f'"{file.sha256}"',
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.path.rpartition('/')[2])}",
        "X-Content-Type-Options": "nosniff",
    }
    body: Iterator[bytes] = chain([first], pieces)
    return StreamingResponse(body, headers=headers, media_type="application/octet-stream")


async def _received(request: Request, path: Path) -> tuple[str, int]:
    """The request's body, written to a file; its SHA-256 and size."""
    digest, size, waiting = hashlib.sha256(), 0, bytearray()

    def written(out: Any, content: bytes) -> None:
        digest.update(content)
        out.write(content)

    with path.open("xb") as out:
        async for part in request.stream():
            waiting += part
            if len(waiting) >= CHUNK:
                size += len(waiting)
                await run_in_threadpool(written, out, bytes(waiting))
                waiting.clear()
        await run_in_threadpool(written, out, bytes(waiting))
    return digest.hexdigest(), size + len(waiting)
