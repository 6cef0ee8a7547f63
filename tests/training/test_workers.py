"""How many workers there are, and what follows where they, their controller or their rows are lost."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.train

from mlray.errors import ConfigError, TrainingFailed
from mlray.training import feed
from mlray.training.checkpoint import RunDirectory
from mlray.training.config import Resources
from mlray.training.feed import Part
from mlray.training.group import Group
from mlray.training.model import Signature
from mlray.training.preprocessing import Preprocessing
from mlray.training.sklearn_trainer import fit_task
from mlray.training.workers import Job, check_remade, failures, run, staff, survived
from tests.training.made import config

pytestmark = pytest.mark.usefixtures("ray_cluster")

FIXED, ELASTIC = Resources(max_failures=1), Resources(workers=(1, 8), max_failures=1)


@ray.remote(num_cpus=0)
class Controller:
    def run(self) -> None:
        os._exit(1)


class Trainer:
    """As Ray Train's: `fit` waits for an actor, which dies while `deaths` are left; or tells of workers that did."""

    def __init__(self, deaths: list[str]) -> None:
        self.deaths = deaths

    def fit(self) -> Any:
        match self.deaths.pop() if self.deaths else "nobody":
            case "a worker":
                raise ray.train.TrainingFailedError("a worker died")
            case "the controller":
                ray.get(Controller.remote().run.remote())  # type: ignore[attr-defined]
        return SimpleNamespace(return_value=25)


def survive(folder: Path, deaths: list[str], resources: Resources = FIXED) -> Any:
    """With one death allowed."""
    directory = RunDirectory(folder / "grown")
    reached = "round 7; XGBoostTrainer.Config"
    return survived(lambda: Trainer(deaths), directory, resources, reached=lambda: reached)


def test_a_controller_that_dies_is_followed_by_another(tmp_path: Path) -> None:
    assert survive(tmp_path, ["the controller"]) == 25


def test_one_that_dies_too_often_is_one_error_that_says_how_to_go_on(tmp_path: Path) -> None:
    deaths = ["the controller"] * 3
    message = (
        r"the workers of run 'grown' were lost more than 1 times \(max_failures\), after round 7; "
        r"XGBoostTrainer.Config\(run='grown'\) goes on from there; the last reason: The actor died"
    )
    with pytest.raises(TrainingFailed, match=message):
        survive(tmp_path, deaths)
    assert len(deaths) == 1


def test_lost_workers_are_begun_again_by_ray_and_of_an_elastic_run_by_its_driver_which_counts_anew(
    tmp_path: Path,
) -> None:
    assert (failures(FIXED).max_failures, failures(ELASTIC).max_failures) == (1, 0)
    assert survive(tmp_path, ["a worker"], ELASTIC) == 25
    for resources, deaths in ((FIXED, ["a worker"]), (ELASTIC, ["a worker"] * 2)):
        with pytest.raises(TrainingFailed, match="the last reason: a worker died"):
            survive(tmp_path, deaths, resources)


def test_an_elastic_run_leaves_its_data_a_cpu_and_takes_no_more_gpus_than_there_are() -> None:
    three = Resources(workers=(1, 8), cpus_per_worker=1.5)
    assert staff(three, {"CPU": 5.5}, gpu=False) == (1, 3)
    assert staff(three, {"CPU": 5.4}, gpu=False) == (1, 2)
    assert staff(three, {"CPU": 64.0}, gpu=False) == (1, 8)
    assert staff(three, {"CPU": 64.0, "GPU": 2.0}, gpu=True) == (1, 2)
    assert staff(Resources(workers=(2, 8)), {"CPU": 1.0}, gpu=False) == (2, 2)  # for which Ray then waits
    assert staff(FIXED, {"CPU": 1.0}, gpu=False) == 2


@ray.remote(resources={"a node that is gone": 1})
def rows_of_a_node_that_is_gone() -> None:
    """Which no node can run."""


def test_rows_that_nobody_can_make_again_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "PATIENCE", 0.1)
    part, asked = Part((rows_of_a_node_that_is_gone.remote(),), 5), []  # type: ignore[attr-defined]

    def late() -> None:
        asked.append(len(asked))
        check_remade(Resources(cpus_per_worker=50), len(asked) - 1)

    with pytest.raises(RuntimeError, match=r"1 workers of 50 CPUs hold 50 of the \d+ that are left, and that takes 1"):
        list(part.stream(late))
    assert asked == [0, 1]
    ray.cancel(part.blocks[0])


def test_storage_that_a_worker_does_not_see_is_said_and_not_trained_into(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "r")
    job = Job(
        config=config(tmp_path, run="r"),
        preprocessing=Preprocessing(numbers=(), texts=()),
        signature=Signature(inputs={}, label="bought"),
        parts={},
        directory=directory,
    )
    found = run(job, Group())
    assert isinstance(found, ConfigError)
    assert str(found).startswith(f"training: a worker does not find {directory.path}, which the driver has made;")
    fit: Any = fit_task
    with pytest.raises(ConfigError, match="storage must be a directory that every node sees"):
        ray.get(fit.remote(None, None, None, None, directory.model))
