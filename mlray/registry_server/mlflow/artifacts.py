"""The files of a version where MLflow's clients look for them: listed folder by folder, and fetched one by one."""

from pathlib import PurePosixPath
from typing import Annotated

from fastapi import APIRouter, Query, Response

from mlray.errors import UnknownName
from mlray.registry.manifest import Manifest
from mlray.registry.reference import Reference
from mlray.registry_server.desk import Desk, Reading
from mlray.registry_server.files import found, manifest_of, streamed
from mlray.registry_server.kinds import Text, TextInPath
from mlray.registry_server.mlflow.codes import REFUSALS
from mlray.registry_server.mlflow.shapes import FileInfo, FilesAnswer
from mlray.registry_server.mlflow.sources import ARTIFACTS

router = APIRouter(prefix=ARTIFACTS, tags=["mlflow"])


@router.get("", response_model=FilesAnswer, response_model_exclude_none=True, responses=REFUSALS)
def listed(desk: Reading, path: Annotated[Text, Query(examples=["fraud/3/nested"])]) -> FilesAnswer:
    """What lies directly in a folder of a version's files; nothing in a file."""
    manifest, inner = _manifest(desk, path)
    return FilesAnswer(files=entries(manifest, inner))


@router.get(
    "/{path:path}", response_class=Response,
    responses={**REFUSALS, 200: {"content": {"application/octet-stream": {}}, "description": "the bytes, verified"}},
)
def fetched(desk: Reading, path: TextInPath) -> Response:
    """A file of a version. Where its bytes are not the recorded ones the answer is a 409, or breaks off."""
    manifest, inner = _manifest(desk, path)
    return streamed(desk.artifacts, found(manifest, inner))


def entries(manifest: Manifest, folder: str) -> list[FileInfo]:
    """The folder's files and folders, by name; UnknownName where the artifact has no such folder or file."""
    root = PurePosixPath(folder)
    names: dict[str, int | None] = {}
    for file in manifest.files:
        path = PurePosixPath(file.path)
        if path == root:
            return []
        if root in path.parents:
            inside = path.relative_to(root)
            names[inside.parts[0]] = file.size if len(inside.parts) == 1 else None
    if not names:
        raise UnknownName.of("file or folder", folder, (file.path for file in manifest.files))
    return [FileInfo(path=name, is_dir=size is None, file_size=size) for name, size in sorted(names.items())]


def _manifest(desk: Desk, path: str) -> tuple[Manifest, str]:
    """The files of the version that a path begins with, and the rest of the path."""
    name, _, rest = path.strip("/").partition("/")
    number, _, inner = rest.partition("/")
    reference = Reference.parse(f"{name}/{number}")
    return manifest_of(desk, desk.rules.get(str(reference))), inner
