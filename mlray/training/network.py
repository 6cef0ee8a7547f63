"""Networks: what a user brings, the one that is shipped, and how either gives losses and predictions.

A network of one's own is a dataclass of settings with three methods. A subclass of `Network` needs the first alone:

    @dataclass(frozen=True)
    class Wide(Network):
        units: int = 64

        def build(self, features: Features) -> nn.Module:
            return WideModule(features.width, features.sizes, self.units, features.outputs)
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from mlray.errors import ConfigError
from mlray.training.imported import check_source, imported, source_sha256
from mlray.training.preprocessing import FIRST, Preprocessing
from mlray.training.task import BINARY, REGRESSION, Task

WEIGHTS = "model.safetensors"
SCORED_ROWS = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """What a network is given and asked for.

    width    number columns, scaled, nothing missing        sizes   how many codes each text has, 0 .. size - 1
    columns  the feature behind each number column          texts   the feature behind each code column
    """

    width: int
    sizes: tuple[int, ...]
    columns: tuple[str, ...]
    texts: tuple[str, ...]
    task: Task

    @classmethod
    def of(cls, preprocessing: Preprocessing, task: Task) -> Self:
        return cls(
            width=preprocessing.width,
            sizes=preprocessing.sizes,
            columns=tuple(preprocessing.column_names()),
            texts=tuple(text.name for text in preprocessing.texts),
            task=task,
        )

    @property
    def outputs(self) -> int:
        """How many numbers the network gives for a row: 1, or one per class."""
        return self.task.outputs


@runtime_checkable
class Network(Protocol):
    """The settings of a network: a dataclass of plain JSON values, from which it can be built again."""

    def build(self, features: Features) -> nn.Module:
        """A module: (n, width) float numbers and (n, texts) int64 codes to (n,) outputs, or (n, outputs) where there
        are several. A row's outputs may not depend on its neighbours. Random weights come from torch's generator.
        """
        ...

    def loss(self, outputs: Tensor, labels: Tensor, task: Task) -> Tensor:
        """(n,) one loss per row. labels: (n,) 0 and 1, int64 class numbers, or standardised values."""
        return task_loss(outputs, labels, task)

    def metrics(self, labels: NDArray[Any], predictions: NDArray[np.float64], task: Task) -> dict[str, float]:  # noqa: ARG002
        """Metrics besides the task's, of encoded labels and predictions."""
        return {}


def task_loss(outputs: Tensor, labels: Tensor, task: Task) -> Tensor:
    """(n,) cross entropy of the outputs as logits, or squared error."""
    if task.kind == BINARY:
        return functional.binary_cross_entropy_with_logits(outputs, labels.to(outputs.dtype), reduction="none")
    if task.kind == REGRESSION:
        return (outputs - labels.to(outputs.dtype)) ** 2
    return functional.cross_entropy(outputs, labels.long(), reduction="none")


@dataclass(frozen=True, kw_only=True, slots=True)
class MLP(Network):
    """The shipped one: embeddings of the texts beside the numbers, then a perceptron of the widths in `hidden`."""

    hidden: tuple[int, ...] = (128, 64)
    dropout: float = 0.1

    def build(self, features: Features) -> "TabularMLP":
        return TabularMLP(features, tuple(self.hidden), self.dropout)


