"""The policy: which moves between stages there are, and what each stage asks for. Plain data; `configs/policy.toml`
spells out the default.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError, field_validator

from mlray.errors import ConfigError, UnknownName
from mlray.registry.canonical import canonical_json, sha256_text
from mlray.registry.reference import ONE_VERSION_STAGES, checked_name

MAX_NAMES = 100
"""Of one list in a policy: roles, gates, aliases, stages."""
STAGES = ("None", "Staging", "Canary", "Production", "Archived")
LIVE = ONE_VERSION_STAGES


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Names = Annotated[tuple[str, ...], Field(max_length=MAX_NAMES)]


class StageRule(_Frozen):
    """What a version needs to enter a stage: one approval per role in `approvals`, by as many people, none of them
    the author (a role named twice asks for two of its people), and each gate in `gates` passed; at most MAX_NAMES of
    either.
    """

    approvals: Names = ()
    gates: Names = ()

    @field_validator("approvals", "gates")
    @classmethod
    def _named(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(checked_name("role or gate", name) for name in names)


class Policy(_Frozen):
    """moves: from a stage, the stages that can be entered. stages: what entering asks for; a stage left out asks for
    nothing. withdraw: the roles of which a caller needs one to take a version out of Canary or Production, to roll
    back, to remove a protected alias, or to rename or delete what takes traffic, or has. protected_aliases: they need
    what Production needs. unverified_sources: whether a version that was registered from a source, without bytes that
    the registry has seen, can leave None.
    """

    moves: Mapping[str, Names] = {
        "None": ("Staging", "Canary", "Production", "Archived"),
        "Staging": ("Canary", "Production", "Archived"),
        "Canary": ("Production", "Staging", "Archived"),
        "Production": ("Archived",),
        "Archived": ("Staging",),
    }
    stages: Mapping[str, StageRule] = {
        "Canary": StageRule(approvals=("ml_engineer",), gates=("evaluation",)),
        "Production": StageRule(
            approvals=("ml_engineer", "risk_officer"),
            gates=("data_validation", "evaluation", "bias", "model_card"),
        ),
    }
    withdraw: Names = ("ml_engineer", "risk_officer", "operator")
    protected_aliases: Names = ("champion",)
    unverified_sources: StrictBool = False

    @field_validator("withdraw", "protected_aliases")
    @classmethod
    def _named(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(checked_name("role or alias", name) for name in names)

    @field_validator("moves", "stages")
    @classmethod
    def _known(cls, table: Mapping[str, Any]) -> Mapping[str, Any]:
        targets = [to for value in table.values() if isinstance(value, tuple) for to in value]
        for stage in (*table, *targets):
            checked_stage(stage)
        if "None" in targets:
            raise ConfigError("a version never goes back to None: that stage says that it has not been anywhere yet")
        return table

    @classmethod
    def parse(cls, table: Mapping[str, Any], where: str = "policy") -> Self:
        """The policy that a TOML or JSON table spells; ConfigError names the first thing that is wrong."""
        try:
            return cls.model_validate(table)
        except ValidationError as error:
            first = error.errors()[0]
            path = ".".join(str(part) for part in first["loc"])
            if first["type"] == "extra_forbidden":
                known = StageRule.model_fields if path.startswith("stages.") else cls.model_fields
                raise ConfigError.unknown_key(where, path, known) from error
            raise ConfigError(f"{where}: {path}: {first['msg']}") from error

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The policy of a TOML file."""
        try:
            return cls.parse(tomllib.loads(Path(path).read_text()), str(path))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"no policy can be read from {path}: {error}") from error

    @property
    def revision(self) -> str:
        """The SHA-256 of what the policy says; an approval counts under the revision it was given under."""
        return sha256_text(canonical_json(self.to_json()))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, from which `parse` makes the same policy."""
        return self.model_dump(mode="json")

    def rule(self, stage: str) -> StageRule:
        """What entering the stage asks for."""
        return self.stages.get(stage, StageRule())


def checked_stage(stage: str) -> str:
    """`stage` itself; UnknownName for what is no stage."""
    if stage not in STAGES:
        raise UnknownName.of("stage", stage, STAGES)
    return stage
