"""MLflow's model versions: made of a source or of another version, found, described, moved between stages."""

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Query, Request

from mlray.errors import Conflict
from mlray.registry.model_version import ModelVersion
from mlray.registry.query import MAX_PAGE, Order, TagWhere, VersionQuery, Where
from mlray.registry.reference import Reference
from mlray.registry_server.desk import Changing, Desk, Reading
from mlray.registry_server.filter import Condition, parse_filter, parse_order
from mlray.registry_server.kinds import Name
from mlray.registry_server.mlflow import shapes
from mlray.registry_server.mlflow.codes import PREFIX, REFUSALS
from mlray.registry_server.mlflow.sources import Creation, checked_source, copied_version, files_uri
from mlray.registry_server.mlflow.stages import canonical, transition

router = APIRouter(prefix=f"{PREFIX}/model-versions", tags=["mlflow"])
FIELDS = {"name": "name", "version_number": "version", "run_id": "run_id", "source_path": "source"}
ORDERS = {
    "name": "name",
    "version_number": "version",
    "creation_timestamp": "created_at",
    "last_updated_timestamp": "updated_at",
}
NEWEST = (Order(field="updated_at", descending=True), Order(field="name"), Order(field="version", descending=True))


@router.post("/create", response_model=shapes.VersionAnswer, responses=REFUSALS)
def create(desk: Changing, body: shapes.CreateVersion, request: Request) -> shapes.VersionAnswer:
    """The next version of a model: a copy where the source is `models:/...`, else one whose bytes nobody has verified.

    The same again, by the same user within `retry_seconds`, answers the version that the first one made.
    """
    desk.rules.model(body.name)
    known = {shapes.RUN_LINK: body.run_link, shapes.MODEL_ID: body.model_id}
    tags = shapes.tags_of(body.tags) | {key: value for key, value in known.items() if value}
    of = copied_version(body.source)
    made = _registered(desk, body, tags) if of is None else _copied(desk, body, tags, of)
    return _answer(desk, request, made)


@router.get("/get", response_model=shapes.VersionAnswer, responses=REFUSALS)
def get(
    desk: Reading, name: Annotated[Name, Query()], version: Annotated[shapes.Number, Query()], request: Request
) -> shapes.VersionAnswer:
    """A version."""
    return _answer(desk, request, desk.rules.get(f"{name}/{version}"))


@router.get("/search", response_model=shapes.VersionsAnswer, response_model_exclude_none=True, responses=REFUSALS)
def search(desk: Reading, asked: Annotated[shapes.Searched, Query()], request: Request) -> shapes.VersionsAnswer:
    """Versions, a page at a time, those changed last first."""
    order = tuple(parse_order(text, ORDERS) for text in asked.order_by)
    if order and all(one.field != "version" for one in order):
        order += (*(one for one in NEWEST[1:] if one.field not in [known.field for known in order]),)
    limit = min(asked.max_results or MAX_PAGE, MAX_PAGE)
    where = conditions(asked.filter, FIELDS)
    page = desk.rules.search_versions(
        VersionQuery(where=where, order_by=order or NEWEST, limit=limit, page_token=asked.page_token or None)
    )
    found = [info(desk, request, version) for version in page.items]
    return shapes.VersionsAnswer(model_versions=found, next_page_token=page.next_page_token)


@router.patch("/update", response_model=shapes.VersionAnswer, responses=REFUSALS)
def update(desk: Changing, body: shapes.UpdateVersion, request: Request) -> shapes.VersionAnswer:
    """Another description."""
    desk.rules.describe(body.name, body.description, version=int(body.version), call=desk.call())
    return _answer(desk, request, desk.rules.get(f"{body.name}/{body.version}"))


@router.post("/transition-stage", response_model=shapes.VersionAnswer, responses=REFUSALS)
def transition_stage(desk: Changing, body: shapes.Transition, request: Request) -> shapes.VersionAnswer:
    """Moves a version to a stage as the policy allows; PERMISSION_DENIED says what it lacks."""
    stage = canonical(body.stage)
    moved = transition(desk, body.name, int(body.version), stage, archive=body.archive_existing_versions)
    return _answer(desk, request, moved)


