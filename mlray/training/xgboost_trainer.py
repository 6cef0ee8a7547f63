"""XGBoost over Ray Train: each worker holds its share of the rows, the histograms of all are summed for every split.

The rounds come in chunks of `checkpoint_rounds`. A chunk begins from the bytes of the trees so far, with a seed of its
own, whether the chunk before has just ended or its workers were killed since; so a run ends with the same bytes,
whatever interrupted it, at the same number of workers. Where the rounds drew from one generator, nothing that XGBoost
saves would say how far that was (measured with subsample < 1).
"""

import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import ray.train

from mlray.errors import ConfigError, MlrayError, TrainingFailed
from mlray.training.checkpoint import RunDirectory, commit
from mlray.training.config import Resources
from mlray.training.design import Design
from mlray.training.feed import Part, share
from mlray.training.launch import TrainingData, begin, finished, tracking
from mlray.training.model import Model, Signature
from mlray.training.preprocessing import Preprocessing
from mlray.training.progress import OnEpoch, log_epoch
from mlray.training.run import Run
from mlray.training.tabular import TabularConfig, matrix_of, scores_of
from mlray.training.task import BINARY, MULTICLASS, REGRESSION, Task
from mlray.training.tracking import telling
from mlray.training.values import require
from mlray.training.workers import (
    check_remade,
    check_room,
    cluster,
    failures,
    reserved,
    staff,
    survived,
    watched,
)
from mlray.training.xgboost_rounds import Rounds

if TYPE_CHECKING:
    import xgboost

_TREES = {"eta": 0.1, "max_depth": 6}
_OBJECTIVES = {BINARY: "binary:logistic", MULTICLASS: "multi:softprob", REGRESSION: "reg:squarederror"}
_LOSSES = {BINARY: "logloss", MULTICLASS: "mlogloss", REGRESSION: "rmse"}
_NAMES = {BINARY: "log_loss", MULTICLASS: "log_loss", REGRESSION: "rmse"}
_OURS = ("seed", "nthread", "num_class", "eval_metric", "device", "seed_per_iteration")


