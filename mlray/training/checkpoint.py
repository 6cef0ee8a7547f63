"""Where a run lives on disk. A directory appears whole or not at all, so a crash at any point loses what came after it.

    <run>/run.json                 what the run is of; a resume with other settings or data is refused
    <run>/checkpoints/00000360/    by the number of steps: the latest, and the ends of the best epochs. The model's
                                   files, state.safetensors (of the optimizer), state.json (all else)
    <run>/model/                   the best epoch's model, once the run has ended
    <run>/steps/                   a Delta table: loss, norm of the gradient, learning rate of each step
    <run>/status.json              how far it is; see status.py
    <run>/workers.jsonl            one line per start of the workers: when, their process ids, the step before

Ray Train's own checkpoints are not used: `report` returns before the controller has recorded one, and a crash in that
gap makes every retry begin at the start. Here the rename *is* the record.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mlray.errors import ConfigError, CorruptArtifact
from mlray.training.model import MODEL_FILES, Model, read_json, write_json

History = tuple[dict[str, float], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a run is: `epoch` epochs, and of the next one `batch` batches, whose rows have the summed `loss`.

    step: batches of all epochs. history: the metrics of each epoch. With the seed of the configuration it says all that
    is drawn at random from here on: every draw is a function of (seed, epoch, batch, rank).
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss: float = 0.0
    history: History = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """All of a run at one step, on the CPU, apart from what trains on."""

    progress: Progress
    model: Model
    optimizer: Mapping[str, Any]
    schedule: Mapping[str, Any] | None

    def write(self, directory: Path) -> None:
        """Into a directory that is there."""
        self.model.save(directory)
        tensors, others = split_state(self.optimizer["state"])
        save_file(tensors, directory / "state.safetensors")
        state = {"groups": self.optimizer["param_groups"], "state": others, "schedule": self.schedule}
        write_json(directory / "state.json", {"progress": asdict(self.progress), **state})


def commit(directory: Path, write: Callable[[Path], None]) -> None:
    """Makes `directory` with what `write` puts into it: written aside, synced, renamed. One that is there stays."""
    aside = directory.parent / f".{directory.name}.{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        write(aside)
        for path in (*aside.iterdir(), aside):
            sync(path)
        try:
            if not directory.exists():
                aside.rename(directory)
        except OSError:
            if not directory.exists():  # else another one was quicker
                raise
        sync(directory.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # also of a full disk, which is to have room again


def write_synced(path: Path, content: Any) -> None:
    """JSON that is there whole or not at all, also after the machine has lost its power."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    write_json(aside, content)
    sync(aside)
    aside.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class RunDirectory:
    path: Path

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"{step:08d}"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def steps(self) -> Path:
        return self.path / "steps"

    @property
    def status(self) -> Path:
        return self.path / "status.json"

    @property
    def workers(self) -> Path:
        return self.path / "workers.jsonl"

    def checkpoints(self) -> Iterator[int]:
        """The steps of the checkpoints kept, ascending."""
        found = (self.path / "checkpoints").glob("[0-9]*")
        return iter(sorted(int(path.name) for path in found))

    def latest(self) -> int:
        """The step of the latest checkpoint; 0 where there is none."""
        return max(self.checkpoints(), default=0)

    def progress(self, step: int) -> Progress:
        """That of the checkpoint of `step`; of 0, the beginning."""
        if not step:
            return Progress()
        return progress_of(read_json(self.checkpoint(step) / "state.json"))

    def history(self) -> History:
        """Metrics of every epoch up to the latest checkpoint; may be called while the run goes on."""
        while True:
            latest = self.latest()
            try:
                return self.progress(latest).history
            except FileNotFoundError:
                if self.latest() == latest:  # else it was dropped for a newer one between the look and the read
                    raise

    def tidy(self) -> None:
        """Removes what a killed writer left; nobody may be writing."""
        for aside in (self.path / "checkpoints").glob(".*"):
            shutil.rmtree(aside)

    def claim(self, identity: dict[str, Any]) -> None:
        """Begins the run, or goes on with it if it is the same one."""
        self.path.mkdir(parents=True, exist_ok=True)
        record = self.path / "run.json"
        if not record.exists():
            write_synced(record, identity)
            return
        held = read_json(record)
        changed = sorted(key for key in held.keys() | identity.keys() if held.get(key) != identity.get(key))
        if changed:
            raise ConfigError(
                f"the run at {self.path} was begun with other {', '.join(changed)}; to resume it pass the same "
                "settings and training set, else choose another name with Trainer.Config(run=...)"
            )

    def is_seen(self) -> bool:
        """Whether what `claim` wrote on the driver is there, where this is asked."""
        return (self.path / "run.json").exists()

    def unseen(self) -> ConfigError:
        """What is said where it is not."""
        return ConfigError(
            f"training: a worker does not find {self.path}, which the driver has made; storage must be a directory "
            "that every node sees: a network file system, or a volume that all nodes mount at one path"
        )

    def save(self, snapshot: Snapshot, best: set[int]) -> None:
        """Commits the snapshot, then drops all older checkpoints but those of the steps `best`.

        A worker that lost its controller and has not noticed does no harm: what it writes is what its successor would,
        and it drops nothing newer.
        """
        step = snapshot.progress.step
        commit(self.checkpoint(step), snapshot.write)
        for other in self.checkpoints():
            if other < step and other not in best:
                shutil.rmtree(self.checkpoint(other), ignore_errors=True)  # the other one may drop it, too

    def restore(self, step: int, network: nn.Module, optimizer: torch.optim.Optimizer, schedule: Any) -> Progress:
        """Brings all three to what they were at the checkpoint of `step`; how far that was."""
        directory = self.checkpoint(step)
        try:
            state = read_json(directory / "state.json")
            tensors = load_file(directory / "state.safetensors")
            weights = load_file(directory / "model.safetensors")
            load_weights(network, weights, directory)
            optimizer.load_state_dict(joined_state(tensors, state["state"]) | {"param_groups": state["groups"]})
            if schedule is not None:
                schedule.load_state_dict(keyed_as(schedule.state_dict(), state["schedule"]))
            return progress_of(state)
        except (OSError, KeyError, ValueError, TypeError, SafetensorError) as error:
            raise CorruptArtifact(f"{directory} cannot be resumed ({error!r}); remove it to go on before") from error

    def publish(self, step: int) -> None:
        """Copies the model of the checkpoint to `model`, without what only a resume needs."""
        held = self.checkpoint(step)

        def write(aside: Path) -> None:
            for name in MODEL_FILES:
                shutil.copyfile(held / name, aside / name)

        shutil.rmtree(self.model, ignore_errors=True)
        commit(self.model, write)


