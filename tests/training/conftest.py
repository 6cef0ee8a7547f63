from pathlib import Path

import pytest

from mlray.training.launch import train
from mlray.training.run import Run
from tests.training.made import PLAIN, config, in_blocks, table


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def undisturbed(ray_cluster: str, storage: Path) -> Run:  # noqa: ARG001
    """A training of two workers that nothing happens to."""
    return train(config(storage, run="undisturbed", **PLAIN), in_blocks(table(20_000)))
