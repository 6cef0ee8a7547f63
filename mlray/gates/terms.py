"""What the gates need of a training's configuration, and of the rows that it trains on, whatever their form."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlray.offline.join import Kept
from mlray.offline.training_set import TrainingSet
from mlray.training.preparation import microseconds

EARLIEST, LATEST = -(1 << 62), 1 << 62


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """Where the runs lie and how this one is called, if it is; the parts [low, high) by event time in microseconds;
    features that the model does not read; the AUC asked for.
    """

    storage: Path
    run: str | None
    train: tuple[int, int]
    test: tuple[int, int]
    ignore: tuple[str, ...]
    min_auc: float

    @classmethod
    def of(cls, config: Any) -> "Terms":
        """Of the configuration of any trainer."""
        ends = config.split.bounds()
        return cls(
            storage=Path(config.storage),
            run=config.run,
            train=(EARLIEST, microseconds(ends[0])),
            test=(microseconds(ends[-2]), microseconds(ends[-1])),
            ignore=config.sampling.ignore,
            min_auc=config.gates.min_auc,
        )


def kept(ts: Any) -> Any:
    """The same training set, so that several passes over it join it once; one that is written is read again."""
    return ts.cached() if isinstance(ts, TrainingSet) and not isinstance(ts.join, Kept) else ts


def rows_of(ts: Any) -> Any:
    """Its Ray Dataset, with `__row` where rows have a place in a spine."""
    return ts.ordered if isinstance(ts, TrainingSet) else ts.dataset