def progress_of(state: Mapping[str, Any]) -> Progress:
    """That of a checkpoint's state.json."""
    held = state["progress"]
    return Progress(**{**held, "history": tuple(held["history"])})


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], directory: Path) -> None:
    """CorruptArtifact where the weights are of another architecture."""
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    different = sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))
    if different:
        name = different[0]
        raise CorruptArtifact(
            f"{directory} is of another architecture: '{name}' is {found.get(name)} there and {wanted.get(name)} in "
            f"this network ({len(different)} of {len(wanted | found)} differ); choose another name with "
            "Trainer.Config(run=...)"
        )
    network.load_state_dict(dict(weights))


def best_epochs(history: History, metric: str, greater: bool, count: int = 1) -> list[dict[str, float]]:
    """The `count` best epochs, the best first and of equals the earlier; a metric that is no number is the worst."""

    def rank(epoch: dict[str, float]) -> tuple[bool, float, float]:
        value = epoch[metric]
        return value != value, -value if greater else value, epoch["epoch"]

    return sorted(history, key=rank)[:count]


def is_over(history: History, metric: str, greater: bool, epochs: int, patience: int | None) -> bool:
    """Whether all epochs are done, or `patience` of them went by without a better one."""
    done = len(history)
    worse = done - int(best_epochs(history, metric, greater)[0]["epoch"]) if done else 0
    return done >= epochs or (patience is not None and worse >= patience)


def keyed_as(fresh: Mapping[str, Any], held: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON held of a schedule, with whole numbers as keys where the fresh one has them, as MultiStepLR has."""

    def keyed(name: str, value: Any) -> Any:
        if isinstance(fresh.get(name), Mapping) and all(isinstance(key, int) for key in fresh[name]):
            return type(fresh[name])({int(key): inner for key, inner in value.items()})
        return value

    return {name: keyed(name, value) for name, value in held.items()}


def split_state(state: Mapping[int, Mapping[str, Any]]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state by '<parameter number>.<name>': the tensors, and the rest."""
    flat = {f"{number}.{name}": value for number, slots in state.items() for name, value in slots.items()}
    tensors = {key: value.contiguous() for key, value in flat.items() if isinstance(value, Tensor)}
    return tensors, {key: value for key, value in flat.items() if key not in tensors}


def joined_state(tensors: Mapping[str, Tensor], others: Mapping[str, Any]) -> dict[str, Any]:
    """What `split_state` took apart."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **others}.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    return {"state": state}
