"""The shipped classifier: embeddings of the texts beside the scaled numbers, then a perceptron; and its directory.

model.safetensors   weights, float32        preprocessing.json   see preprocessing.py
model.json          class and architecture  signature.json       inputs (name -> type), label, output
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mlray.errors import CorruptArtifact
from mlray.training.preprocessing import FIRST, Preprocessing

MODEL_FILES = ("model.safetensors", "model.json", "preprocessing.json", "signature.json")


class TabularMLP(nn.Module):
    """(n, width) numbers and (n, len(sizes)) codes to (n,) logits. No layer looks at two rows at once."""

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        width: int
        sizes: tuple[int, ...]
        hidden: tuple[int, ...] = (128, 64)
        dropout: float = 0.1

        def build(self) -> "TabularMLP":
            return TabularMLP(self)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embeddings = nn.ModuleList(map(embedding, config.sizes))
        width = config.width + sum(map(embedding_width, config.sizes))
        layers: list[nn.Module] = []
        for hidden in config.hidden:
            layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(config.dropout)]
            width = hidden
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, numbers: Tensor, codes: Tensor) -> Tensor:
        embedded = [table(codes[:, i]) for i, table in enumerate(self.embeddings)]
        logits: Tensor = self.layers(torch.cat([numbers, *embedded], dim=1))
        return logits.squeeze(1)


def embedding(size: int) -> nn.Embedding:
    """(size, embedding_width(size)) small random weights."""
    table = nn.Embedding(size, embedding_width(size))
    nn.init.normal_(table.weight, std=size**-0.5)
    nn.init.zeros_(table.weight[:FIRST].detach())  # a bucket that training never meets says nothing
    return table


def embedding_width(size: int) -> int:
    """A common rule of thumb: grows slowly with the vocabulary, at most 32."""
    return int(min(32, round(1.6 * size**0.56)))


NETWORKS: Mapping[str, type[TabularMLP]] = {"TabularMLP": TabularMLP}


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """What the model takes and gives: feature name -> Arrow type as text, in service order."""

    inputs: dict[str, str]
    label: str
    output: str = "probability: double"


@dataclass(frozen=True, slots=True)
class Model:
    """A trained network with all that is needed to feed it."""

    network: TabularMLP
    preprocessing: Preprocessing
    signature: Signature

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(self.signature.inputs)

    def predict(self, table: pa.Table) -> NDArray[np.float64]:
        """(n,) probabilities of label 1, in row order; columns beyond `features` are ignored.

        Computed in float64, so that a row alone and in a batch agree within 1e-12.
        """
        encoded = self.preprocessing.encode(table)
        return probabilities(scoring(self.network), encoded.numbers, encoded.codes)

    def save(self, directory: str | Path) -> None:
        """Writes the four files; the directory is made where it is missing."""
        path = Path(directory)
        path.mkdir(parents=True, exist_ok=True)
        weights = {n: t.detach().cpu().float().contiguous() for n, t in self.network.state_dict().items()}
        save_file(weights, path / "model.safetensors")
        architecture = {"class": type(self.network).__name__, "config": asdict(self.network.config)}
        write_json(path / "model.json", architecture)
        self.preprocessing.save(path / "preprocessing.json")
        write_json(path / "signature.json", asdict(self.signature))


def scoring(network: TabularMLP, device: torch.device | str = "cpu") -> TabularMLP:
    """A copy in float64 and evaluation mode; the network itself where it already is that."""
    weight = next(network.parameters())
    if weight.dtype == torch.float64 and not network.training:
        return network
    return copy.deepcopy(network).to(device).double().eval()


def probabilities(network: TabularMLP, numbers: NDArray[np.float32], codes: NDArray[np.int32]) -> NDArray[np.float64]:
    """(n,) probabilities by a network of `scoring`, on its device, 16,384 rows at a time."""
    device = next(network.parameters()).device
    parts = []
    with torch.inference_mode():
        for start in range(0, len(numbers), 16_384):
            rows = slice(start, start + 16_384)
            x = torch.from_numpy(np.asarray(numbers[rows], np.float64)).to(device)
            c = torch.from_numpy(np.asarray(codes[rows], np.int64)).to(device)
            parts.append(torch.sigmoid(network(x, c)).cpu().numpy())
    return np.concatenate(parts) if parts else np.zeros(0)


def load_model(directory: str | Path) -> Model:
    """The model saved in `directory`; CorruptArtifact where a file is missing, torn or of another architecture."""
    path = Path(directory)
    try:
        architecture = read_json(path / "model.json")
        config = architecture["config"]
        network = (
            NETWORKS[architecture["class"]]
            .Config(**{**config, "sizes": tuple(config["sizes"]), "hidden": tuple(config["hidden"])})
            .build()
        )
        network.load_state_dict(load_file(path / "model.safetensors"))
        signature = Signature(**read_json(path / "signature.json"))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise CorruptArtifact(f"{path} does not hold a model of this version ({error!r}); restore it") from error
    preprocessing = Preprocessing.load(path / "preprocessing.json")
    if (preprocessing.width, preprocessing.sizes) != (network.config.width, network.config.sizes):
        raise CorruptArtifact(f"{path}: preprocessing.json and model.json are not of one model; restore it")
    return Model(scoring(network), preprocessing, signature)


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
