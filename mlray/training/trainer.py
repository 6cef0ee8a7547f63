"""The training loop, as each worker runs it. `train` in launch.py starts the workers and gives them their data."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import torch
from deltalake.exceptions import DeltaError
from safetensors import SafetensorError
from torch import Tensor

from mlray.errors import ConfigError, CorruptArtifact, TrainingFailed
from mlray.training.checkpoint import History, Progress, RunDirectory, Snapshot, best_epochs, is_over
from mlray.training.config import TrainerConfig
from mlray.training.divergence import suspect, worst
from mlray.training.feed import Rows, Stream, ahead, batches, share
from mlray.training.group import Group
from mlray.training.model import Model, Signature, load_model
from mlray.training.network import Features, NetworkScorer
from mlray.training.optimization import Gradients, advance, build_optimizer, build_schedule
from mlray.training.preprocessing import Preprocessing
from mlray.training.saver import Saver
from mlray.training.status import EVERY_SECONDS, Status
from mlray.training.step_log import Step, StepLog

OF_ONE_EPOCH = ("epoch", "step", "seconds", "waited", "rows_per_second")


class Trainer:
    """Trains one model on the rows of `streams`: part name -> a function that streams the part in its order.

    The same config, rows and world give the same weights to the bit on CPU, whatever was interrupted in between: every
    random draw is a function of (seed, epoch, batch, rank), and a run goes on from a checkpoint or begins with the
    seed. Without dropout, one worker and several agree but for the rounding of float32 sums.
    """

    Config: TypeAlias = TrainerConfig

    def __init__(
        self,
        config: TrainerConfig,
        preprocessing: Preprocessing,
        signature: Signature,
        streams: Mapping[str, Stream],
        rows: Mapping[str, int],
        directory: RunDirectory,
        *,
        group: Group = Group(),  # noqa: B008 - immutable
        report: Callable[[dict[str, float]], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.preprocessing = preprocessing
        self.signature = signature
        self.streams = streams
        self.rows = rows
        self.directory = directory
        self.group = group
        self.report = report
        self.clock = clock
        self.task = signature.known_task
        torch.manual_seed(config.seed)
        features = Features.of(preprocessing, self.task)
        scorer = NetworkScorer.build(config.network.model, config.network.settings, features)
        self.scorer = scorer.learned(rows.labels for rows in streams["train"]())
        self.network = self.scorer.module.to(group.device)
        self.forward = compiled(self.network, group.device) if config.precision.compile else self.network
        self.gradients = Gradients(self.network.parameters())
        self.optimizer = build_optimizer(config.optimizer, self.network.parameters())
        self.schedule = build_schedule(config.schedule, self.optimizer)
        self.progress = Progress()
        self.saver = Saver()
        self.log = StepLog(directory.steps)
        self.unlogged: list[Step] = []
        self.rows_done, self.waited = 0, 0.0
        self.saved_at = self.told_at = self.began = self.epoch_began = clock()

    def train(self) -> dict[str, float]:
        """From the latest checkpoint to the last epoch; the metrics of the best one, and of its model on the test."""
        with self.saver:
            self.resume()
            while not self.is_over(self.progress.history):
                for batch in self.batches():
                    self.step(batch)
                    if self.is_due():
                        self.save()
                self.end_epoch()
                self.save()
                self.report(self.progress.history[-1])
            return self.finish()

    def resume(self) -> None:
        """Goes on after the latest checkpoint, if there is one. Rank 0 says which it is; one that is dropped meanwhile,
        by a worker that outlived its controller, was dropped for a newer one. ConfigError where the run went on beyond
        what is asked for.
        """
        step = self.group.agree(self.directory.latest())
        while self.group.in_trouble(trouble := self.restore(step)):
            before, step = step, self.group.agree(self.directory.latest())
            if step == before:
                raise trouble or CorruptArtifact(f"another worker cannot read the checkpoint of step {step}")
        self.check_length()
        if self.group.rank == 0:
            self.directory.path.mkdir(parents=True, exist_ok=True)
            self.log.forget_after(step)
        self.saved_at = self.began = self.epoch_began = self.clock()

    def restore(self, step: int) -> CorruptArtifact | None:
        """Brings all to the checkpoint of `step`; what kept it from that."""
        if step:
            try:
                self.progress = self.directory.restore(step, self.network, self.optimizer, self.schedule)
            except CorruptArtifact as error:
                return error
        return None

    def check_length(self) -> None:
        """ConfigError where a run of these settings would have ended before: its checkpoints are no longer kept."""
        if any(self.is_over(self.progress.history[:end]) for end in range(1, self.progress.epoch)):
            raise ConfigError(
                f"the run at {self.directory.path} has {self.progress.epoch} epochs already, and would have ended "
                f"before with epochs={self.config.epochs}, patience={self.config.patience}; ask for as many, or choose "
                "another name with Trainer.Config(run=...)"
            )

    def is_over(self, history: History) -> bool:
        """Whether a run of this history has ended."""
        return is_over(history, self.metric, self.greater, self.config.epochs, self.config.patience)

    def batches(self) -> Iterator[Rows]:
        """What is left of this epoch, this rank's rows of each batch."""
        sampling = self.config.sampling
        drawn = batches(
            self.streams["train"],
            size=sampling.batch_size,
            shuffle_rows=sampling.shuffle_rows,
            seed=(self.config.seed, self.progress.epoch + 1),
            rank=self.group.rank,
            world=self.group.world,
            start=self.progress.batch,
        )
        return ahead(drawn, sampling.prefetch)

    def step(self, batch: Rows) -> None:
        """One batch: its gradients, summed over the ranks, and the weights moved by them."""
        asked, at = self.clock(), self.progress
        self.differentiate(batch)
        loss, norm, troubled = self.gradients.share(self.group, self.saver.failed)
        if troubled:
            self.give_up()
        if not np.isfinite(loss + norm):
            raise TrainingFailed(self.diverged(loss, norm, batch))
        self.gradients.clip(norm, self.config.optimizer.clip)
        rate = self.optimizer.param_groups[0]["lr"]
        self.optimizer.step()
        if self.config.schedule and self.config.schedule.per == "step":
            advance(self.schedule, loss)
        size = self.config.sampling.batch_size
        rows = min(size, self.rows["train"] - at.batch * size)
        self.progress = replace(at, batch=at.batch + 1, step=at.step + 1, loss=at.loss + loss * size)
        began, self.began = self.began, self.clock()
        times = (self.began - began, asked - began)
        self.unlogged.append(Step(at.step + 1, at.epoch + 1, rows, loss * size / rows, norm, rate, *times))
        self.rows_done, self.waited = self.rows_done + rows, self.waited + times[1]
        if self.group.rank == 0 and self.began - self.told_at >= EVERY_SECONDS:
            self.tell()

    def differentiate(self, batch: Rows) -> None:
        """The gradients of this rank's rows, of one batch the same each time."""
        at = self.progress
        self.group.draw_from(derive(self.config.seed, at.epoch + 1, at.batch, self.group.rank))
        self.network.train()
        self.gradients.clear()
        for piece in pieces(batch, self.config.optimizer.accumulate):
            self.gradients.add_loss(self.loss(piece))

    def loss(self, batch: Rows) -> Tensor:
        """These rows' part of the mean loss over `batch_size` rows; a short last batch weighs less in proportion."""
        return self.losses(batch).sum() / self.config.sampling.batch_size

    def losses(self, batch: Rows) -> Tensor:
        """(n,) one per row, by its weight."""
        device = self.group.device
        numbers, codes, labels, weights = (
            torch.from_numpy(values).to(device) for values in (batch.numbers, batch.codes, batch.labels, batch.weights)
        )
        with self.autocast():
            outputs = self.forward(numbers, codes)
        return self.scorer.losses(outputs.float(), labels) * weights

    def autocast(self) -> AbstractContextManager[Any]:
        if self.config.precision.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.group.device.type, dtype=torch.bfloat16)

    def end_epoch(self) -> None:
        """Scores the validation part and adds the epoch to the history."""
        at, epoch = self.progress, self.progress.epoch + 1
        passed = self.clock() - self.epoch_began
        metrics: dict[str, float] = {"epoch": epoch, "step": at.step, "train_loss": at.loss / self.rows["train"]}
        metrics |= self.score(self.scorer.scoring(self.group.device), "validation")
        if self.metric not in metrics:
            known = [name.removeprefix("validation_") for name in metrics if name.startswith("validation_")]
            raise ConfigError.unknown_key("training: checkpoint.metric", self.metric.removeprefix("validation_"), known)
        if self.config.schedule and self.config.schedule.per == "epoch":
            advance(self.schedule, metrics["train_loss"])
        metrics |= {"waited": self.waited, "rows_per_second": self.rows_done / passed}
        metrics["seconds"] = self.clock() - self.epoch_began
        self.progress = Progress(epoch=epoch, step=at.step, history=(*at.history, metrics))
        self.rows_done, self.waited = 0, 0.0
        self.epoch_began = self.clock()

    def tell(self) -> None:
        """How far this is, for those who watch."""
        at, size, rows = self.progress, self.config.sampling.batch_size, self.rows["train"]
        done, speed = min(at.batch * size, rows), self.rows_done / (self.began - self.epoch_began)
        Status(
            epoch=at.epoch + 1,
            epochs=self.config.epochs,
            batch=at.batch,
            batches=-(-rows // size),
            loss=at.loss / done,
            rows_per_second=speed,
            seconds_left=((self.config.epochs - at.epoch) * rows - done) / speed,
        ).write(self.directory.status)
        self.told_at = self.began

    def score(self, scorer: NetworkScorer, part: str) -> dict[str, float]:
        """Metrics over every row of the part: each rank scores its share, all see all scores."""
        mine = [np.zeros((1 + self.task.outputs, 0))]
        for rows in share(self.streams[part], rank=self.group.rank, world=self.group.world):
            mine.append(np.vstack([rows.labels, scorer.scores(rows.numbers, rows.codes).T]))
        labels, *scores = self.group.gather(np.concatenate(mine, axis=1), self.rows[part])
        found = scorer.metrics(labels, scores[0] if self.task.outputs == 1 else np.stack(scores, axis=1))
        return {f"{part}_{name}": value for name, value in found.items()}

    def is_due(self) -> bool:
        """Whether a checkpoint is, within an epoch. Its end makes one anyway."""
        every, at = self.config.checkpoint, self.progress
        if self.group.rank or at.batch * self.config.sampling.batch_size >= self.rows["train"]:
            return False
        late = every.seconds is not None and self.clock() - self.saved_at >= every.seconds
        return late or (every.steps is not None and at.step % every.steps == 0)

    def save(self) -> None:
        """Rank 0 sets a copy aside, which is written while the loop goes on."""
        steps, self.unlogged = self.unlogged, []
        if self.group.rank == 0:
            snapshot, best = self.snapshot(), {int(epoch["step"]) for epoch in self.best(self.config.checkpoint.keep)}
            self.saver.save(lambda: self.write(snapshot, best, steps))
            self.saved_at = self.clock()
        self.began = self.clock()

    def write(self, snapshot: Snapshot, best: set[int], steps: list[Step]) -> None:
        """The steps first: a resume drops those after its checkpoint, and would miss any before it."""
        with self.to_disk(f"the checkpoint of step {snapshot.progress.step}"):
            self.log.append(steps)
            self.directory.save(snapshot, best)

    @contextmanager
    def to_disk(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, SafetensorError, DeltaError) as error:
            free = shutil.disk_usage(self.directory.path).free / 1e9
            raise TrainingFailed(
                f"{what} cannot be written to {self.directory.path}: {error}; {free:.1f} GB are free there; "
                f"{self.kept()}, and the run goes on from there when there is room"
            ) from error

    def kept(self) -> str:
        """What there is to go on from."""
        step = self.directory.latest()
        return f"the checkpoint of step {step} is whole" if step else "there is no checkpoint yet"

    def snapshot(self) -> Snapshot:
        """A copy that the next step does not change."""
        return Snapshot(
            progress=self.progress,
            model=Model(self.scorer.copied(), self.preprocessing, self.signature),
            optimizer=copied(self.optimizer.state_dict()),
            schedule=None if self.schedule is None else copied(self.schedule.state_dict()),
        )

    def give_up(self) -> None:
        """Every rank learns of it in the same step: none waits for another that has left."""
        self.saver.wait()
        raise TrainingFailed("rank 0 cannot write its checkpoint")

    def settle(self) -> None:
        """Until what was to be written is on the disk."""
        if self.group.agree(int(not self.saver.settled())):
            self.give_up()

    def finish(self) -> dict[str, float]:
        """Scores the best epoch's model on the test part and publishes it."""
        self.settle()
        best = self.best(1)[0]
        model = load_model(self.directory.checkpoint(int(best["step"])))
        assert isinstance(model.scorer, NetworkScorer)
        model.network.to(self.group.device)
        metrics = best | self.score(model.scorer, "test")
        if self.group.rank == 0:
            self.saver.save(lambda: self.publish(int(best["step"])))
        self.settle()
        kept = {name: value for name, value in metrics.items() if name not in OF_ONE_EPOCH}
        return kept | {"best_epoch": best["epoch"], "epochs": self.progress.epoch}

    def publish(self, step: int) -> None:
        with self.to_disk("the model"):
            self.directory.publish(step)

    @property
    def metric(self) -> str:
        """By which an epoch is the best, as the history names it."""
        return f"validation_{self.config.checkpoint.metric or self.task.metric}"

    def best(self, count: int) -> list[dict[str, float]]:
        return best_epochs(self.progress.history, self.metric, self.greater, count)

    @property
    def greater(self) -> bool:
        """Whether more of the metric is better."""
        return self.task.greater(self.metric.removeprefix("validation_"))

    def diverged(self, loss: float, norm: float, batch: Rows) -> str:
        """What every rank says of it, by the rows of the rank that had it."""
        at, rate = self.progress, self.optimizer.param_groups[0]["lr"]
        self.saver.settled()  # what is being written counts
        what = f"the loss is {loss}" if not np.isfinite(loss) else f"the norm of the gradient is {norm}"
        self.differentiate(batch)
        with torch.no_grad():
            losses = self.losses(batch).cpu().numpy()
        wild = not torch.isfinite(self.gradients.flat).all()
        rank, found = worst(self.group, suspect(batch, losses, wild))
        largest = f"; the loss of {found.odd:.0f} rows of worker {rank} is not finite" if found.odd else ""
        if self.preprocessing.width:
            name = self.preprocessing.column_names()[int(found.column)]
            largest += f"; the largest scaled input is feature '{name}' = {found.value:g}"
        return (
            f"{what} in epoch {at.epoch + 1}, batch {at.batch} (rows {at.batch * self.config.sampling.batch_size} and "
            f"on){largest}; every input is finite, so lower learning_rate (now {rate:g}) or set clip; "
            f"{self.kept()}"
        )


def pieces(batch: Rows, count: int) -> Iterator[Rows]:
    """The batch in `count` runs of rows of about one length; empty ones are left out."""
    ends = np.linspace(0, len(batch), count + 1).astype(int)
    return (batch.take(slice(a, b)) for a, b in pairwise(ends) if a < b)


def copied(state: Any) -> Any:
    """A deep copy, its tensors on the CPU."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {key: copied(value) for key, value in state.items()}
    return [copied(value) for value in state] if isinstance(state, list | tuple) else state


def compiled(network: Any, device: torch.device) -> Any:
    """The network through torch.compile; ConfigError where the CPU has no compiler for it."""
    if device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise ConfigError(
            "training: compile needs a C++ compiler on each node (g++ or clang++); install one, or leave it"
        )
    return torch.compile(network, dynamic=True)


def derive(*numbers: int) -> int:
    """A 63-bit seed that is a hash of the numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
