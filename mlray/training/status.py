"""How far a running training is: written by its first worker twice a second, read by whoever watches."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

EVERY_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """batch: of `batches` in this epoch; loss: the mean of this epoch's rows so far; seconds_left: until the last epoch
    ends, should none end it earlier.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float
    rows_per_second: float
    seconds_left: float

    @property
    def share(self) -> float:
        """Of the whole training, 0 to 1."""
        return (self.epoch - 1 + self.batch / self.batches) / self.epochs

    def __str__(self) -> str:
        left = timedelta(seconds=round(self.seconds_left))
        return (
            f"epoch {self.epoch}/{self.epochs}, {self.batch / self.batches:.0%}, loss {self.loss:.4f}, "
            f"{self.rows_per_second:,.0f} rows/s, {left} left"
        )

    def write(self, path: Path) -> None:
        """Over what was there; a reader sees one or the other."""
        aside = path.with_suffix(".new")
        aside.write_text(json.dumps(asdict(self)))
        aside.replace(path)

    @classmethod
    def read(cls, path: Path) -> "Status | None":
        """None where none is written yet."""
        with suppress(FileNotFoundError):
            return cls(**json.loads(path.read_text()))
        return None
