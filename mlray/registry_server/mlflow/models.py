"""MLflow's registered models: made, found, renamed, described, tagged, aliased."""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from mlray.registry.model_version import RegisteredModel
from mlray.registry.query import MAX_PAGE, ModelQuery, Order
from mlray.registry_server.desk import Changing, Desk, Reading
from mlray.registry_server.filter import parse_order
from mlray.registry_server.kinds import Name, Text
from mlray.registry_server.mlflow import shapes
from mlray.registry_server.mlflow.codes import PREFIX, REFUSALS
from mlray.registry_server.mlflow.stages import canonical
from mlray.registry_server.mlflow.versions import conditions, info

router = APIRouter(prefix=f"{PREFIX}/registered-models", tags=["mlflow"])
ORDERS = {"name": "name", "creation_timestamp": "created_at", "last_updated_timestamp": "updated_at"}


@router.post("/create", response_model=shapes.ModelAnswer, responses=REFUSALS)
def create(desk: Changing, body: shapes.CreateModel, request: Request) -> shapes.ModelAnswer:
    """A model; RESOURCE_ALREADY_EXISTS where there is one of the name."""
    tags = shapes.tags_of(body.tags)
    made = desk.rules.create_model(body.name, description=body.description, tags=tags, call=desk.call())
    return _answer(desk, request, made)


@router.get("/get", response_model=shapes.ModelAnswer, responses=REFUSALS)
def get(desk: Reading, name: Annotated[Name, Query()], request: Request) -> shapes.ModelAnswer:
    """A model."""
    return _answer(desk, request, desk.rules.model(name))


@router.post("/rename", response_model=shapes.ModelAnswer, responses=REFUSALS)
def rename(desk: Changing, body: shapes.Rename, request: Request) -> shapes.ModelAnswer:
    """Another name, with all that belongs to the model."""
    return _answer(desk, request, desk.rules.rename_model(body.name, body.new_name, call=desk.call()))


@router.patch("/update", response_model=shapes.ModelAnswer, responses=REFUSALS)
def update(desk: Changing, body: shapes.UpdateModel, request: Request) -> shapes.ModelAnswer:
    """Another description."""
    desk.rules.describe(body.name, body.description, call=desk.call())
    return _answer(desk, request, desk.rules.model(body.name))


@router.delete("/delete", response_model=shapes.Nothing, responses=REFUSALS)
def delete(desk: Changing, body: shapes.OneModel) -> shapes.Nothing:
    """Deletes a model with its versions."""
    desk.rules.delete_model(body.name, call=desk.call())
    return shapes.Nothing()


@router.get("/search", response_model=shapes.ModelsAnswer, response_model_exclude_none=True, responses=REFUSALS)
def search(desk: Reading, asked: Annotated[shapes.Searched, Query()], request: Request) -> shapes.ModelsAnswer:
    """Models, a page at a time."""
    order = tuple(parse_order(text, ORDERS) for text in asked.order_by) or (Order(field="name"),)
    limit = min(asked.max_results or 100, 1000, MAX_PAGE)
    where = conditions(asked.filter, {"name": "name"})
    page = desk.rules.search_models(
        ModelQuery(where=where, order_by=order, limit=limit, page_token=asked.page_token or None)
    )
    newest = desk.rules.latest_versions([one.name for one in page.items])
    by_name: dict[str, list[shapes.VersionInfo]] = {one.name: [] for one in page.items}
    for version in newest:
        by_name[version.name].append(info(desk, request, version))
    found = [shapes.ModelInfo.of(one, by_name[one.name]) for one in page.items]
    return shapes.ModelsAnswer(registered_models=found, next_page_token=page.next_page_token)


@router.post(
    "/get-latest-versions", response_model=shapes.VersionsAnswer, response_model_exclude_none=True, responses=REFUSALS
)
def post_latest(desk: Reading, body: shapes.Latest, request: Request) -> shapes.VersionsAnswer:
    """The newest version in each stage, or in the stages named."""
    return _latest(desk, request, body.name, body.stages)


@router.get(
    "/get-latest-versions", response_model=shapes.VersionsAnswer, response_model_exclude_none=True, responses=REFUSALS
)
def get_latest(
    desk: Reading,
    name: Annotated[Name, Query()],
    request: Request,
    stages: Annotated[list[Text] | None, Query()] = None,
) -> shapes.VersionsAnswer:
    """The newest version in each stage, or in the stages named."""
    return _latest(desk, request, name, stages or [])


@router.post("/set-tag", response_model=shapes.Nothing, responses=REFUSALS)
def set_tag(desk: Changing, body: shapes.ModelTag) -> shapes.Nothing:
    """Sets a tag."""
    desk.rules.set_tag(body.name, body.key, body.value, call=desk.call())
    return shapes.Nothing()


@router.delete("/delete-tag", response_model=shapes.Nothing, responses=REFUSALS)
def delete_tag(desk: Changing, body: shapes.ModelTagKey) -> shapes.Nothing:
    """Forgets a tag; nothing where there is none, as MLflow has it."""
    if body.key in desk.rules.model(body.name).tags:
        desk.rules.delete_tag(body.name, body.key, call=desk.call())
    return shapes.Nothing()


@router.post("/alias", response_model=shapes.Nothing, responses=REFUSALS)
def set_alias(desk: Changing, body: shapes.Alias) -> shapes.Nothing:
    """Points an alias at a version; a protected one needs what Production needs."""
    desk.rules.set_alias(body.name, body.alias, int(body.version), call=desk.call())
    return shapes.Nothing()


@router.delete("/alias", response_model=shapes.Nothing, responses=REFUSALS)
def delete_alias(desk: Changing, body: shapes.AliasName) -> shapes.Nothing:
    """Forgets an alias; nothing where there is none, as MLflow has it."""
    if body.alias in desk.rules.model(body.name).aliases:
        desk.rules.remove_alias(body.name, body.alias, call=desk.call())
    return shapes.Nothing()


@router.get("/alias", response_model=shapes.VersionAnswer, responses=REFUSALS)
def get_alias(
    desk: Reading, name: Annotated[Name, Query()], alias: Annotated[Name, Query()], request: Request
) -> shapes.VersionAnswer:
    """The version at which an alias points."""
    return shapes.VersionAnswer(model_version=info(desk, request, desk.rules.get(f"{name}@{alias}")))


def _answer(desk: Desk, request: Request, model: RegisteredModel) -> shapes.ModelAnswer:
    newest = [info(desk, request, version) for version in desk.rules.latest_versions([model.name])]
    return shapes.ModelAnswer(registered_model=shapes.ModelInfo.of(model, newest))


def _latest(desk: Desk, request: Request, name: str, stages: list[str]) -> shapes.VersionsAnswer:
    wanted = {canonical(stage) for stage in stages}
    desk.rules.model(name)
    found = [version for version in desk.rules.latest_versions([name]) if not wanted or version.stage in wanted]
    return shapes.VersionsAnswer(model_versions=[info(desk, request, version) for version in found])
