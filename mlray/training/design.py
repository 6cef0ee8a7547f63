"""The one matrix that trees and scikit-learn read, of the same encoded rows that a network reads."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mlray.training.preprocessing import Preprocessing


@dataclass(frozen=True, kw_only=True, slots=True)
class Design:
    """Numbers first, then per text its code, or with `one_hot` a column for each of its codes, 0 or 1."""

    numbers: tuple[str, ...]
    texts: tuple[str, ...]
    sizes: tuple[int, ...]
    one_hot: bool = False

    @classmethod
    def of(cls, preprocessing: Preprocessing, *, one_hot: bool) -> Self:
        return cls(
            numbers=tuple(preprocessing.column_names()),
            texts=tuple(text.name for text in preprocessing.texts),
            sizes=preprocessing.sizes,
            one_hot=one_hot,
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """The feature behind each column."""
        repeated = self.sizes if self.one_hot else (1,) * len(self.texts)
        return (*self.numbers, *(text for text, size in zip(self.texts, repeated, strict=True) for _ in range(size)))

    def matrix(
        self, numbers: NDArray[np.float32], codes: NDArray[np.int32], dtype: type[np.floating] = np.float64
    ) -> NDArray[np.floating]:
        """(n, len(columns)), row by row."""
        made = np.zeros((len(numbers), len(self.columns)), dtype)
        made[:, : len(self.numbers)] = numbers
        start = len(self.numbers)
        for i, size in enumerate(self.sizes):
            if self.one_hot:
                made[np.arange(len(codes)), start + codes[:, i]] = 1
            else:
                made[:, start] = codes[:, i]
            start += size if self.one_hot else 1
        return made
