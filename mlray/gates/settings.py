"""Which gates a run goes through, and what each asks for: the tables [gates.*] of a recipe. Plain data, no engine."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mlray.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class DataValidation:
    """schema: "module:attribute" of a pandera.polars.DataFrameSchema over columns of the training set; None: only what
    follows. max_row_change: by which share the rows may be fewer or more than in the previous training set; None: any.
    suite: "module:attribute" of a Great Expectations suite, over at most `suite_rows` rows.
    """

    schema: str | None = None
    max_row_change: float | None = 0.5
    suite: str | None = None
    suite_rows: int = 100_000
    stop: bool = False

    def __post_init__(self) -> None:
        if self.max_row_change is not None and self.max_row_change <= 0:
            raise ConfigError(f"[gates.data_validation] max_row_change={self.max_row_change}: more than 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Leakage:
    """max_auc: what one feature may tell of the label, alone. report_after: what the hour after q may tell before it is
    said; max_after: before the gate fails, None: never, as it is no leak by itself. rows: of the sample, about. ignore:
    features that are not looked at.
    """

    max_auc: float = 0.99
    report_after: float = 0.9
    max_after: float | None = None
    rows: int = 5000
    ignore: tuple[str, ...] = ()
    stop: bool = False

    def __post_init__(self) -> None:
        for name in ("max_auc", "report_after", "max_after"):
            value = getattr(self, name)
            if value is not None and not 0.5 < value <= 1:
                raise ConfigError(f"[gates.leakage] {name}={value}: between 0.5, a coin's, and 1")
        if self.rows < 100:
            raise ConfigError(f"[gates.leakage] rows={self.rows}: fewer than 100 tell nothing")


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """metric: of the task, that the rules look at; None: its first one. threshold: the worst that may be; None: the one
    of the training's configuration, where the metric is AUC.
    max_drop_vs_production: by how much it may be worse than Production on the same rows. slices: columns of the
    training set; bins: by column, into how many quantiles. slice_threshold: the worst that a slice may be that is
    judged: of at least `min_rows` rows, and for an AUC of two classes `min_of_label` of either. samples, level, seed:
    of the bootstrap. stop: a failure ends the run.
    """

    metric: str | None = None
    threshold: float | None = None
    max_drop_vs_production: float | None = None
    slices: tuple[str, ...] = ()
    bins: Mapping[str, int] = field(default_factory=dict)
    min_rows: int = 200
    min_of_label: int = 10
    slice_threshold: float | None = None
    samples: int = 200
    level: float = 0.95
    seed: int = 0
    stop: bool = False

    def __post_init__(self) -> None:
        for name in self.bins:
            if name not in self.slices:
                raise ConfigError(f"[gates.evaluation] bins: column '{name}' is not among slices={list(self.slices)}")
        if not 0 < self.level < 1 or min(self.samples, self.min_rows, self.min_of_label) < 1:
            raise ConfigError(
                "[gates.evaluation] level is between 0 and 1, samples, min_rows and min_of_label are at least 1"
            )
        if self.slice_threshold is not None and not self.slices:
            raise ConfigError(
                f"[gates.evaluation] slice_threshold={self.slice_threshold} is for slices, and none are named; "
                'say slices = ["country"], columns of the training set, or leave it out'
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Bias:
    """groups: columns of the training set; crossings: also each two of them crossed. decision: the score from which the
    answer is yes. positive: of several classes, the one that is yes. min_rows: what a group needs to be compared,
    min_of_label: and of either label for equalised odds. max_*: the largest difference allowed. bins: as in evaluation.
    """

    groups: tuple[str, ...] = ()
    crossings: bool = True
    decision: float = 0.5
    positive: str | None = None
    min_rows: int = 200
    min_of_label: int = 50
    max_demographic_parity: float = 0.1
    max_equalized_odds: float = 0.1
    bins: Mapping[str, int] = field(default_factory=dict)
    stop: bool = False

    def __post_init__(self) -> None:
        if not self.groups:
            raise ConfigError(
                '[gates.bias] needs groups = ["column", ...], columns of the training set; or leave it out'
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """rows: test rows that are explained, about. background: training rows that stand for a feature that is not known,
    about; they are kept in the checkpoint. slices, bins: as in evaluation. stop: a failure ends the run.
    """

    rows: int = 500
    background: int = 100
    slices: tuple[str, ...] = ()
    bins: Mapping[str, int] = field(default_factory=dict)
    stop: bool = False

    def __post_init__(self) -> None:
        if self.rows < 1 or self.background < 1:
            raise ConfigError("[gates.explanation] rows and background are at least 1")


SECTIONS: Mapping[str, type[Any]] = {
    "data_validation": DataValidation,
    "leakage": Leakage,
    "evaluation": Evaluation,
    "bias": Bias,
    "explanation": Explanation,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Gates:
    """The gates of a run; None: it does without. Where nothing is said, those that need neither words of the team nor
    packages of an extra are on.
    """

    data_validation: DataValidation | None = DataValidation()
    leakage: Leakage | None = Leakage()
    evaluation: Evaluation | None = Evaluation()
    bias: Bias | None = None
    explanation: Explanation | None = None

    @classmethod
    def from_json(cls, tables: Mapping[str, Any]) -> "Gates":
        """From [gates]: a table per gate, `true` for one as it is without settings, `false` for none. ConfigError."""
        for name in tables:
            if name not in SECTIONS:
                raise ConfigError.unknown_key("[gates]", name, SECTIONS)
        return cls(**{name: _section(name, given) for name, given in tables.items()})

    def stops(self, gate: str) -> bool:
        """Whether a failure of this gate ends the run."""
        return bool(getattr(getattr(self, gate, None), "stop", False))


def _section(name: str, given: Any) -> Any:
    kind = SECTIONS[name]
    if given is False:
        return None
    if given is True:
        return kind()
    if not isinstance(given, Mapping):
        raise ConfigError(f"[gates] {name}={given!r}: a table, or true or false")
    known = [f.name for f in fields(kind)]
    for key in given:
        if key not in known:
            raise ConfigError.unknown_key(f"[gates.{name}]", key, known)
    try:
        return TypeAdapter(kind).validate_json(json.dumps(dict(given)), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        own = first.get("ctx", {}).get("error")
        if isinstance(own, ConfigError):
            raise own from None
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"[gates.{name}] {where}={first['input']!r}: {first['msg']}") from error
