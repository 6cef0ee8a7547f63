"""What MLflow's clients send, and what they get: the fields of its REST documentation. A field that we do not know is
left unread, for a newer client may send more.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, Field

from mlray.registry.model_version import ModelVersion, RegisteredModel
from mlray.registry_server.kinds import Name, Text

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PROMPT_TAG = "mlflow.prompt.is_prompt"
RUN_LINK, MODEL_ID = "mlflow.runLink", "mlflow.modelId"
"""Where a version keeps what MLflow says of it and the registry has no field for."""


def _not_a_prompt(key: str) -> str:
    if key == PROMPT_TAG:
        raise ValueError("this registry keeps models, no prompts")
    return key


Number = Annotated[str, Field(pattern="^[1-9][0-9]{0,8}$", description="a version, as text")]
Key = Annotated[Text, AfterValidator(_not_a_prompt)]


class Tag(BaseModel):
    key: Key
    value: Text = ""


def tags_of(tags: Iterable[Tag]) -> dict[str, str]:
    return {tag.key: tag.value for tag in tags}


class CreateModel(BaseModel):
    name: Name
    tags: list[Tag] = Field(default_factory=list)
    description: Text = ""


class OneModel(BaseModel):
    name: Name


class Rename(OneModel):
    new_name: Name


class UpdateModel(OneModel):
    description: Text = ""


class Latest(OneModel):
    stages: list[Text] = Field(default_factory=list)


class ModelTag(OneModel):
    key: Key
    value: Text = ""


class ModelTagKey(OneModel):
    key: Key


class AliasName(OneModel):
    alias: Name


class Alias(AliasName):
    version: Number


class CreateVersion(OneModel):
    source: Text
    run_id: Text = ""
    tags: list[Tag] = Field(default_factory=list)
    run_link: Text = ""
    description: Text = ""
    model_id: Text = ""


class OneVersion(OneModel):
    version: Number


class UpdateVersion(OneVersion):
    description: Text = ""


class Transition(OneVersion):
    stage: Text
    archive_existing_versions: bool = False


class VersionTag(OneVersion):
    key: Key
    value: Text = ""


class VersionTagKey(OneVersion):
    key: Key


class Searched(BaseModel):
    filter: Text = ""
    max_results: int | None = Field(None, ge=1, le=200_000)
    order_by: list[Text] = Field(default_factory=list)
    page_token: Text | None = None


class PlainTag(BaseModel):
    key: str
    value: str


class AliasAnswer(BaseModel):
    alias: str
    version: str


class VersionInfo(BaseModel):
    """MLflow's ModelVersion; timestamps in milliseconds since 1970 UTC."""

    name: str
    version: str
    creation_timestamp: int
    last_updated_timestamp: int
    user_id: str
    current_stage: str
    description: str
    source: str
    run_id: str
    run_link: str
    status: str = "READY"
    tags: list[PlainTag]
    aliases: list[str]

    @classmethod
    def of(cls, version: ModelVersion, where: str) -> Self:
        """where: the URI under which a client finds the version's files."""
        return cls(
            name=version.name, version=str(version.version), creation_timestamp=milliseconds(version.created_at),
            last_updated_timestamp=milliseconds(version.updated_at), user_id=version.author,
            current_stage=version.stage, description=version.description, source=where, run_id=version.run_id,
            run_link=version.tags.get(RUN_LINK, ""), tags=_tags(version.tags), aliases=list(version.aliases),
        )  # fmt: skip


class ModelInfo(BaseModel):
    """MLflow's RegisteredModel."""

    name: str
    creation_timestamp: int
    last_updated_timestamp: int
    description: str
    latest_versions: list[VersionInfo]
    tags: list[PlainTag]
    aliases: list[AliasAnswer]

    @classmethod
    def of(cls, model: RegisteredModel, latest: list[VersionInfo]) -> Self:
        aliases = [AliasAnswer(alias=alias, version=str(number)) for alias, number in sorted(model.aliases.items())]
        return cls(
            name=model.name, creation_timestamp=milliseconds(model.created_at),
            last_updated_timestamp=milliseconds(model.updated_at), description=model.description,
            latest_versions=latest, tags=_tags(model.tags), aliases=aliases,
        )  # fmt: skip


class ModelAnswer(BaseModel):
    registered_model: ModelInfo


class ModelsAnswer(BaseModel):
    registered_models: list[ModelInfo]
    next_page_token: str | None = None


class VersionAnswer(BaseModel):
    model_version: VersionInfo


class VersionsAnswer(BaseModel):
    model_versions: list[VersionInfo]
    next_page_token: str | None = None


class UriAnswer(BaseModel):
    artifact_uri: str


class FileInfo(BaseModel):
    path: str
    is_dir: bool
    file_size: int | None = None


class FilesAnswer(BaseModel):
    files: list[FileInfo]


class Nothing(BaseModel):
    """Done."""


def milliseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def _tags(tags: Mapping[str, str]) -> list[PlainTag]:
    return [PlainTag(key=key, value=value) for key, value in sorted(tags.items())]
