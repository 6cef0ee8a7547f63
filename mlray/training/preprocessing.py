"""From feature columns to arrays: fixed once learned, the same function in training and in serving.

Numbers and booleans: (squash(x) - mean) / std, clipped to +-8, missing is 0; one indicator column for each feature that
was ever missing in training. Texts: a code, 0 for one unseen in training, 1 for missing, 2.. for the vocabulary.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from numpy.typing import NDArray

from mlray.errors import CorruptArtifact, SchemaError
from mlray.training.columns import number_column, text_column
from mlray.training.statistics import Moments, Statistics, squash

UNSEEN, MISSING, FIRST = 0, 1, 2
CLIP = 8.0


class Encoded(NamedTuple):
    """(n, width) float32, (n, texts) int32, and how many unseen categories each text feature had."""

    numbers: NDArray[np.float32]
    codes: NDArray[np.int32]
    unseen: Counter[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Number:
    name: str
    mean: float
    std: float
    indicator: bool

    @classmethod
    def learn(cls, name: str, seen: Moments) -> "Number":
        return cls(name=name, mean=seen.mean(), std=seen.std(), indicator=seen.missing > 0)

    def encode(self, column: pa.ChunkedArray) -> NDArray[np.float32]:
        """(1 or 2, n): the value and, where learned, the indicator."""
        values = number_column(column)
        missing = np.isnan(values)
        scaled = np.where(missing, 0.0, np.clip((squash(values) - self.mean) / self.std, -CLIP, CLIP))
        return np.stack([scaled, missing] if self.indicator else [scaled]).astype(np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    name: str
    vocabulary: tuple[str, ...]

    @classmethod
    def learn(cls, name: str, seen: Counter[str], largest: int) -> "Text":
        """The `largest` most frequent texts, ties by text, in the order of their text."""
        ranked = sorted(seen, key=lambda text: (-seen[text], text))
        return cls(name=name, vocabulary=tuple(sorted(ranked[:largest])))

    @property
    def size(self) -> int:
        return FIRST + len(self.vocabulary)

    def encode(self, column: pa.ChunkedArray) -> NDArray[np.int32]:
        texts = text_column(column)
        place = pc.index_in(texts, value_set=pa.array(self.vocabulary, pa.large_string()))
        codes = pc.fill_null(pc.add(place, pa.scalar(FIRST, pa.int32())), UNSEEN)
        return np.where(texts.is_null().to_numpy(), MISSING, codes.to_numpy()).astype(np.int32)


def kind(name: str, dtype: pa.DataType) -> str:
    """'number' or 'text'; SchemaError for a type that the model cannot read."""
    if pt.is_boolean(dtype) or pt.is_integer(dtype) or pt.is_floating(dtype) or pt.is_null(dtype):
        return "number"
    if pt.is_string(dtype) or pt.is_large_string(dtype):
        return "text"
    if pt.is_dictionary(dtype) and kind(name, dtype.value_type) == "text":
        return "text"
    raise SchemaError(
        f"feature '{name}' is {dtype}; the model reads numbers, booleans and strings; derive one of these in an "
        f"on-demand function, or leave it out with Trainer.Config(ignore=('{name}',))"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """`numbers` and `texts` in the order of the features."""

    numbers: tuple[Number, ...]
    texts: tuple[Text, ...]

    @classmethod
    def learn(cls, kinds: Mapping[str, str], seen: Statistics, max_categories: int) -> "Preprocessing":
        return cls(
            numbers=tuple(Number.learn(n, seen.numbers[n]) for n, k in kinds.items() if k == "number"),
            texts=tuple(Text.learn(n, seen.categories[n], max_categories) for n, k in kinds.items() if k == "text"),
        )

    @property
    def width(self) -> int:
        """Columns of `Encoded.numbers`."""
        return sum(2 if number.indicator else 1 for number in self.numbers)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes per text feature."""
        return tuple(text.size for text in self.texts)

    def column_names(self) -> list[str]:
        """The feature behind each column of `Encoded.numbers`."""
        return [number.name for number in self.numbers for _ in range(2 if number.indicator else 1)]

    def encode(self, table: pa.Table) -> Encoded:
        """Row by row: a row's arrays do not depend on its neighbours."""
        numbers = [number.encode(column_of(table, number.name, "number")) for number in self.numbers]
        codes = [text.encode(column_of(table, text.name, "text")) for text in self.texts]
        unseen = {t.name: int((c == UNSEEN).sum()) for t, c in zip(self.texts, codes, strict=True)}
        return Encoded(
            stack(numbers, table.num_rows, np.float32),
            stack([code[np.newaxis] for code in codes], table.num_rows, np.int32),
            Counter(unseen),
        )

    def save(self, path: Path) -> None:
        numbers = [
            {"name": n.name, "mean": n.mean.hex(), "std": n.std.hex(), "indicator": n.indicator} for n in self.numbers
        ]
        texts = [{"name": t.name, "vocabulary": t.vocabulary} for t in self.texts]
        content = {"format": 1, "numbers": numbers, "texts": texts}
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Preprocessing":
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                numbers=tuple(
                    Number(
                        name=n["name"],
                        mean=float.fromhex(n["mean"]),
                        std=float.fromhex(n["std"]),
                        indicator=n["indicator"],
                    )
                    for n in content["numbers"]
                ),
                texts=tuple(Text(name=t["name"], vocabulary=tuple(t["vocabulary"])) for t in content["texts"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CorruptArtifact(f"{path} is not a preprocessing file ({error}); restore the checkpoint") from error


def stack(rows: Sequence[NDArray[Any]], count: int, dtype: type) -> NDArray[Any]:
    """(count, sum of heights), contiguous; (count, 0) of nothing."""
    if not rows:
        return np.zeros((count, 0), dtype)
    return np.ascontiguousarray(np.concatenate(rows).T, dtype=dtype)


def column_of(table: pa.Table, name: str, wanted: str) -> pa.ChunkedArray:
    """The column, refused where it is absent or of another kind; an all-null column fits both."""
    if name not in table.column_names:
        raise SchemaError.missing_column("the model", name, "the feature vectors", table.column_names)
    column = table.column(name)
    if not pt.is_null(column.type) and kind(name, column.type) != wanted:
        raise SchemaError(f"the model: feature '{name}' was a {wanted} in training and is {column.type} here")
    return column
