"""What follows where the controller of a training dies: another begins, as often as it may."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from mlray.errors import TrainingFailed
from mlray.training.checkpoint import RunDirectory
from mlray.training.workers import survived

pytestmark = pytest.mark.usefixtures("ray_cluster")


@ray.remote(num_cpus=0)
class Controller:
    def run(self) -> None:
        os._exit(1)


class Trainer:
    """As Ray Train's: `fit` waits for an actor, which dies while `deaths` are left."""

    def __init__(self, deaths: list[str]) -> None:
        self.deaths = deaths

    def fit(self) -> Any:
        if self.deaths:
            self.deaths.pop()
            ray.get(Controller.remote().run.remote())  # type: ignore[attr-defined]
        return SimpleNamespace(return_value=25)


def survive(folder: Path, deaths: list[str]) -> Any:
    """With one death allowed."""
    directory = RunDirectory(folder / "grown")
    reached = "round 7; XGBoostTrainer.Config"
    return survived(lambda: Trainer(deaths), directory, allowed=1, reached=lambda: reached)


def test_a_controller_that_dies_is_followed_by_another(tmp_path: Path) -> None:
    assert survive(tmp_path, ["once"]) == 25


def test_one_that_dies_too_often_is_one_error_that_says_how_to_go_on(tmp_path: Path) -> None:
    deaths = ["once", "twice", "thrice"]
    message = (
        r"the workers of run 'grown' were lost more than 1 times \(max_failures\), after round 7; "
        r"XGBoostTrainer.Config\(run='grown'\) goes on from there; the last reason: The actor died"
    )
    with pytest.raises(TrainingFailed, match=message):
        survive(tmp_path, deaths)
    assert deaths == ["once"]
