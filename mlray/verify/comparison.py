"""What is compared, added up: rows, cells, those that differ, and the first of those told in full."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlray.aggregation.window import Instants
from mlray.verify.cells import unequal
from mlray.verify.evidence import Evidence
from mlray.verify.result import SHOWN, Difference


@dataclass
class Comparison:
    """One part of a verification as it goes on; part: 'replay', 'live' or 'log'."""

    part: str
    rows: int = 0
    cells: int = 0
    different: int = 0
    excused: int = 0
    """Cells that differ and are counted apart: stale ones, late ones."""
    told: list[Difference] = field(default_factory=list)

    def add(
        self,
        rows: pa.Table,
        at: Instants,
        wanted: pa.Table,
        found: pa.Table,
        evidence: Callable[[int], Evidence],
        excused: NDArray[np.bool_] | None = None,
    ) -> None:
        """Rows as they were asked, the offline and the online answers; evidence: of a row by its position; excused:
        which cells may differ.
        """
        differs = unequal(wanted, found)
        wrong = differs if excused is None else differs & ~excused
        self.rows += wanted.num_rows
        self.cells += differs.size
        self.different += int(wrong.sum())
        self.excused += int(differs.sum()) - int(wrong.sum())
        for row, column in np.argwhere(wrong).tolist()[: SHOWN - len(self.told)]:
            name = wanted.column_names[column]
            values = wanted.column(name)[row].as_py(), found.column(name)[row].as_py()
            here = at.take(np.array([row]))
            self.told.append(evidence(row).difference(self.part, name, rows.slice(row, 1), here, values))
