"""The ranges of one query, the shortest first: the windows of an aggregate end alike, so that each holds the last."""

from typing import Any

from mlray.aggregation.aggregate import Plain, Spans

Step = tuple[int, list[Any], bool]
"""Which range, what it adds in front of the one before, and whether it begins anew."""


def growing(values: Plain, ranges: Spans) -> list[Step]:
    """Every range once. Where a step does not begin anew, its range is its piece followed by the range before."""
    return values.once(("growing", tuple(ranges)), lambda: _growing(values.cells, ranges))


def _growing(cells: list[Any], ranges: Spans) -> list[Step]:
    steps: list[Step] = []
    start, end = 0, -1
    for which in sorted(range(len(ranges)), key=lambda i: (ranges[i][1], -ranges[i][0])):
        lo, hi = ranges[which]
        anew = hi != end
        steps.append((which, cells[lo : hi if anew else start], anew))
        start, end = lo, hi
    return steps
