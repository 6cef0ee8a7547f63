"""Builds the training set of a model version anew, from what the version recorded, and says whether it is the same.

The same means: the same definition, versions of the tables and spine (the fingerprint), and the same features and
labels, row by row, computed now (the content; of versions that recorded one).
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from obstore.store import from_url

from mlray.errors import DefinitionError, MlrayError
from mlray.features.catalog import service_from_text, service_hash
from mlray.features.service import FeatureService
from mlray.offline import delta
from mlray.offline.content import content_digest
from mlray.offline.log import File
from mlray.offline.spine_store import again
from mlray.offline.training_set import TrainingSet, build
from mlray.registry.model_version import ModelVersion
from mlray.registry.provenance import capture

RECORDED, CONTENT = "training_set", "content"
"""In a version's provenance: `TrainingSet.recorded`, and the digest of the rows that were trained on."""


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """What came out. missing: why it cannot be built, by what is missing: a source, the spine, the record; then
    nothing was built. Digests are hexadecimal, content is None where the version recorded none. changed: what is
    different about the code and the environment, which decides nothing. training_set: what was built.
    """

    version: str
    missing: Mapping[str, str]
    fingerprint: str
    recorded_fingerprint: str
    content: str | None
    recorded_content: str | None
    rows: int
    recorded_rows: int
    changed: Mapping[str, str]
    training_set: TrainingSet | None = field(default=None, repr=False, compare=False)

    @property
    def same(self) -> bool:
        """Whether the training set was built, and is the recorded one."""
        return (
            not self.missing
            and self.fingerprint == self.recorded_fingerprint
            and self.rows == self.recorded_rows
            and self.recorded_content in (None, self.content)
        )


def reproduce(version: ModelVersion, lake: str) -> Reproduction:
    """Needs Ray. Every source's files are looked for before anything is built."""
    recorded = version.provenance.get(RECORDED)
    if not isinstance(recorded, Mapping):
        return _outcome(version, {"record": "the run did not record its spine; an earlier mlray trained it"})
    missing = dict(_missing(version, recorded, lake))
    if missing:
        return _outcome(version, missing)
    ts = _built(version, recorded, lake)
    content, rows = None, ts.count()
    if CONTENT in version.provenance:
        content, rows = content_digest(ts.dataset, [*version.features, version.label])
    return _outcome(version, {}, ts, content, rows)


def _missing(version: ModelVersion, recorded: Mapping[str, Any], lake: str) -> Iterator[tuple[str, str]]:
    """What it lacks to be built, by name."""
    try:
        service = _service(version)
    except (MlrayError, ValueError, KeyError, TypeError) as error:
        yield "feature service", str(error)
        return
    paths = {source.name: source.path for source in service.sources}
    for name, number in version.sources.items():
        if why := _table_lacks(lake, f"source {name}", paths[name], number, recorded["tables"].get(name, "")):
            yield f"source {name}", why
    spine = recorded["spine"]
    try:
        if "kept" in spine:
            again(spine, lake)
        elif why := _table_lacks(lake, "the spine", spine["path"], spine["version"], spine["table"]):
            yield "spine", why
    except MlrayError as error:
        yield "spine", str(error)


def _service(version: ModelVersion) -> FeatureService:
    service = service_from_text(version.service_definition)
    if service_hash(service) != version.service_hash:
        raise DefinitionError(
            f"{version.reference}: the recorded definition of {version.service} is not the one of hash "
            f"{version.service_hash[:12]} that it pins"
        )
    return service


def _table_lacks(lake: str, who: str, path: str, number: int, identity: str) -> str:
    """Why that version of a table cannot be read; empty where it can."""
    try:
        table = delta.table_at(delta.resolve(lake, path), who, number)
    except MlrayError as error:
        return str(error)
    if identity and table.id != identity:
        return f"at {table.path} lies another table than the one that was read: it was removed and made again"
    gone = [file for file in table.files if not _is_there(table.path, file)]
    if gone:
        return (
            f"{len(gone)} of {len(table.files)} files of {table.name} are gone, as VACUUM takes them; the first is "
            f"{gone[0].path}"
        )
    return ""


def _is_there(table: str, file: File) -> bool:
    if "://" not in table:
        return os.path.exists(file.path)
    folder, _, name = file.path.rpartition("/")
    try:
        from_url(folder).head(name)
    except FileNotFoundError:
        return False
    return True


def _built(version: ModelVersion, recorded: Mapping[str, Any], lake: str) -> TrainingSet:
    return build(
        _service(version),
        again(recorded["spine"], lake),
        lake=lake,
        label=recorded["label"],
        timestamp=recorded["timestamp"],
        versions=version.sources,
    )


def _outcome(
    version: ModelVersion, missing: Mapping[str, str], ts: TrainingSet | None = None, content: str | None = None,
    rows: int = 0,
) -> Reproduction:
    recorded = version.provenance.get(RECORDED) or {"spine": {"rows": 0}}
    return Reproduction(
        version=version.reference,
        missing=missing,
        fingerprint=ts.fingerprint if ts else "",
        recorded_fingerprint=version.fingerprint,
        content=content,
        recorded_content=version.provenance.get(CONTENT),
        rows=rows,
        recorded_rows=recorded["spine"]["rows"],
        changed=dict(_changed(version.provenance)),
        training_set=ts,
    )


def _changed(then: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    now = capture()
    for fact in ("commit", "lock_sha256", "python", "platform", "environment_sha256"):
        if then.get(fact) is not None and then[fact] != now[fact]:
            yield fact, f"was {then[fact]}, is {now[fact]}"
    for package, version in (then.get("packages") or {}).items():
        if now["packages"].get(package) != version:
            yield package, f"was {version}, is {now['packages'].get(package, 'not installed')}"
