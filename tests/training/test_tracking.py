"""A run as an MLflow server has it afterwards; and what a server that is away does to a run: nothing."""

import socket
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mlray.errors import ConfigError
from mlray.training.config import Tracking, TrainerConfig
from mlray.training.launch import train
from mlray.training.sklearn_trainer import SklearnTrainer
from mlray.training.tracking import params, tracked
from tests.training.made import SPLIT, config, in_blocks, table, weights
from tests.training.mlflow_server import mlflow_server

DATA = table(2_000)
NOBODY = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """MLflow's client of a server of its own; `server.uri` is where that is."""
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as uri, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        client: Any = MlflowClient(tracking_uri=uri)
        client.uri = uri
        yield client


def tracking(uri: str, experiment: str = "shop", **settings: Any) -> dict[str, Any]:
    return {"tracking": {"uri": uri, "experiment": experiment, **settings}}


def runs(server: Any, experiment: str) -> list[Any]:
    found = server.get_experiment_by_name(experiment)
    return list(server.search_runs([found.experiment_id]))


def by_epoch(server: Any, run: Any, metric: str) -> dict[int, float]:
    """Each value that the server was told, by its step."""
    told = server.get_metric_history(run.info.run_id, metric)
    assert len({one.step for one in told}) == len(told)
    return {one.step: one.value for one in told}


@pytest.mark.usefixtures("ray_cluster")
def test_params_metrics_data_and_model_of_a_run_stand_on_the_server(server: Any, tmp_path: Path) -> None:
    settings = config(tmp_path, run="told", workers=0, epochs=2, **tracking(server.uri))
    run = train(settings, in_blocks(DATA))

    [there] = runs(server, "shop")
    assert (there.info.run_name, there.info.status, there.data.tags["mlray.run"]) == ("told", "FINISHED", "told")
    assert there.data.params["optimizer.learning_rate"] == "0.003"
    assert there.data.params["split.train"] == SPLIT.train.isoformat()
    assert by_epoch(server, there, "validation_auc") == {int(e["epoch"]): e["validation_auc"] for e in run.history}
    assert there.data.metrics["test_auc"] == run.metrics["test_auc"]
    [data] = there.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("shop", "of this table")
    assert '"tables": {"shop": 4}' in data.dataset.source
    fetched = Path(server.download_artifacts(there.info.run_id, "model", str(tmp_path)))
    assert (fetched / "model.safetensors").read_bytes() == weights(tmp_path / "told")


@pytest.mark.usefixtures("ray_cluster")
def test_a_run_that_goes_on_is_the_same_one_there_and_is_told_what_was_missed(server: Any, tmp_path: Path) -> None:
    #  epochs   |1---2|         told to nobody
    #           |     |3|       told, with those before
    #           |       |4|     told to the run that is there
    short: dict[str, Any] = {"run": "longer", "workers": 0, "patience": None}
    train(config(tmp_path, epochs=2, **short, **tracking(NOBODY)), in_blocks(DATA))
    for epochs in (3, 4):
        run = train(config(tmp_path, epochs=epochs, **short, **tracking(server.uri, "longer")), in_blocks(DATA))

    [there] = runs(server, "longer")
    assert by_epoch(server, there, "train_loss") == {int(e["epoch"]): e["train_loss"] for e in run.history}
    assert there.data.params["epochs"] == "3"


@pytest.mark.usefixtures("ray_cluster")
def test_a_server_that_is_away_changes_no_bit_and_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(config(tmp_path, run="quiet", workers=0), in_blocks(DATA))
    run = train(config(tmp_path, run="away", workers=0, **tracking(NOBODY)), in_blocks(DATA))

    assert weights(tmp_path / "away") == weights(tmp_path / "quiet")
    assert len(run.history) == 3
    assert f"MLflow at {NOBODY} was not told of run 'away' beyond epoch 0: " in caplog.text
    assert f"all of it is in {tmp_path}/away" in caplog.text


def test_a_gateway_in_the_place_of_a_server_is_not_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Gateway(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(503)

    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as gateway:
        threading.Thread(target=gateway.serve_forever).start()
        began = time.monotonic()
        with tracked(Tracking(uri=f"http://127.0.0.1:{gateway.server_port}", wait_seconds=15), tmp_path, {}, tuple):
            pass
        gateway.shutdown()
    assert time.monotonic() - began < 10
    assert "answers 503 Service Unavailable" in caplog.text


def test_a_server_that_does_not_answer_is_not_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        to = Tracking(uri=f"http://127.0.0.1:{silent.getsockname()[1]}", wait_seconds=0.1)
        began = time.monotonic()
        with tracked(to, tmp_path, {}, tuple):
            pass
        assert time.monotonic() - began < 2
        assert "it took more than 0.1 s (wait_seconds)" in caplog.text


def test_rounds_of_trees_are_told_and_a_run_that_raised_has_failed(server: Any, tmp_path: Path) -> None:
    rounds = tuple({"round": float(i), "validation_log_loss": 1 / i} for i in range(1, 301))
    with pytest.raises(KeyError), tracked(Tracking(uri=server.uri, experiment="trees"), tmp_path, {}, lambda: rounds):
        raise KeyError
    [there] = runs(server, "trees")
    assert there.info.status == "FAILED"
    assert by_epoch(server, there, "validation_log_loss") == {i: 1 / i for i in range(1, 301)}


@pytest.mark.parametrize(("uri", "message"), [
    ("mlruns", "tracking.uri is 'mlruns'; it must be http://host:port"),
    ("https://ana:secret@host", "must be without a password, which goes into MLFLOW_TRACKING_PASSWORD"),
])
def test_a_server_that_cannot_be_named_so_is_refused(uri: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        Tracking(uri=uri)
    assert "secret" not in str(refused.value)


def test_where_a_run_is_told_does_not_change_which_run_it_is() -> None:
    text = f'storage = "r"\nsplit = {{train = {SPLIT.train}, validation = {SPLIT.validation}, test = {SPLIT.test}}}\n'
    plain = TrainerConfig.from_json(tomllib.loads(text))
    told = TrainerConfig.from_json(tomllib.loads(f'{text}[tracking]\nuri = "{NOBODY}"\nexperiment = "shop"\n'))
    trees = SklearnTrainer.Config(split=SPLIT, storage="r", model="a:b", tracking={"uri": NOBODY})
    assert told.tracking == Tracking(uri=NOBODY, experiment="shop")
    assert (told.identity(), told.outcome()) == (plain.identity(), plain.outcome())
    assert (trees.tracking.uri, "tracking" in trees.outcome()) == (NOBODY, False)


def test_settings_are_parameters_by_section(tmp_path: Path) -> None:
    found = params(config(tmp_path, class_weights={"1": 2.0}, ignore=("rate", "visits")).to_json())
    assert (found["epochs"], found["network.hidden"], found["sampling.ignore"]) == ("3", "[32]", '["rate", "visits"]')
    assert found["sampling.class_weights"] == '{"1": 2.0}'
    assert "schedule" not in found


def test_no_thread_stays_where_a_run_has_been_told(server: Any, tmp_path: Path) -> None:
    with tracked(Tracking(uri=server.uri), tmp_path, {}, tuple):
        assert "mlflow" in {thread.name for thread in threading.enumerate()}
    assert "mlflow" not in {thread.name for thread in threading.enumerate()}


def test_without_the_package_it_says_which_extra_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with (
        pytest.raises(ConfigError, match=r"pip install 'mlray\[mlflow\]'"),
        tracked(Tracking(uri=NOBODY), tmp_path, {}, tuple),
    ):
        pass
