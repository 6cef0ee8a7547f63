"""What a training is told: frozen, nested by topic. A section may be given as its class or as a plain mapping.

In a file, a setting whose name belongs to one section only may also stand in [training] itself: `workers = 2` is
`resources = {workers = 2}`.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from mlray.errors import ConfigError
from mlray.training.task import KINDS
from mlray.training.values import check_place, duration, instant, label_text, plain, require, section

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Rows go by their event time: until `train` to training, until `validation` to validation, until `test` to test.

    Each end is exclusive. A row within `embargo` after the end of training or of validation is left out, so that
    what an outcome near a boundary tells is not on both sides of it.
    """

    train: datetime
    validation: datetime
    test: datetime
    embargo: timedelta = timedelta(0)

    def __post_init__(self) -> None:
        for name in PARTS:
            object.__setattr__(self, name, instant(getattr(self, name)))
        object.__setattr__(self, "embargo", duration(self.embargo))
        require(self.embargo >= timedelta(0), "embargo", str(self.embargo), "0 or more")
        require(
            self.train + self.embargo < self.validation and self.validation + self.embargo < self.test,
            "split",
            f"{self} with an embargo of {self.embargo}",
            "three ascending instants, further apart than the embargo",
        )

    @classmethod
    def of(cls, given: Any) -> "Split":
        if isinstance(given, cls):
            return given
        if isinstance(given, Mapping):
            made: Split = section(cls, given)
            return made
        ends = tuple(given)
        require(len(ends) == 3, "split", ends, "{train, validation, test}, the end of each part")
        return cls(train=ends[0], validation=ends[1], test=ends[2])

    def bounds(self) -> tuple[datetime, ...]:
        """Where the times go over into: left out, validation, left out, test, left out."""
        return self.train, self.train + self.embargo, self.validation, self.validation + self.embargo, self.test

    def __str__(self) -> str:
        return ", ".join(map(str, (self.train, self.validation, self.test)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """batch_size      rows of one step, over all workers
    shuffle_rows    rows permuted together, a multiple of batch_size; bounds a worker's memory
    prefetch        batches made ready ahead of the loop, in a thread; 0: none
    class_weights   factor on the loss by label, or "balanced": rows / (classes * rows of the class)
    weight          a column that is a further factor on a row's loss; no feature
    ignore          features that the model does not read
    allow_null      features that may be null in every training row: others are refused
    max_categories  of a text feature, the most frequent; the others count as unseen
    """

    batch_size: int = 1024
    shuffle_rows: int = 262_144
    prefetch: int = 2
    class_weights: str | Mapping[str, float] | None = None
    weight: str | None = None
    ignore: tuple[str, ...] = ()
    allow_null: tuple[str, ...] = ()
    max_categories: int = 10_000

    def __post_init__(self) -> None:
        object.__setattr__(self, "ignore", tuple(self.ignore))
        object.__setattr__(self, "allow_null", tuple(self.allow_null))
        for name in ("batch_size", "shuffle_rows", "max_categories"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.prefetch >= 0, "prefetch", self.prefetch, "0 or more")
        multiple = -(-self.shuffle_rows // self.batch_size) * self.batch_size
        needed = f"a multiple of batch_size, for example {multiple}"
        require(self.shuffle_rows == multiple, "shuffle_rows", self.shuffle_rows, needed)
        if isinstance(self.class_weights, Mapping):
            factors = {label_text(label): float(factor) for label, factor in self.class_weights.items()}
            require(all(f >= 0 for f in factors.values()), "class_weights", factors, "factors of 0 or more")
            object.__setattr__(self, "class_weights", factors)
        else:
            known = self.class_weights in (None, "balanced")
            require(known, "class_weights", self.class_weights, "None, 'balanced' or {label: factor}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimizer:
    """name           a class of torch.optim; `arguments` are passed to it besides the two below
    clip           largest norm of the gradient of a step; None: as it is
    accumulate     pieces in which a worker computes its share of a step; more need less memory
    """

    name: str = "AdamW"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    arguments: Mapping[str, Any] = field(default_factory=dict)
    clip: float | None = None
    accumulate: int = 1

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "more than 0")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        require(self.clip is None or self.clip > 0, "clip", self.clip, "more than 0, or None")
        require(self.accumulate >= 1, "accumulate", self.accumulate, "at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """name       a class of torch.optim.lr_scheduler; `arguments` are passed to it
    per        "epoch" or "step": when it takes its next step
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    per: str = "epoch"

    def __post_init__(self) -> None:
        require(self.per in ("epoch", "step"), "per", self.per, "'epoch' or 'step'")


@dataclass(frozen=True, kw_only=True, slots=True)
class Precision:
    """dtype      "float32", or "bfloat16": autocast of the forward pass; weights, loss and gradients stay float32
    compile    whether the network runs through torch.compile
    """

    dtype: str = "float32"
    compile: bool = False

    def __post_init__(self) -> None:
        require(self.dtype in ("float32", "bfloat16"), "dtype", self.dtype, "'float32' or 'bfloat16'")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpointing:
    """One is written at the end of each epoch, and every `steps` steps and `seconds` seconds where these are given.

    keep       how many of the best epochs stay, besides the latest checkpoint
    metric     of the validation part, by which an epoch is the best; None: what the task goes by
    """

    steps: int | None = None
    seconds: float | None = None
    keep: int = 1
    metric: str | None = None

    def __post_init__(self) -> None:
        require(self.steps is None or self.steps >= 1, "steps", self.steps, "at least 1, or None")
        require(self.seconds is None or self.seconds > 0, "seconds", self.seconds, "more than 0, or None")
        require(self.keep >= 1, "keep", self.keep, "at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """workers          processes; (least, most): as many as there is room for beside their data, as a run begins and
                     anew after each loss; 0: none, the loop runs here
    cpus_per_worker  logical CPUs, fractions allowed
    device           "cpu", "cuda", or "auto": cuda where the cluster has a GPU per worker
    max_failures     lost workers survived before the run gives up
    """

    workers: int | tuple[int, int] = 2
    cpus_per_worker: float = 0.5
    device: str = "auto"
    max_failures: int = 3

    def __post_init__(self) -> None:
        if not isinstance(self.workers, int):
            object.__setattr__(self, "workers", tuple(self.workers))
            rising = len(self.workers) == 2 and 1 <= self.workers[0] <= self.workers[1]
            require(rising, "workers", self.workers, "a number, or (least, most)")
        require(self.least >= 0, "workers", self.workers, "0 or more")
        require(self.cpus_per_worker > 0, "cpus_per_worker", self.cpus_per_worker, "more than 0")
        require(self.device in ("auto", "cpu", "cuda"), "device", self.device, "'auto', 'cpu' or 'cuda'")
        require(self.max_failures >= 0, "max_failures", self.max_failures, "0 or more")

    @property
    def elastic(self) -> bool:
        return not isinstance(self.workers, int)

    @property
    def least(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """model      "mlp", or a network of your own by module:Class, made with `arguments`; see network.py
    hidden     of the MLP, widths of the layers
    dropout    of the MLP, share of their outputs that a training step leaves out
    """

    model: str = "mlp"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    hidden: tuple[int, ...] = (128, 64)
    dropout: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        kept = (self.hidden, self.dropout) == ((128, 64), 0.1)
        theirs = f"left out: they are the shipped network's, the settings of '{self.model}' go into arguments"
        require(self.model == "mlp" or kept, "hidden, dropout", (self.hidden, self.dropout), theirs)
        require(all(h >= 1 for h in self.hidden), "hidden", self.hidden, "widths of at least 1")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "in [0, 1)")

    @property
    def settings(self) -> dict[str, Any]:
        """What the network is made with."""
        shipped = {"hidden": self.hidden, "dropout": self.dropout} if self.model == "mlp" else {}
        return {**shipped, **self.arguments}


@dataclass(frozen=True, kw_only=True, slots=True)
class Gates:
    """min_auc: on the test rows; below it the run fails its gate 'evaluation', which the registry asks for."""

    min_auc: float = 0.5

    def __post_init__(self) -> None:
        require(0 <= self.min_auc <= 1, "min_auc", self.min_auc, "in [0, 1]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tracking:
    """uri           of an MLflow tracking server that is told of the run, http:// or https://; None: none is told.
                  MLflow's own variables, such as MLFLOW_TRACKING_TOKEN, say who asks
    experiment    its name there
    wait_seconds  how long the end of a run waits at most until the server has taken the model
    """

    uri: str | None = None
    experiment: str = "mlray"
    wait_seconds: float = 60

    def __post_init__(self) -> None:
        if self.uri is not None:
            place = urlsplit(self.uri)
            known = place.scheme in ("http", "https") and bool(place.hostname)
            require(known, "tracking.uri", self.uri, "http://host:port or https://host")
            shown, hidden = f"...@{place.hostname}", "without a password, which goes into MLFLOW_TRACKING_PASSWORD"
            require("@" not in place.netloc, "tracking.uri", shown, hidden)
        require(bool(self.experiment), "tracking.experiment", self.experiment, "a name")
        require(self.wait_seconds >= 0, "tracking.wait_seconds", self.wait_seconds, "0 or more")


SECTIONS: Mapping[str, type[Any]] = {
    "sampling": Sampling,
    "network": Network,
    "optimizer": Optimizer,
    "schedule": Schedule,
    "precision": Precision,
    "checkpoint": Checkpointing,
    "resources": Resources,
    "gates": Gates,
    "tracking": Tracking,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerConfig:
    """split     {"train": until, "validation": until, "test": until, "embargo": timedelta}; see Split
    storage   directory that every node sees, no URL; the run lies in `storage/<run>`
    run       name; an interrupted or shorter run of that name is continued; None: a new one
    patience  epochs without a better validation metric before the run stops; None: never
    task      "binary", "multiclass" or "regression"; None: multiclass for a label that is text, else binary
    """

    split: Split
    storage: str
    run: str | None = None
    seed: int = 0
    epochs: int = 10
    patience: int | None = 3
    task: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    network: Network = field(default_factory=Network)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule | None = None
    precision: Precision = field(default_factory=Precision)
    checkpoint: Checkpointing = field(default_factory=Checkpointing)
    resources: Resources = field(default_factory=Resources)
    gates: Gates = field(default_factory=Gates)
    tracking: Tracking = field(default_factory=Tracking)

    def __post_init__(self) -> None:
        object.__setattr__(self, "split", Split.of(self.split))
        for name, kind in SECTIONS.items():
            given = getattr(self, name)
            if isinstance(given, Mapping):
                object.__setattr__(self, name, section(kind, given))
        require(self.task in (None, *KINDS), "task", self.task, f"None or one of {', '.join(KINDS)}")
        require(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        require(self.patience is None or self.patience >= 1, "patience", self.patience, "at least 1, or None")
        require(self.seed >= 0, "seed", self.seed, "0 or more")
        check_place(self.storage, self.run)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` gives an equal configuration back."""
        found: dict[str, Any] = plain(asdict(self))
        return found

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> "TrainerConfig":
        """Also from a table of a TOML file; instants may be datetimes or ISO texts, an embargo "36h" or seconds."""
        for key in ("split", "storage"):
            require(key in settings, key, None, "given")
        made: TrainerConfig = section(cls, nested(settings))
        return made

    def outcome(self) -> dict[str, Any]:
        """The settings on which it depends what comes out: all but where it is kept and what survives failures."""
        found = self.to_json()
        for name in ("storage", "run", "tracking"):
            del found[name]
        for name in ("cpus_per_worker", "max_failures"):
            del found["resources"][name]
        for name in ("steps", "seconds", "keep"):
            del found["checkpoint"][name]
        for name in ("prefetch", "allow_null"):
            del found["sampling"][name]
        return found

    def identity(self) -> dict[str, Any]:
        """The settings that a resumed run must share: also a longer or otherwise judged one is the same run."""
        return {key: value for key, value in self.outcome().items() if key not in ("epochs", "patience", "gates")}


def owners() -> dict[str, str]:
    """The section of each setting whose name is of one section only and not of the configuration itself."""
    names = [(f.name, name) for name, kind in SECTIONS.items() for f in fields(kind)]
    often = Counter(setting for setting, _ in names)
    own = {f.name for f in fields(TrainerConfig)}
    return {setting: name for setting, name in names if often[setting] == 1 and setting not in own}


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that stand outside of their section, moved into it."""
    known, found = owners(), dict(settings)
    for key in [key for key in found if key in known]:
        inside = dict(found.get(known[key], {}))
        require(key not in inside, key, f"given in [training] and in its section '{known[key]}'", "given once")
        found[known[key]] = inside | {key: found.pop(key)}
    own = [f.name for f in fields(TrainerConfig)]
    for key in found:
        if key not in own:
            raise ConfigError.unknown_key("training", key, [*own, *known])
    return found
