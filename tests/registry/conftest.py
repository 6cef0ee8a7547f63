"""Checkpoints, runs and registries to test with; a test sees only what it changes of them."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mlray.registry.client import Registry


@dataclass(frozen=True, kw_only=True)
class SomeRun:
    """A training run, as far as the registry looks at one."""

    checkpoint: str
    id: str = "run-1"
    metrics: dict[str, float] = field(default_factory=lambda: {"auc": 0.755})
    service: str = "flights"
    service_hash: str = "ab" * 32
    service_definition: str = '{"name": "flights"}'
    sources: dict[str, int] = field(default_factory=lambda: {"departures": 4})
    fingerprint: str = "cd" * 32
    spine: str = "lake/spine at version 2"
    features: tuple[str, ...] = ("count_1h", "delay_mean_1d")
    label: str = "is_late"
    config: dict[str, Any] = field(default_factory=lambda: {"epochs": 3, "learning_rate": 0.1})
    provenance: dict[str, Any] = field(default_factory=lambda: {"commit": None, "python": "3.11.7"})


MakeRun = Callable[..., SomeRun]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Makes a run whose checkpoint holds `weights`; other fields as named."""

    def make(weights: bytes = b"\x00\x01\x02", **fields: Any) -> SomeRun:
        checkpoint = tmp_path / f"checkpoint-{weights.hex()[:40]}"
        checkpoint.mkdir(exist_ok=True)
        (checkpoint / "model.safetensors").write_bytes(weights)
        (checkpoint / "signature.json").write_text(json.dumps({"inputs": {"count_1h": "int64"}, "label": "is_late"}))
        return SomeRun(checkpoint=str(checkpoint), **fields)

    return make


@pytest.fixture
def urls(tmp_path: Path) -> tuple[str, str]:
    """A database and an artifact store of this test's own."""
    return f"sqlite:///{tmp_path}/registry.db", str(tmp_path / "artifacts")


@pytest.fixture
def registry(urls: tuple[str, str]) -> Registry:
    """An empty registry in this process."""
    return Registry.connect(*urls, embedded=True)
