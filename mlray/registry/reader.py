"""What of a registry can be looked at: versions, what is said of them, their files, and who did what."""

import builtins
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlray.errors import CorruptArtifact, MlrayError, PickleRefused, SchemaError, UnknownName
from mlray.registry.artifacts import ArtifactStore
from mlray.registry.card import Card, card_of, evidence_of
from mlray.registry.card_text import card_text
from mlray.registry.gates import gates_of
from mlray.registry.lineage import Tree, lineage_of
from mlray.registry.manifest import Manifest
from mlray.registry.model_registry import ModelRegistry
from mlray.registry.model_version import ModelVersion, RegisteredModel
from mlray.registry.people import Approval
from mlray.registry.pickles import RECORDED
from mlray.registry.policy import Policy
from mlray.registry.query import ModelQuery, Page, VersionQuery, Where

PAGE = 1000


class Reader:
    """Versions of models by name, and their checkpoints by content. Nothing here changes anything."""

    def __init__(self, rules: ModelRegistry, artifacts: ArtifactStore) -> None:
        self._rules = rules
        self._artifacts = artifacts

    def get(self, reference: str) -> ModelVersion:
        """The version that `flights/3` or `flights@candidate` names."""
        return self._rules.get(reference)

    def list(self, name: str | None = None) -> builtins.list[ModelVersion]:
        """The versions of one model, or of all, by name and number; all at once: `each` gives one after the other."""
        if name is not None:
            self._rules.model(name)
        return builtins.list(self.each(name))

    def each(self, name: str | None = None, *, service: str | None = None) -> Iterator[ModelVersion]:
        """The versions of one model, or of all, by name and number, fetched page by page; `service`: only those whose
        model reads this feature service.
        """
        of_model = () if name is None else (Where(field="name", operator="=", value=name),)
        of_service = () if service is None else (Where(field="service", operator="=", value=service),)
        query = VersionQuery(where=of_model + of_service, limit=PAGE)
        while True:
            page = self._rules.search_versions(query)
            yield from page.items
            if page.next_page_token is None:
                return
            query = replace(query, page_token=page.next_page_token)

    def search(self, query: VersionQuery) -> Page[ModelVersion]:
        """A page of the versions that a query asks for."""
        return self._rules.search_versions(query)

    def search_models(self, query: ModelQuery) -> Page[RegisteredModel]:
        """A page of the models that a query asks for."""
        return self._rules.search_models(query)

    def model(self, name: str) -> RegisteredModel:
        """A model, what is said about it and where its aliases point."""
        return self._rules.model(name)

    def models(self) -> builtins.list[str]:
        """The names of all models, sorted."""
        return self._rules.models()

    def approvals(self, version: ModelVersion | str) -> builtins.list[Approval]:
        """All approvals of a version, oldest first; `void` says why one does not count now."""
        known = self._known(version)
        return self._rules.approvals(known.name, known.version)

    def lineage(self, version: ModelVersion | str) -> Tree:
        """Where a version comes from, down to Delta versions and code, and what gates and people say of it."""
        known = self._known(version)
        manifest = self._artifacts.manifest(known.digest) if known.verified else Manifest(())
        gates = gates_of(self._artifacts, manifest, known.run_id)
        with _as_a_run_writes(known):
            return lineage_of(known, gates, self.approvals(known))

    def card(self, version: ModelVersion | str) -> Card:
        """The model card of a version, from what the run, the gates and people said; its artifact is verified."""
        known = self._known(version)
        manifest = self._artifacts.manifest(known.digest) if known.digest else Manifest(())
        gates = gates_of(self._artifacts, manifest, known.run_id)
        text, evidence = card_text(self._artifacts, manifest), evidence_of(self._artifacts, manifest)
        with _as_a_run_writes(known):
            return card_of(known, text, gates, evidence, self.approvals(known))

    def policy(self) -> Policy:
        """The policy in force."""
        return self._rules.policy()

    def download(self, version: ModelVersion | str, directory: str | Path) -> Path:
        """A copy of the checkpoint at `directory`, every byte verified; it appears whole or not at all.

        A directory that already holds this checkpoint is verified and kept. CorruptArtifact names the file, the
        SHA-256 wanted and the one got.
        """
        known = self._known(version)
        if not known.verified:
            raise UnknownName(
                f"{known.reference} was registered from {known.source}, and its bytes are not in the artifact store; "
                "get them there, and register the checkpoint itself"
            )
        try:
            return self._artifacts.download(known.digest, directory)
        except (CorruptArtifact, UnknownName) as error:
            raise CorruptArtifact(f"{known.reference}: {error}") from error

    def unpickle(self, version: ModelVersion | str, file: str, *, allow_pickle: bool = False) -> Any:
        """What a pickle in the checkpoint of a version holds, its bytes verified. It runs the code in it: PickleRefused
        unless `allow_pickle` says that this is wanted, and was said at registration.
        """
        known = self._known(version)
        if not allow_pickle or file not in known.provenance.get(RECORDED, ()):
            raise PickleRefused(
                f"{known.reference}: unpickling {file} runs whatever code it holds; pass allow_pickle=True, which "
                "registration needs too, if you trust who trained it"
            )
        with TemporaryDirectory() as folder, Path(self.download(known, folder), file).open("rb") as content:
            return pickle.load(content)

    def audit(self, name: str | None = None) -> builtins.list[dict[str, Any]]:
        """The changes of one model, or all of them, oldest first: who, what (`action`), `before`, `after`, `why`."""
        return self._rules.audit(name)

    def each_change(self, name: str | None = None) -> Iterator[dict[str, Any]]:
        """The same, one after the other, fetched page by page."""
        last = 0
        while True:
            page = self._rules.audit(name, after=last, limit=PAGE)
            yield from page
            if len(page) < PAGE:
                return
            last = page[-1]["sequence"]

    def check_audit(self) -> str | None:
        """What is wrong first with the chain of changes; None for a whole one."""
        return self._rules.check_audit()

    def _known(self, version: ModelVersion | str) -> ModelVersion:
        return self.get(version) if isinstance(version, str) else version


@contextmanager
def _as_a_run_writes(version: ModelVersion) -> Iterator[None]:
    """SchemaError where what is recorded of a version has another shape than a run of ours gives it."""
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        if isinstance(error, MlrayError):
            raise
        raise SchemaError(f"what is recorded of {version.reference} is not what a run writes: {error!r}") from error
