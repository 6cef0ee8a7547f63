"""Versions of a model: registered, described, moved between stages, approved."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import HTMLResponse, PlainTextResponse

from mlray.errors import SchemaError
from mlray.registry.artifacts import ArtifactStore
from mlray.registry.client import SIGNATURE_FILE, Registry
from mlray.registry.model_version import ModelVersion, VersionRecord
from mlray.registry.plain import read_json
from mlray.registry.reference import Reference
from mlray.registry_server.desk import Changing, Desk, Reading, Seen
from mlray.registry_server.kinds import InPath, Text, TextInPath, VersionInPath
from mlray.registry_server.problems import CHANGE, READ
from mlray.registry_server.shapes import (
    Approvals,
    Copied,
    Described,
    GivenApproval,
    Lineage,
    NewApproval,
    NewSource,
    NewVersion,
    Promotion,
    Rollback,
    TagValue,
    Version,
)

router = APIRouter(prefix="/v1", tags=["versions"])
_RECORD = (
    "digest", "run_id", "service", "service_hash", "service_definition", "sources", "fingerprint", "spine", "label",
    "metrics", "config", "provenance",
)  # fmt: skip
_NO_SCRIPTS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}


def answer(response: Response, version: ModelVersion) -> Version:
    """A version with its ETag."""
    response.headers["ETag"] = f'"{version.row_version}"'
    return Version.of(version)


def _created(desk: Desk, response: Response, version: ModelVersion) -> Version:
    """A new version, with its ETag and where it is."""
    response.headers["Location"] = f"{desk.root}/v1/models/{version.name}/versions/{version.version}"
    return answer(response, version)


@router.get("/resolve", response_model=Version, responses=READ)
def resolve(
    desk: Reading, reference: Annotated[Text, Query(examples=["fraud/Production"])], response: Response
) -> Version:
    """The version that `fraud/3`, `fraud@candidate` or `fraud/Production` names."""
    return answer(response, desk.rules.get(reference))


@router.post("/models/{name}/versions", response_model=Version, status_code=201, responses=CHANGE)
def register(desk: Changing, name: InPath, body: NewVersion, response: Response) -> Version:
    """The next version of a model, of an artifact whose every byte is in the store. A repetition under the same
    Idempotency-Key answers the same version; with another artifact it is a 409.
    """
    known = {field: getattr(body, field) for field in _RECORD}
    record = VersionRecord(**known, features=tuple(body.features), signature=signature_of(desk.artifacts, body.digest))
    said = {"description": body.description, "tags": body.tags, "allow_pickle": body.allow_pickle}
    made = desk.rules.register(name, record, alias=body.alias, call=desk.creation(), **said)  # type: ignore[arg-type]
    return _created(desk, response, made)


@router.post("/models/{name}/sources", response_model=Version, status_code=201, responses=CHANGE)
def register_source(desk: Changing, name: InPath, body: NewSource, response: Response) -> Version:
    """The next version of a model, of bytes that lie elsewhere and that nobody has verified."""
    made = desk.rules.register_source(
        name, body.source, run_id=body.run_id, description=body.description, tags=body.tags, call=desk.creation()
    )
    return _created(desk, response, made)


@router.post("/models/{name}/copies", response_model=Version, status_code=201, responses=CHANGE)
def copy(desk: Changing, name: InPath, body: Copied, response: Response) -> Version:
    """A copy of a version as this model's next: the same bytes, stage None, no approvals."""
    reference = Reference.parse(body.of)
    of = reference.version if reference.version is not None else desk.rules.get(body.of).version
    return _created(desk, response, desk.rules.copy(reference.model, of, name, call=desk.creation()))


@router.get("/models/{name}/versions/{version}", response_model=Version, responses=READ)
def version(desk: Reading, name: InPath, version: VersionInPath, response: Response) -> Version:
    """One version."""
    return answer(response, desk.rules.get(f"{name}/{version}"))


@router.patch("/models/{name}/versions/{version}", response_model=Version, responses=CHANGE)
def describe(desk: Changing, name: InPath, version: VersionInPath, body: Described, response: Response) -> Version:
    """Another description."""
    desk.rules.describe(name, body.description, version=version, call=desk.call())
    return _now(desk, name, version, response)


@router.delete("/models/{name}/versions/{version}", status_code=204, responses=CHANGE)
def delete(desk: Changing, name: InPath, version: VersionInPath, seen: Seen) -> None:
    """Deletes a version; its number is never given again. What is or was live takes a role of `withdraw`."""
    desk.rules.delete_version(name, version, row_version=seen, call=desk.call())


