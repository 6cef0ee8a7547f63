"""Where a version's bytes are, in MLflow's words: a URI that a client registers, and one that it fetches them from."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import PurePosixPath
from urllib.parse import unquote

from fastapi import Request

from mlray.errors import InvalidRequest
from mlray.registry.canonical import canonical_json, sha256_text
from mlray.registry.model_version import ModelVersion
from mlray.registry.query import Order, VersionQuery, Where
from mlray.registry.reference import Reference
from mlray.registry_server.desk import NOBODY, Desk

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
MAX_UNQUOTED = 8
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\#?]")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):[^:]")


def files_uri(request: Request, desk: Desk, version: ModelVersion) -> str:
    """Where a client gets the version's files: here, unless nobody has put their bytes here."""
    base = desk.config.url or str(request.base_url)
    return version.source or f"{base.rstrip('/')}{ARTIFACTS}/{version.name}/{version.version}"


def copied_version(source: str) -> Reference | None:
    """The version that `models:/fraud/3`, `models:/fraud@candidate` or `models:/fraud/Production` names; None for
    a URI of another kind.
    """
    scheme, _, rest = source.partition(":")
    return Reference.parse(rest.lstrip("/")) if scheme.lower() == "models" else None


def checked_source(source: str, run_id: str, schemes: tuple[str, ...]) -> str:
    """`source` itself; InvalidRequest for a URI outside the allowed schemes, with a path that goes up, however often it
    is quoted, or of another run than `run_id`.
    """
    found = _SCHEME.match(source)
    scheme = found[1] if found is not None else ""
    if scheme not in schemes:
        raise InvalidRequest(
            f"source {source[:200]!r}: a URI is due that starts with one of {', '.join(f'{s}:' for s in schemes)} or "
            "models:/NAME/VERSION; the server reads no path of its own"
        )
    path = source
    for _ in range(MAX_UNQUOTED):
        path, before = unquote(path), path
        if path == before:
            break
    else:
        raise InvalidRequest(f"source {source[:200]!r} is quoted more than {MAX_UNQUOTED} times")
    if ".." in PurePosixPath(path).parts or _FORBIDDEN.search(path):
        raise InvalidRequest(f"source {source[:200]!r}: '..', '#', '?', backslash and control characters are refused")
    run = path.partition(":")[2].strip("/").partition("/")[0]
    if scheme == "runs" and run_id and run != run_id:
        raise InvalidRequest(f"source {source[:200]!r} is of run {run!r}, not of run_id {run_id!r}")
    return source


@dataclass(frozen=True, kw_only=True)
class Creation:
    """What a client says when it creates a version. same: conditions that hold for what such a creation makes; copy_of:
    the version that it copies, whose labels come along.
    """

    name: str
    same: tuple[Where, ...]
    description: str
    tags: Mapping[str, str]
    copy_of: str = ""

    def earlier(self, desk: Desk) -> tuple[ModelVersion | None, str]:
        """An MLflow client repeats a creation whose answer it has not seen, and gives it no name. The version that it
        made a moment ago, if there is one; and a name for this creation that is the same for all that run at once.
        """
        newest = next(iter(desk.rules.search_versions(self._query()).items), None)
        now, window = desk.backend.clock(), desk.config.retry_seconds
        if newest is not None and now - newest.created_at < timedelta(seconds=window) and self._made(desk, newest):
            return newest, ""
        last = 0 if newest is None else newest.version
        said = [self.name, [vars(one) for one in self.same], self.description, dict(self.tags)]
        known = canonical_json([said, last, int(now.timestamp() // max(window, 1e-3)), desk.token])
        return None, f"mlflow-{sha256_text(known)}"

    def _made(self, desk: Desk, version: ModelVersion) -> bool:
        labels = (version.description, dict(version.tags)) == (self.description, dict(self.tags))
        same = version.provenance.get("copy_of", "") == self.copy_of and (labels or bool(self.copy_of))
        return same and version.author == desk.rules.whoami(desk.token).name.replace("os:", f"os:{NOBODY}", 1)

    def _query(self) -> VersionQuery:
        return VersionQuery(
            where=(Where(field="name", operator="=", value=self.name), *self.same),
            order_by=(Order(field="version", descending=True),),
            limit=1,
        )