@router.delete("/delete", response_model=shapes.Nothing, responses=REFUSALS)
def delete(desk: Changing, body: shapes.OneVersion) -> shapes.Nothing:
    """Deletes a version."""
    desk.rules.delete_version(body.name, int(body.version), call=desk.call())
    return shapes.Nothing()


@router.post("/set-tag", response_model=shapes.Nothing, responses=REFUSALS)
def set_tag(desk: Changing, body: shapes.VersionTag) -> shapes.Nothing:
    """Sets a tag."""
    desk.rules.set_tag(body.name, body.key, body.value, version=int(body.version), call=desk.call())
    return shapes.Nothing()


@router.delete("/delete-tag", response_model=shapes.Nothing, responses=REFUSALS)
def delete_tag(desk: Changing, body: shapes.VersionTagKey) -> shapes.Nothing:
    """Forgets a tag; nothing where there is none, as MLflow has it."""
    if body.key in desk.rules.get(f"{body.name}/{body.version}").tags:
        desk.rules.delete_tag(body.name, body.key, version=int(body.version), call=desk.call())
    return shapes.Nothing()


@router.get("/get-download-uri", response_model=shapes.UriAnswer, responses=REFUSALS)
def download_uri(
    desk: Reading, name: Annotated[Name, Query()], version: Annotated[shapes.Number, Query()], request: Request
) -> shapes.UriAnswer:
    """Where the version's files are fetched from."""
    return shapes.UriAnswer(artifact_uri=files_uri(request, desk, desk.rules.get(f"{name}/{version}")))


def info(desk: Desk, request: Request, version: ModelVersion) -> shapes.VersionInfo:
    """A version in MLflow's words."""
    return shapes.VersionInfo.of(version, files_uri(request, desk, version))


def conditions(text: str, fields: dict[str, str]) -> tuple[Condition, ...]:
    """A filter's conditions. Every MLflow client adds one, that what it finds is no prompt: it holds without a tag."""
    return tuple(map(_without_prompts, parse_filter(text, fields)))


def _without_prompts(one: Condition) -> Condition:
    if not isinstance(one, TagWhere) or one.key != shapes.PROMPT_TAG:
        return one
    return replace(one, or_absent=(one.operator, one.value) in (("!=", "true"), ("=", "false")))


def _registered(desk: Desk, body: shapes.CreateVersion, tags: dict[str, str]) -> ModelVersion:
    source = checked_source(body.source, body.run_id, desk.config.sources)
    same = (
        Where(field="source", operator="=", value=source),
        Where(field="run_id", operator="=", value=body.run_id),
    )
    creation = Creation(name=body.name, same=same, description=body.description, tags=tags)
    earlier, named = creation.earlier(desk)
    if earlier is not None:
        return earlier

    def make(request: str | None) -> ModelVersion:
        return desk.rules.register_source(
            body.name, source, run_id=body.run_id, description=body.description, tags=tags, call=desk.fresh(request)
        )

    try:
        return make(named)
    except Conflict:  # what an earlier creation of this name has made was deleted since
        return make(None)


def _copied(desk: Desk, body: shapes.CreateVersion, tags: dict[str, str], of: Reference) -> ModelVersion:
    original = desk.rules.get(str(of))
    same = (
        Where(field="digest", operator="=", value=original.digest),
        Where(field="source", operator="=", value=original.source),
        Where(field="run_id", operator="=", value=original.run_id),
    )
    creation = Creation(
        name=body.name, same=same, description=body.description, tags=tags, copy_of=original.reference
    )

    def make(request: str | None) -> ModelVersion:
        return desk.rules.copy(original.name, original.version, body.name, call=desk.fresh(request))

    made, named = creation.earlier(desk)
    try:
        made = made or make(named)
    except Conflict:  # what an earlier copy of this name has made was deleted since
        made = make(None)
    for key, value in tags.items():
        if made.tags.get(key) != value:
            desk.rules.set_tag(made.name, key, value, version=made.version, call=desk.fresh())
    if body.description and made.description != body.description:
        desk.rules.describe(made.name, body.description, version=made.version, call=desk.fresh())
    return desk.rules.get(made.reference)


def _answer(desk: Desk, request: Request, version: ModelVersion) -> shapes.VersionAnswer:
    return shapes.VersionAnswer(model_version=info(desk, request, version))
