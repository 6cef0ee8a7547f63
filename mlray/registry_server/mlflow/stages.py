"""MLflow's stages: ours by other spellings, and Canary besides."""

from mlray.errors import InvalidRequest, UnknownName
from mlray.registry.model_version import ModelVersion
from mlray.registry.policy import STAGES
from mlray.registry.query import MAX_PAGE, VersionQuery, Where
from mlray.registry_server.desk import Desk

_BY_NAME = {stage.lower(): stage for stage in STAGES}


def canonical(stage: str) -> str:
    """The stage as it is spelt here, from any mixture of capitals."""
    found = _BY_NAME.get(stage.lower())
    if found is None:
        raise InvalidRequest(str(UnknownName.of("stage", stage[:100], STAGES)))
    return found


def transition(desk: Desk, name: str, number: int, stage: str, *, archive: bool) -> ModelVersion:
    """Moves a version as the policy allows. Canary and Production hold one version, whatever `archive` says; with it
    the others in Staging are archived afterwards, one by one.
    """
    if archive and stage not in ("Staging", "Canary", "Production"):
        raise InvalidRequest(f"archive_existing_versions: {stage} is no stage of which the others could be archived")
    moved = desk.rules.promote(name, number, stage=stage, row_version=None, call=desk.call())
    if archive and stage == "Staging":
        here = (Where(field="name", operator="=", value=name), Where(field="stage", operator="=", value=stage))
        for other in desk.rules.search_versions(VersionQuery(where=here, limit=MAX_PAGE)).items:
            if other.version != number:
                desk.rules.promote(name, other.version, stage="Archived", row_version=None, call=desk.fresh())
    return moved