@router.put("/models/{name}/versions/{version}/tags/{key:path}", response_model=Version, responses=CHANGE)
def set_tag(
    desk: Changing, name: InPath, version: VersionInPath, key: TextInPath, body: TagValue, response: Response
) -> Version:
    """Sets a tag. A tag opens no stage."""
    desk.rules.set_tag(name, key, body.value, version=version, call=desk.call())
    return _now(desk, name, version, response)


@router.delete("/models/{name}/versions/{version}/tags/{key:path}", status_code=204, responses=CHANGE)
def delete_tag(desk: Changing, name: InPath, version: VersionInPath, key: TextInPath) -> None:
    """Forgets a tag."""
    desk.rules.delete_tag(name, key, version=version, call=desk.call())


@router.post("/models/{name}/versions/{version}/promote", response_model=Version, responses=CHANGE)
def promote(
    desk: Changing, name: InPath, version: VersionInPath, body: Promotion, seen: Seen, response: Response
) -> Version:
    """Moves a version to a stage as the policy allows; what it replaces there is archived along with it.

    403 says in `missing` what it lacks. With If-Match 409 where it has moved since.
    """
    moved = desk.rules.promote(name, version, stage=body.stage, row_version=seen, call=desk.call(body.why))
    return answer(response, moved)


@router.post("/models/{name}/rollback", response_model=Version, responses=CHANGE)
def rollback(desk: Changing, name: InPath, body: Rollback, seen: Seen, response: Response) -> Version:
    """The last approved Production again, without new approvals; the present one is archived.

    409 where `version`, or If-Match, is not what is in Production; right after another rollback one of them is due.
    """
    back = desk.rules.rollback(name, version=body.version, row_version=seen, call=desk.call(body.why))
    return answer(response, back)


@router.get("/models/{name}/versions/{version}/approvals", response_model=Approvals, responses=READ)
def approvals(desk: Reading, name: InPath, version: VersionInPath) -> Approvals:
    """All that was ever approved of a version, and what of it counts now."""
    return _approvals(desk, name, version)


@router.post(
    "/models/{name}/versions/{version}/approvals", response_model=Approvals, status_code=201, responses=CHANGE
)
def approve(desk: Changing, name: InPath, version: VersionInPath, body: NewApproval) -> Approvals:
    """The token's holder says, in a role that the policy asks for, that the version may enter the stage."""
    desk.rules.approve(name, version, stage=body.stage, role=body.role, call=desk.call(body.why))
    return _approvals(desk, name, version)


@router.delete(
    "/models/{name}/versions/{version}/approvals/{stage}", response_model=Approvals, responses=CHANGE
)
def revoke_approval(
    desk: Changing, name: InPath, version: VersionInPath, stage: TextInPath, why: Annotated[Text, Query()] = ""
) -> Approvals:
    """Takes the token's holder's own approvals for a stage back."""
    desk.rules.revoke_approval(name, version, stage=stage, call=desk.call(why))
    return _approvals(desk, name, version)


@router.get("/models/{name}/versions/{version}/lineage", response_model=Lineage, responses=READ)
def lineage(desk: Reading, name: InPath, version: VersionInPath) -> Lineage:
    """Where a version comes from, down to the tables' versions, and what gates and people say of it."""
    return Lineage(lineage=Registry(desk.rules, desk.artifacts).lineage(f"{name}/{version}"))


@router.get(
    "/models/{name}/versions/{version}/card", response_class=PlainTextResponse,
    responses={**READ, 200: {"content": {"text/markdown": {}, "text/html": {}}, "description": "the card"}},
)
def card(
    desk: Reading, name: InPath, version: VersionInPath, form: Literal["markdown", "html"] = "markdown"
) -> Response:
    """The model card of a version, in Markdown or as a page; what people wrote is escaped."""
    found = Registry(desk.rules, desk.artifacts).card(f"{name}/{version}")
    if form == "html":
        return HTMLResponse(found.html(), headers=_NO_SCRIPTS)
    return PlainTextResponse(found.markdown(), media_type="text/markdown")


def signature_of(artifacts: ArtifactStore, digest: str) -> dict[str, Any]:
    """What an artifact's signature file says its model takes; nothing without one. SchemaError for no object."""
    manifest = artifacts.require(digest)
    if all(file.path != SIGNATURE_FILE for file in manifest.files):
        return {}
    signature = read_json(artifacts, manifest, SIGNATURE_FILE)
    if not isinstance(signature, dict):
        raise SchemaError(f"{SIGNATURE_FILE} of artifact {digest} holds a {type(signature).__name__}, not an object")
    return signature


def _now(desk: Desk, name: str, version: int, response: Response) -> Version:
    return answer(response, desk.rules.get(f"{name}/{version}"))


def _approvals(desk: Desk, name: str, version: int) -> Approvals:
    return Approvals(approvals=[GivenApproval.of(one) for one in desk.rules.approvals(name, version)])