class XGBoostTrainer:
    """Trains trees; see `Config`."""

    @dataclass(frozen=True, kw_only=True)
    class Config(TabularConfig):
        """arguments: XGBoost's parameters, such as {"max_depth": 6, "eta": 0.1, "subsample": 0.8}.

        rounds             trees, of several classes one for each
        patience           rounds without a better validation loss before the run stops; the best is kept. None: never
        checkpoint_rounds  rounds from one checkpoint to the next
        workers, cpus_per_worker, max_failures   as of `Trainer.Config`
        """

        model: str = "xgboost"
        rounds: int = 200
        patience: int | None = 20
        checkpoint_rounds: int = 20
        workers: int | tuple[int, int] = 2
        cpus_per_worker: float = 0.5
        max_failures: int = 3

        def __post_init__(self) -> None:
            super().__post_init__()
            require(self.model == "xgboost", "model", self.model, "'xgboost'")
            for name in ("rounds", "checkpoint_rounds"):
                require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
            object.__setattr__(self, "workers", self.resources.workers)
            require(self.resources.least >= 1, "workers", self.workers, "at least 1")
            require(self.patience is None or self.patience >= 1, "patience", self.patience, "at least 1, or None")
            for name in _OURS:
                given = self.arguments.get(name)
                require(name not in self.arguments, f"arguments['{name}']", given, "left out, for it is set")
            if "objective" in self.arguments:
                named = f"left out, or the task named as '{REGRESSION}'"
                require(self.task == REGRESSION, "arguments['objective']", self.arguments["objective"], named)

        @property
        def resources(self) -> Resources:
            return Resources(
                workers=self.workers, cpus_per_worker=self.cpus_per_worker, device="cpu", max_failures=self.max_failures
            )

        def outcome(self) -> dict[str, Any]:
            found = super().outcome()
            return {key: value for key, value in found.items() if key not in ("cpus_per_worker", "max_failures")}

        def identity(self) -> dict[str, Any]:
            found = super().identity()
            return {key: value for key, value in found.items() if key not in ("rounds", "patience")}

        def is_over(self, losses: Sequence[float]) -> bool:
            """Whether a run ends with these losses; asked where a chunk of rounds ends."""
            if not losses:
                return False
            return len(losses) >= self.rounds or (
                self.patience is not None and len(losses) - best(losses) >= self.patience
            )

        def check_length(self, losses: Sequence[float]) -> None:
            """ConfigError where a run of these settings would have ended before: its trees are no longer kept."""
            ends = range(self.checkpoint_rounds, len(losses), self.checkpoint_rounds)
            if len(losses) > self.rounds or any(self.is_over(losses[:end]) for end in ends):
                raise ConfigError(
                    f"training: the run has {len(losses)} rounds already, and would have ended before with "
                    f"rounds={self.rounds}, patience={self.patience}; ask for as many, or pass another name as run=..."
                )

        def parameters(self, task: Task, first: int) -> dict[str, Any]:
            """XGBoost's parameters for a chunk of rounds that begins with `first`."""
            seed = int(np.random.SeedSequence([self.seed, first]).generate_state(1)[0] >> 1)
            ours = {"seed": seed, "nthread": max(1, int(self.cpus_per_worker)), "eval_metric": _LOSSES[task.kind]}
            classes = {"num_class": len(task.classes)} if task.kind == MULTICLASS else {}
            return _TREES | {"objective": _OBJECTIVES[task.kind]} | dict(self.arguments) | ours | classes


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What every worker is given. model: where the model is published."""

    config: XGBoostTrainer.Config
    preprocessing: Preprocessing
    signature: Signature
    parts: Mapping[str, Part]
    rounds: Rounds
    model: Path

    @property
    def design(self) -> Design:
        return Design.of(self.preprocessing, one_hot=self.config.one_hot)


def train(config: XGBoostTrainer.Config, ts: TrainingData, *, on_epoch: OnEpoch = log_epoch) -> Run:
    """Trains on two workers or as many as are asked for; `on_epoch` is told of each round once it is on the disk.
    ConfigError without the extra 'xgboost', TrainingFailed where workers are lost too often.
    """
    check_installed()
    check_room(config.resources, cluster())
    begun = begin(config, ts, model="xgboost")
    task = begun.signature.known_task
    job = Job(
        config=config,
        preprocessing=begun.prepared.preprocessing,
        signature=begun.signature,
        parts=begun.prepared.parts,
        rounds=Rounds(path=begun.directory.path / "rounds", key=f"validation_{_NAMES[task.kind]}"),
        model=begun.directory.model,
    )
    with tracking(begun, config, job.rounds.history) as tracker:
        with watched(job.rounds, telling(tracker, on_epoch), lambda _: None):
            losses = fit(job, begun.directory)
        found = scores_of(job.model, job.parts) | {"rounds": float(len(losses)), "best_round": float(best(losses))}
        history = tuple({"round": i + 1.0, job.rounds.key: loss} for i, loss in enumerate(losses))
        return finished(begun, config, ts, found, history, tracker)


def check_installed() -> None:
    try:
        import xgboost  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"XGBoostTrainer needs a package: pip install 'mlray[xgboost]' ({error})") from error


def fit(job: Job, directory: RunDirectory) -> list[float]:
    """Runs the rounds on the workers; the validation loss after each."""
    found: list[float] | MlrayError = survived(
        lambda: ray_trainer(job),
        directory,
        job.config.resources,
        reached=lambda: f"round {job.rounds.latest()}; XGBoostTrainer.Config",
    )
    if isinstance(found, MlrayError):
        raise found
    return found


def ray_trainer(job: Job) -> Any:
    from ray.train.xgboost import XGBoostTrainer as RayXGBoost

    loop: Any = run_worker
    resources = job.config.resources
    workers: Any = staff(resources, cluster(), False)
    return RayXGBoost(
        loop,
        train_loop_config={"job": job},
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, resources_per_worker={"CPU": resources.cpus_per_worker}
        ),
        run_config=ray.train.RunConfig(
            name=f"ray-{uuid.uuid4().hex[:8]}",
            storage_path=str(job.model.parent),
            failure_config=failures(resources),
        ),
    )


def run_worker(settings: dict[str, Any]) -> list[float] | MlrayError:
    """The rounds in one worker; an error that would come again is given back, for Ray starts anew after what raises."""
    import xgboost

    job: Job = settings["job"]
    directory = RunDirectory(job.model.parent)
    if xgboost.collective.allreduce(np.array([float(not directory.is_seen())]), xgboost.collective.Op.SUM)[0]:
        return directory.unseen()
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    line = {"rank": rank, "pid": os.getpid(), "after_round": job.rounds.latest(), "placement_group": reserved()}
    with directory.workers.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    matrices = {part: share_of(job, part, rank, world) for part in ("train", "validation")}
    try:
        return boost(job, matrices["train"], matrices["validation"], first=rank == 0, report=ray.train.report)
    except MlrayError as error:
        return error


def share_of(job: Job, part: str, rank: int, world: int) -> "xgboost.DMatrix":
    """This worker's rows of a part."""
    import xgboost

    late = partial(check_remade, job.config.resources, world)
    blocks = list(share(partial(job.parts[part].stream, late), rank=rank, world=world))
    matrix, labels = matrix_of(blocks, job.design, np.float32), np.concatenate([rows.labels for rows in blocks])
    weights = np.concatenate([rows.weights for rows in blocks]) if part == "train" else None
    return xgboost.DMatrix(matrix, label=labels, weight=weights, nthread=1)