class TabularMLP(nn.Module):
    """(n, width) numbers and (n, texts) codes to (n,) or (n, outputs). No layer looks at two rows at once."""

    def __init__(self, features: Features, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(map(embedding, features.sizes))
        width = features.width + sum(map(embedding_width, features.sizes))
        layers: list[nn.Module] = []
        for units in hidden:
            layers += [nn.Linear(width, units), nn.ReLU(), nn.Dropout(dropout)]
            width = units
        self.layers = nn.Sequential(*layers, nn.Linear(width, features.outputs))

    def forward(self, numbers: Tensor, codes: Tensor) -> Tensor:
        embedded = [table(codes[:, i]) for i, table in enumerate(self.embeddings)]
        outputs: Tensor = self.layers(torch.cat([numbers, *embedded], dim=1))
        return outputs.squeeze(1) if outputs.shape[1] == 1 else outputs


def embedding(size: int) -> nn.Embedding:
    """(size, embedding_width(size)) small random weights."""
    table = nn.Embedding(size, embedding_width(size))
    nn.init.normal_(table.weight, std=size**-0.5)
    nn.init.zeros_(table.weight[:FIRST].detach())  # a bucket that training never meets says nothing
    return table


def embedding_width(size: int) -> int:
    """A common rule of thumb: grows slowly with the vocabulary, at most 32."""
    return int(min(32, round(1.6 * size**0.56)))


SHIPPED: Mapping[str, type[Network]] = {"mlp": MLP}


def definition_of(model: str, arguments: Mapping[str, Any]) -> Network:
    """The network's settings: of a shipped one by its name, of another by module:Class. ConfigError where they do not
    fit.
    """
    made_of = SHIPPED.get(model) or imported(model, "training: the network")
    if not is_dataclass(made_of) or not isinstance(made_of, type):
        raise ConfigError(f"training: the network '{model}' is no dataclass; its fields are the network's settings")
    known = [field.name for field in fields(made_of)]
    for name in arguments:
        if name not in known:
            raise ConfigError.unknown_key(f"training: the network '{model}'", name, known)
    try:
        made = made_of(**{name: _tuples(value) for name, value in arguments.items()})
    except TypeError as error:
        raise ConfigError(f"training: the network '{model}' cannot be made of {dict(arguments)}: {error}") from error
    if not isinstance(made, Network):
        raise ConfigError(
            f"training: the network '{model}' needs the methods build, loss and metrics; a subclass of "
            "mlray.training.network.Network needs build alone"
        )
    return made


def code_of(model: str) -> str | None:
    """SHA-256 of the file of a user's network, None of a shipped one."""
    return None if model in SHIPPED else source_sha256(imported(model, "training: the network"))


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples, so that settings can be compared and hashed."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


@dataclass(frozen=True, slots=True)
class NetworkScorer:
    """A network with its settings. shift, scale: a regression's network is trained on (label - shift) / scale."""

    model: str
    definition: Network
    features: Features
    module: nn.Module
    shift: float = 0.0
    scale: float = 1.0

    @classmethod
    def build(cls, model: str, arguments: Mapping[str, Any], features: Features) -> Self:
        """A new one, with random weights."""
        definition = definition_of(model, arguments)
        return cls(model, definition, features, definition.build(features))

    def learned(self, labels: Iterable[NDArray[Any]]) -> Self:
        """For a regression, with the mean and the standard deviation (population) of the labels of the training part;
        the same bits for the same blocks in the same order.
        """
        if self.task.kind != REGRESSION:
            return self
        count, mean, squares = 0, 0.0, 0.0
        for block in labels:  # Chan, Golub and LeVeque: the sums of two sets from those of each
            if len(block):
                far, rows = float(block.mean()) - mean, count + len(block)
                squares += float(((block - block.mean()) ** 2).sum()) + far * far * count * len(block) / rows
                count, mean = rows, mean + far * len(block) / rows
        return replace(self, shift=mean, scale=(squares / count) ** 0.5 if squares > 0 else 1.0)

    @property
    def task(self) -> Task:
        return self.features.task

    @property
    def columns(self) -> tuple[str, ...]:
        """The features behind the number columns, then those behind the codes."""
        return (*self.features.columns, *self.features.texts)

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """(n,) one per row; labels as the task encodes them. ConfigError where outputs or losses have another shape."""
        due = (len(labels), self.task.outputs) if self.task.outputs > 1 else (len(labels),)
        self._check_shape("the output", outputs, due)
        if self.task.kind == REGRESSION:
            labels = (labels.double() - self.shift) / self.scale
        elif self.task.kind != BINARY:
            labels = labels.long()
        found = self.definition.loss(outputs, labels, self.task)
        self._check_shape("the loss, one number per row,", found, (len(labels),))
        return found

    def _check_shape(self, what: str, found: Tensor, due: tuple[int, ...]) -> None:
        if tuple(found.shape) != due:
            raise ConfigError(
                f"training: {what} of network '{self.model}' has the shape {tuple(found.shape)}; it must be {due}"
            )

    def metrics(self, labels: NDArray[Any], predictions: NDArray[np.float64]) -> dict[str, float]:
        """The task's metrics, and the network's own."""
        return self.task.metrics(labels, predictions) | self.definition.metrics(labels, predictions, self.task)

    def scoring(self, device: torch.device | str = "cpu") -> Self:
        """A copy in float64 and evaluation mode; itself where it is that already."""
        weight = next(self.module.parameters(), None)
        if not self.module.training and (weight is None or weight.dtype == torch.float64):
            return self
        return replace(self, module=copy.deepcopy(self.module).to(device).double().eval())

    def copied(self) -> Self:
        """A copy on the CPU that further training does not change."""
        return replace(self, module=copy.deepcopy(self.module).cpu())

    def scores(self, numbers: NDArray[np.float32], codes: NDArray[np.int32]) -> NDArray[np.float64]:
        """(n,) or (n, classes) predictions, on the module's device, SCORED_ROWS rows at a time; in float64, so that a
        row alone and in a batch agree within 1e-12.
        """
        scoring = self.scoring()
        device = next((weight.device for weight in scoring.module.parameters()), torch.device("cpu"))
        parts = []
        with torch.inference_mode():
            for start in range(0, len(numbers), SCORED_ROWS):
                rows = slice(start, start + SCORED_ROWS)
                x = torch.from_numpy(np.asarray(numbers[rows], np.float64)).to(device)
                c = torch.from_numpy(np.asarray(codes[rows], np.int64)).to(device)
                parts.append(self._predicted(scoring.module(x, c)).cpu().numpy())
        if not parts:
            return np.zeros((0, self.task.outputs) if self.task.outputs > 1 else 0)
        return np.concatenate(parts)

    def _predicted(self, outputs: Tensor) -> Tensor:
        if self.task.kind == BINARY:
            return torch.sigmoid(outputs)
        return outputs * self.scale + self.shift if self.task.kind == REGRESSION else torch.softmax(outputs, dim=1)

    def save(self, directory: Path) -> dict[str, Any]:
        """Writes the weights, float32; what is needed besides to load it again."""
        weights = {n: t.detach().cpu().contiguous() for n, t in self.module.state_dict().items()}
        save_file({n: t.float() if t.is_floating_point() else t for n, t in weights.items()}, directory / WEIGHTS)
        plain: dict[str, Any] = {"arguments": asdict(self.definition)}  # type: ignore[call-overload]
        return plain | {"shift": self.shift.hex(), "scale": self.scale.hex()}

    @classmethod
    def load(
        cls, directory: Path, saved: Mapping[str, Any], preprocessing: Preprocessing, task: Task, code: str | None
    ) -> Self:
        """The one that `save` wrote, ready to score; code: the SHA-256 of a user's file in training."""
        if (model := saved["class"]) not in SHIPPED:  # before anything of it is made
            check_source(model, imported(model, "the network"), code)
        made = cls.build(model, saved["arguments"], Features.of(preprocessing, task))
        made.module.load_state_dict(load_file(directory / WEIGHTS))
        loaded = replace(made, shift=float.fromhex(saved["shift"]), scale=float.fromhex(saved["scale"]))
        return loaded.scoring()
