"""Where a run lives on disk. A directory appears whole or not at all, so a crash at any point loses one epoch at most.

    <run>/run.json           what the run is of; a resume with other settings or data is refused
    <run>/epochs/0003/       the latest epoch and the best one: the model's files, state.safetensors, state.json
    <run>/model/             the best epoch's model, once the run has ended
    <run>/workers.jsonl      one line per start of the workers: their process ids, the epoch they went on from

Ray Train's own checkpoints are not used: `report` returns before the controller has recorded one, and a crash in that
gap makes every retry begin at the start. Here the rename *is* the record.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mlray.errors import ConfigError, CorruptArtifact
from mlray.training.model import MODEL_FILES, Model, load_model, read_json, write_json

History = tuple[dict[str, float], ...]


def commit(directory: Path, write: Callable[[Path], None]) -> None:
    """Makes `directory` with what `write` puts into it: written aside, synced, renamed. An older one is replaced."""
    aside = directory.parent / f".{directory.name}.{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    write(aside)
    for path in (*aside.iterdir(), aside):
        sync(path)
    if directory.exists():
        shutil.rmtree(directory)
    aside.rename(directory)
    sync(directory.parent)


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class RunDirectory:
    path: Path

    def epoch(self, number: int) -> Path:
        return self.path / "epochs" / f"{number:04d}"

    @property
    def model(self) -> Path:
        return self.path / "model"

    def epochs(self) -> Iterator[int]:
        """The epochs kept, ascending."""
        found = (self.path / "epochs").glob("[0-9]*")
        return iter(sorted(int(path.name) for path in found))

    def latest(self) -> int:
        """The last epoch finished; 0 where none is."""
        return max(self.epochs(), default=0)

    def history(self) -> History:
        """Metrics of every epoch up to the latest; may be called while the run goes on."""
        while latest := self.latest():
            try:
                return tuple(read_json(self.epoch(latest) / "state.json")["history"])
            except FileNotFoundError:
                if self.latest() == latest:  # else it was dropped for a newer one between the look and the read
                    raise
        return ()

    def tidy(self) -> None:
        """Removes what a killed writer left; nobody may be writing."""
        for aside in (self.path / "epochs").glob(".*"):
            shutil.rmtree(aside)

    def claim(self, identity: dict[str, Any]) -> None:
        """Begins the run, or goes on with it if it is the same one."""
        self.path.mkdir(parents=True, exist_ok=True)
        record = self.path / "run.json"
        if not record.exists():
            aside = record.with_suffix(".json.new")
            write_json(aside, identity)
            aside.rename(record)
            return
        held = read_json(record)
        changed = sorted(key for key in held.keys() | identity.keys() if held.get(key) != identity.get(key))
        if changed:
            raise ConfigError(
                f"the run at {self.path} was begun with other {', '.join(changed)}; to resume it pass the same "
                "settings and training set, else choose another name with Trainer.Config(run=...)"
            )

    def save(self, number: int, model: Model, optimizer: torch.optim.Optimizer, history: History) -> None:
        """Commits epoch `number`, then drops all epochs but it and the best."""

        def write(aside: Path) -> None:
            model.save(aside)
            save_file(optimizer_tensors(optimizer), aside / "state.safetensors")
            write_json(aside / "state.json", {"epoch": number, "history": history})

        commit(self.epoch(number), write)
        kept = {number, best_epoch(history)}
        for other in self.epochs():
            if other not in kept:
                shutil.rmtree(self.epoch(other))

    def restore(self, number: int, optimizer: torch.optim.Optimizer) -> Model:
        """The model of epoch `number`; `optimizer` is brought to its state of then."""
        directory = self.epoch(number)
        try:
            load_optimizer(optimizer, load_file(directory / "state.safetensors"))
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise CorruptArtifact(f"{directory} cannot be resumed ({error!r}); remove it to go on before") from error
        return load_model(directory)

    def publish(self, number: int) -> None:
        """Copies the model of epoch `number` to `model`, without what only a resume needs."""

        def write(aside: Path) -> None:
            for name in MODEL_FILES:
                shutil.copyfile(self.epoch(number) / name, aside / name)

        commit(self.model, write)


def best_epoch(history: History) -> int:
    """The first epoch of the highest validation AUC; 0 of none."""
    best = max(history, key=lambda metrics: metrics["validation_auc"], default=None)
    return int(best["epoch"]) if best else 0


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Its state by '<parameter number>.<name>'."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": value.contiguous() for i, slots in state.items() for name, value in slots.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
