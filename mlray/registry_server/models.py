"""Models, their tags and aliases, and searches."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from mlray.registry.query import ModelQuery, Order, VersionQuery
from mlray.registry_server.desk import Changing, Desk, Reading
from mlray.registry_server.filter import parse_filter, parse_order
from mlray.registry_server.kinds import InPath, Text, TextInPath
from mlray.registry_server.problems import CHANGE, READ
from mlray.registry_server.shapes import (
    AliasTarget,
    Model,
    ModelChange,
    ModelPage,
    NewModel,
    TagValue,
    Version,
    VersionPage,
)
from mlray.registry_server.versions import answer

router = APIRouter(prefix="/v1", tags=["models"])


class Search(BaseModel):
    """filter: conditions joined by AND, on name, tags.key, and for versions on version, run_id, source, stage, alias,
    service, digest: "tags.team = 'payments' AND stage IN ('Canary', 'Production')". order_by: name, version,
    created_at, updated_at, each perhaps with DESC.
    """

    model_config = ConfigDict(extra="forbid")
    filter: Text = ""
    order_by: list[Text] = Field(default_factory=list)
    limit: int = Field(100, ge=1, le=1000)
    page_token: Text | None = None

    def models(self) -> ModelQuery:
        return ModelQuery(
            where=parse_filter(self.filter), order_by=self._order(), limit=self.limit, page_token=self.page_token
        )

    def versions(self) -> VersionQuery:
        return VersionQuery(
            where=parse_filter(self.filter), order_by=self._order(), limit=self.limit, page_token=self.page_token
        )

    def _order(self) -> tuple[Order, ...]:
        return tuple(parse_order(text) for text in self.order_by)


Searched = Annotated[Search, Query()]


@router.get("/models", response_model=ModelPage, responses=READ)
def models(desk: Reading, search: Searched) -> ModelPage:
    """Models, a page at a time."""
    page = desk.rules.search_models(search.models())
    return ModelPage(models=[Model.of(one) for one in page.items], next_page_token=page.next_page_token)


@router.get("/versions", response_model=VersionPage, responses=READ, tags=["versions"])
def versions(desk: Reading, search: Searched) -> VersionPage:
    """Versions of all models, a page at a time."""
    page = desk.rules.search_versions(search.versions())
    return VersionPage(versions=[Version.of(one) for one in page.items], next_page_token=page.next_page_token)


@router.post("/models", response_model=Model, status_code=201, responses=CHANGE)
def create(desk: Changing, body: NewModel, response: Response) -> Model:
    """A model without versions. A version's registration makes its model by itself."""
    made = desk.rules.create_model(body.name, description=body.description, tags=body.tags, call=desk.call())
    response.headers["Location"] = f"{desk.root}/v1/models/{made.name}"
    return Model.of(made)


@router.get("/models/{name}", response_model=Model, responses=READ)
def model(desk: Reading, name: InPath) -> Model:
    """One model."""
    return Model.of(desk.rules.model(name))


@router.patch("/models/{name}", response_model=Model, responses=CHANGE)
def change(desk: Changing, name: InPath, body: ModelChange) -> Model:
    """Another name, or another description. Renaming what is or was live takes a role of `withdraw`."""
    if body.name is not None:
        return Model.of(desk.rules.rename_model(name, body.name, call=desk.call()))
    desk.rules.describe(name, body.description or "", call=desk.call())
    return _model(desk, name)


@router.delete("/models/{name}", status_code=204, responses=CHANGE)
def delete(desk: Changing, name: InPath) -> None:
    """Deletes the model with its versions; their audit stays. What is or was live takes a role of `withdraw`."""
    desk.rules.delete_model(name, call=desk.call())


@router.put("/models/{name}/tags/{key:path}", response_model=Model, responses=CHANGE)
def set_tag(desk: Changing, name: InPath, key: TextInPath, body: TagValue) -> Model:
    """Sets a tag. A tag opens no stage."""
    desk.rules.set_tag(name, key, body.value, call=desk.call())
    return _model(desk, name)


@router.delete("/models/{name}/tags/{key:path}", status_code=204, responses=CHANGE)
def delete_tag(desk: Changing, name: InPath, key: TextInPath) -> None:
    """Forgets a tag."""
    desk.rules.delete_tag(name, key, call=desk.call())


@router.get("/models/{name}/aliases/{alias}", response_model=Version, responses=READ)
def alias(desk: Reading, name: InPath, alias: InPath, response: Response) -> Version:
    """The version at which an alias points."""
    return answer(response, desk.rules.get(f"{name}@{alias}"))


@router.put("/models/{name}/aliases/{alias}", response_model=Version, responses=CHANGE)
def set_alias(desk: Changing, name: InPath, alias: InPath, body: AliasTarget, response: Response) -> Version:
    """Points an alias at a version; a protected one needs what Production needs."""
    return answer(response, desk.rules.set_alias(name, alias, body.version, call=desk.call()))


@router.delete("/models/{name}/aliases/{alias}", status_code=204, responses=CHANGE)
def remove_alias(desk: Changing, name: InPath, alias: InPath) -> None:
    """Forgets an alias."""
    desk.rules.remove_alias(name, alias, call=desk.call())


def _model(desk: Desk, name: str) -> Model:
    return Model.of(desk.rules.model(name))
