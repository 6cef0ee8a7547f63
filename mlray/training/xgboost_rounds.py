"""The rounds of a run of XGBoost on disk: they appear whole or not at all."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from mlray.training.checkpoint import History, commit
from mlray.training.model import read_json, write_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Rounds:
    """The newest checkpoint of a run: `<run>/rounds/000020/` holds the trees of 20 rounds and the losses after each.

    key: what a loss is called in the history.
    """

    path: Path
    key: str

    @property
    def status(self) -> Path:
        """Nothing is written there: a round is quick."""
        return self.path / "status.json"

    def latest(self) -> int:
        """How many rounds are kept; 0 where none are."""
        return max((int(found.name) for found in self.path.glob("[0-9]*")), default=0)

    def save(self, trees: bytes, losses: list[float]) -> None:
        """Commits the rounds so far, then drops all older checkpoints. A worker that lost its controller and has not
        noticed drops nothing newer.
        """

        def write(aside: Path) -> None:
            (aside / "model.ubj").write_bytes(trees)
            write_json(aside / "losses.json", losses)

        commit(self._folder(len(losses)), write)
        self._drop_before(len(losses))

    def restore(self) -> tuple[bytes, list[float]]:
        """The trees and the validation loss after each round; (b"", []) of none."""
        while rounds := self.latest():
            try:
                return (self._folder(rounds) / "model.ubj").read_bytes(), self._losses(rounds)
            except FileNotFoundError:
                if self.latest() == rounds:  # else it was dropped for a newer one between the look and the read
                    raise
        return b"", []

    def history(self) -> History:
        """One entry per round kept; may be called while the run goes on."""
        while rounds := self.latest():
            try:
                return tuple({"round": i + 1, self.key: loss} for i, loss in enumerate(self._losses(rounds)))
            except FileNotFoundError:
                if self.latest() == rounds:  # else it was dropped for a newer one between the look and the read
                    raise
        return ()

    def tidy(self) -> None:
        """Removes what a killed writer left; nobody may be writing."""
        for aside in self.path.glob(".*"):
            shutil.rmtree(aside)
        self._drop_before(self.latest())

    def _drop_before(self, rounds: int) -> None:
        for older in self.path.glob("[0-9]*"):
            if int(older.name) < rounds:
                shutil.rmtree(older, ignore_errors=True)  # another may be dropping it, too

    def _folder(self, rounds: int) -> Path:
        return self.path / f"{rounds:06d}"

    def _losses(self, rounds: int) -> list[float]:
        return [float(loss) for loss in read_json(self._folder(rounds) / "losses.json")]
