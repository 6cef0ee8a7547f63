"""The training loop, as each worker runs it. `train` in launch.py starts the workers and gives them their data."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from mlray.errors import ConfigError, TimeError, TrainingFailed
from mlray.training.checkpoint import History, RunDirectory, best_epoch
from mlray.training.evaluate import evaluate
from mlray.training.feed import Rows, Stream, batches, share
from mlray.training.group import Group
from mlray.training.model import Model, Signature, TabularMLP, load_model, probabilities, scoring
from mlray.training.preprocessing import Preprocessing

logger = logging.getLogger(__name__)

PARTS = ("train", "validation", "test")
SETTINGS_OF_THE_MACHINE = ("storage", "run", "epochs", "patience", "max_failures", "cpus_per_worker")


class Trainer:
    """Trains one model on the rows of `streams`: part name -> a function that streams the part in its order.

    The same config, rows and world give the same weights to the bit on CPU, whatever was interrupted in between: every
    random draw is a function of (seed, epoch, rank or window), and an epoch begins from a checkpoint or from the seed.
    Without dropout, one worker and several agree but for the rounding of float32 sums.
    """

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """`split` = (train_until, validation_until, test_until): rows go by their event time, each end is exclusive.

        storage         directory that every node sees; the run lies in `storage/<run>`
        run             name; an interrupted or shorter run of that name is continued; None: a new one
        patience        epochs without a better validation AUC before the run stops; None: never
        batch_size      rows of one step, over all workers
        shuffle_rows    rows permuted together, a multiple of batch_size; bounds a worker's memory
        cpus_per_worker logical CPUs, fractions allowed
        device          "cpu", "cuda", or "auto": cuda where the cluster has a GPU per worker
        max_failures    lost workers survived before the run gives up
        max_categories  of a text feature, the most frequent; the others count as unseen
        ignore          features that the model does not read
        min_auc         on the test rows; below it the run fails its gate 'evaluation', which the registry asks for
        """

        split: tuple[datetime, datetime, datetime]
        storage: str
        run: str | None = None
        seed: int = 0
        epochs: int = 10
        patience: int | None = 3
        batch_size: int = 1024
        shuffle_rows: int = 262_144
        learning_rate: float = 1e-3
        weight_decay: float = 1e-5
        hidden: tuple[int, ...] = (128, 64)
        dropout: float = 0.1
        max_categories: int = 10_000
        ignore: tuple[str, ...] = ()
        workers: int = 2
        cpus_per_worker: float = 0.5
        device: str = "auto"
        max_failures: int = 3
        min_auc: float = 0.5

        def __post_init__(self) -> None:
            check_split(self.split)
            for name in ("epochs", "batch_size", "shuffle_rows", "max_categories", "workers"):
                require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
            require(self.patience is None or self.patience >= 1, "patience", self.patience, "at least 1, or None")
            for name in ("seed", "max_failures", "weight_decay"):
                require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
            for name in ("learning_rate", "cpus_per_worker"):
                require(getattr(self, name) > 0, name, getattr(self, name), "more than 0")
            require(0 <= self.dropout < 1, "dropout", self.dropout, "in [0, 1)")
            require(0 <= self.min_auc <= 1, "min_auc", self.min_auc, "in [0, 1]")
            require(all(h >= 1 for h in self.hidden), "hidden", self.hidden, "widths of at least 1")
            require(self.device in ("auto", "cpu", "cuda"), "device", self.device, "'auto', 'cpu' or 'cuda'")
            require(
                self.shuffle_rows % self.batch_size == 0,
                "shuffle_rows",
                self.shuffle_rows,
                f"a multiple of batch_size, for example {-(-self.shuffle_rows // self.batch_size) * self.batch_size}",
            )
            require(
                self.run is None or (Path(self.run).name == self.run and not self.run.startswith(".")),
                "run",
                self.run,
                "a plain name, without '/' and without '.' in front",
            )

        def to_json(self) -> dict[str, Any]:
            """Plain JSON values; `from_json` gives an equal configuration back."""
            return asdict(self) | {
                "split": [until.astimezone(UTC).isoformat() for until in self.split],
                "hidden": list(self.hidden),
                "ignore": list(self.ignore),
            }

        @classmethod
        def from_json(cls, settings: Mapping[str, Any]) -> "Trainer.Config":
            """Also for a table of a TOML file; dates may be datetimes or ISO texts."""
            known = [field.name for field in fields(cls)]
            for key in settings:
                if key not in known:
                    raise ConfigError.unknown_key("training", key, known)
            for key in ("split", "storage"):
                require(key in settings, key, "nothing", "given")
            return cls(
                **{
                    **settings,
                    "split": tuple(map(instant, settings["split"])),
                    "hidden": tuple(settings.get("hidden", (128, 64))),
                    "ignore": tuple(settings.get("ignore", ())),
                }
            )

        def identity(self) -> dict[str, Any]:
            """The settings that a resumed run must share."""
            return {key: value for key, value in self.to_json().items() if key not in SETTINGS_OF_THE_MACHINE}

    def __init__(
        self,
        config: Config,
        preprocessing: Preprocessing,
        signature: Signature,
        streams: Mapping[str, Stream],
        rows: Mapping[str, int],
        directory: RunDirectory,
        *,
        group: Group = Group(),  # noqa: B008 - immutable
        report: Callable[[dict[str, float]], None] = lambda _: None,
    ) -> None:
        self.config = config
        self.preprocessing = preprocessing
        self.signature = signature
        self.streams = streams
        self.rows = rows
        self.directory = directory
        self.group = group
        self.report = report
        torch.manual_seed(config.seed)
        architecture = TabularMLP.Config(
            width=preprocessing.width, sizes=preprocessing.sizes, hidden=config.hidden, dropout=config.dropout
        )
        self.network = architecture.build().to(group.device)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.epoch = 0
        self.history: History = ()

    def train(self) -> dict[str, float]:
        """From the latest checkpoint to the last epoch; the metrics of the best one, and of its model on the test."""
        self.resume()
        while self.epoch < self.config.epochs and not self.is_over():
            began = time.monotonic()
            self.epoch += 1
            metrics = {"epoch": self.epoch, "train_loss": self.train_epoch()}
            metrics |= self.score(scoring(self.network, self.group.device), "validation")
            seconds = time.monotonic() - began
            metrics |= {"seconds": seconds, "rows_per_second": self.rows["train"] / seconds}
            self.history = (*self.history, metrics)
            self.checkpoint()
            self.report(metrics)
        return self.finish()

    def train_epoch(self) -> float:
        """One pass over the training part; the mean loss of its rows, as they were met."""
        torch.manual_seed(derive(self.config.seed, self.epoch, self.group.rank))
        self.network.train()
        total = 0.0
        for number, batch in enumerate(self.batches()):
            loss = self.loss(batch)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            shared = self.average_gradients(loss)
            if not np.isfinite(shared):
                raise TrainingFailed(self.diverged(number, shared, batch))
            self.optimizer.step()
            total += shared
        return total * self.config.batch_size / self.rows["train"]

    def loss(self, batch: Rows) -> Tensor:
        """This rank's part of the mean loss over `batch_size` rows; a short last batch weighs less in proportion."""
        device = self.group.device
        numbers = torch.from_numpy(batch.numbers).to(device)
        codes = torch.from_numpy(batch.codes).to(device)
        labels = torch.from_numpy(batch.labels).to(device)
        logits = self.network(numbers, codes)
        return binary_cross_entropy_with_logits(logits, labels, reduction="sum") / self.config.batch_size

    def average_gradients(self, loss: Tensor) -> float:
        """Sums gradients and loss over the ranks in one call; the sum of the losses.

        DistributedDataParallel reorders its buckets after the first step, which a resumed run would take anew: with
        more than two ranks that changes the order of the sums. One flat vector has one order.
        """
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        flat = self.group.sum(torch.cat([loss.detach().reshape(1), parameters_to_vector(gradients)]))
        vector_to_parameters(flat[1:], gradients)
        return float(flat[0])

    def batches(self) -> Any:
        return batches(
            self.streams["train"],
            size=self.config.batch_size,
            shuffle_rows=self.config.shuffle_rows,
            seed=(self.config.seed, self.epoch),
            rank=self.group.rank,
            world=self.group.world,
        )

    def score(self, network: TabularMLP, part: str) -> dict[str, float]:
        """Metrics over every row of the part: each rank scores its share, all see all scores."""
        scores, labels = [np.zeros(0)], [np.zeros(0)]
        for rows in share(self.streams[part], rank=self.group.rank, world=self.group.world):
            scores.append(probabilities(network, rows.numbers, rows.codes))
            labels.append(rows.labels.astype(np.float64))
        mine = np.stack([np.concatenate(labels), np.concatenate(scores)])
        every = self.group.gather(mine, self.rows[part])
        return {f"{part}_{name}": value for name, value in evaluate(every[0], every[1]).items()}

    def is_over(self) -> bool:
        """Whether `patience` epochs went by without a better validation AUC."""
        patience = self.config.patience
        return patience is not None and self.epoch - best_epoch(self.history) >= patience

    def resume(self) -> None:
        """Goes on after the latest checkpoint, if there is one. Rank 0 says which it is."""
        self.epoch = self.group.agree(self.directory.latest())
        if self.epoch:
            model = self.directory.restore(self.epoch, self.optimizer)
            self.network.load_state_dict(model.network.state_dict())
            self.history = self.directory.history()

    def checkpoint(self) -> None:
        """On disk, and known to be so by every rank, before anything else happens."""
        if self.group.rank == 0:
            model = Model(self.network, self.preprocessing, self.signature)
            self.directory.save(self.epoch, model, self.optimizer, self.history)
        self.group.wait()

    def finish(self) -> dict[str, float]:
        best = best_epoch(self.history)
        network = load_model(self.directory.epoch(best)).network.to(self.group.device)
        metrics = self.history[best - 1] | self.score(network, "test")
        if self.group.rank == 0:
            self.directory.publish(best)
        self.group.wait()
        timing = ("epoch", "seconds", "rows_per_second")
        kept = {name: value for name, value in metrics.items() if name not in timing}
        return kept | {"best_epoch": best, "epochs": self.epoch}

    def diverged(self, number: int, loss: float, batch: Rows) -> str:
        largest = ""
        if batch.numbers.size:
            row, column = np.unravel_index(np.abs(batch.numbers).argmax(), batch.numbers.shape)
            name = self.preprocessing.column_names()[column]
            largest = f"; the largest scaled input is feature '{name}' = {batch.numbers[row, column]:g}"
        return (
            f"the loss is {loss} in epoch {self.epoch}, batch {number} (rows {number * self.config.batch_size} and on)"
            f"{largest}; every input is finite, so lower learning_rate (now {self.config.learning_rate:g}); "
            f"the checkpoint of epoch {self.epoch - 1} is kept"
        )


def derive(*numbers: int) -> int:
    """A 63-bit seed that is a hash of the numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def require(holds: bool, name: str, value: object, needed: str) -> None:
    if not holds:
        raise ConfigError(f"training: {name} is {value!r}; it must be {needed}")


def check_split(split: tuple[datetime, ...]) -> None:
    require(len(split) == 3, "split", split, "(train_until, validation_until, test_until)")
    for until in split:
        if until.tzinfo is None:
            raise TimeError.naive("split", until)
    require(split[0] < split[1] < split[2], "split", tuple(map(str, split)), "three ascending instants")


def instant(value: datetime | str) -> datetime:
    """The datetime itself, or one from its ISO text."""
    return value if isinstance(value, datetime) else datetime.fromisoformat(value)
