"""One shop for all tests that only read it, and a client over an application in this process."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from real_port import served
from shop import NOON, Connect, Shop, open_shop

from mlray.serving.config import Config
from mlray.serving.prediction_log import PredictionLog
from mlray.serving.server import create_app


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Nobody changes it."""
    opened = open_shop(tmp_path_factory.mktemp("shop"))
    yield opened
    opened.store.close()


@pytest.fixture
def connect(shop: Shop, tmp_path: Path) -> Iterator[Connect]:
    with ExitStack() as running:

        def client(log: PredictionLog | None = None, of: Shop = shop, **settings: Any) -> httpx.Client:
            config = Config(**{"allow_at": True, **settings})
            own = log or PredictionLog(f"{tmp_path}/predictions", seconds=0.05)
            app = create_app({"fraud": of.predictor()}, own, config, clock=lambda: int(NOON.timestamp() * 1e6))
            return running.enter_context(served(app))

        yield client