def boost(
    job: Job, train: "xgboost.DMatrix", validation: "xgboost.DMatrix", *, first: bool, report: Callable[[Any], None]
) -> list[float]:
    """From the newest checkpoint to the last round; the best rounds are published by the first worker. ConfigError
    where the run went on beyond what is asked for.
    """
    import xgboost

    config = job.config

    def begun_with(trees: bytes, rounds: int) -> xgboost.Booster:
        parameters = config.parameters(job.signature.known_task, rounds)
        return xgboost.Booster(parameters, [train, validation], model_file=bytearray(trees) if trees else None)

    if first:
        job.rounds.tidy()
    trees, losses = xgboost.collective.broadcast(job.rounds.restore() if first else (b"", []), 0)
    config.check_length(losses)
    booster = begun_with(trees, len(losses))
    while not config.is_over(losses):
        start = len(losses)
        booster = begun_with(trees, start)
        for number in range(start, min(start + config.checkpoint_rounds, config.rounds)):
            booster.update(train, number)
            losses.append(float(booster.eval(validation, "validation", number).rpartition(":")[2]))
            check_loss(losses)
        trees = bytes(booster.save_raw("ubj"))
        if first and len(losses) % config.checkpoint_rounds == 0:  # another end is not one of a longer run
            job.rounds.save(trees, losses)
        report({"round": len(losses), job.rounds.key: losses[-1]})
    if first:
        publish(job, booster[: best(losses)])
    report({"round": len(losses)})
    return losses


def publish(job: Job, booster: "xgboost.Booster") -> None:
    from mlray.training.xgboost_model import BoosterScorer

    scorer = BoosterScorer(booster, job.design, job.signature.known_task)
    shutil.rmtree(job.model, ignore_errors=True)
    commit(job.model, Model(scorer, job.preprocessing, job.signature).save)


def best(losses: Sequence[float]) -> int:
    """The number of rounds of the least loss, the fewest of equals."""
    return int(np.argmin(losses)) + 1


def check_loss(losses: Sequence[float]) -> None:
    if not np.isfinite(losses[-1]):
        raise TrainingFailed(
            f"the validation loss is {losses[-1]} after round {len(losses)}; lower eta, or choose another objective"
        )
