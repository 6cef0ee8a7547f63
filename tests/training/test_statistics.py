from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlray.errors import TrainingFailed
from mlray.training import statistics
from mlray.training.labels import Labels
from mlray.training.preparation import assign_parts, observe
from mlray.training.statistics import GRID, Moments, Statistics, merge, squash
from tests.training.made import SPLIT, columns, table

ANY = st.lists(st.floats(), max_size=40)


@given(ANY, st.integers(0, 40))
def test_moments_of_two_blocks_are_those_of_one(values: list[float], cut: int) -> None:
    whole = np.array(values, dtype=np.float64)
    assert Moments.of(whole[:cut]) + Moments.of(whole[cut:]) == Moments.of(whole[::-1].copy())


@given(ANY)
def test_moments_are_the_exact_sums_over_the_grid(values: list[float]) -> None:
    array = np.array(values, dtype=np.float64)
    usable = array[~np.isnan(array)]
    grid = [int(q) for q in np.rint(squash(usable) * GRID)]

    moments = Moments.of(array)

    assert (moments.total, moments.squares) == (sum(grid), sum(q * q for q in grid))
    if len(set(grid)) > 1:
        mean = Fraction(sum(grid), len(grid))
        variance = sum((q - mean) ** 2 for q in grid) / len(grid) / GRID**2
        assert moments.std() == pytest.approx(float(variance) ** 0.5, rel=1e-12)


def test_a_number_that_does_not_vary_is_scaled_by_one() -> None:
    assert Moments.of(np.array([5.0, 5.0, np.nan])).std() == 1.0
    assert Moments.of(np.array([np.nan])).mean() == 0.0


def test_statistics_do_not_depend_on_blocks() -> None:
    data = table(500)
    read = columns(data)
    block = assign_parts(data, read, SPLIT)

    pieces = [observe(block.slice(start, 37), read) for start in range(0, 500, 37)]

    assert merge(pieces[::-1]) == observe(block, read)


def test_a_text_that_names_rows_is_refused_before_all_of_it_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    #  two blocks have more distinct texts together than are taken: the third is not looked at
    def blocks() -> Iterator[Statistics]:
        for block in range(2):
            yield Statistics(categories={"user_id": Counter(map(str, range(block * 600, (block + 1) * 600)))})
        raise AssertionError

    monkeypatch.setattr(statistics, "MOST_DISTINCT", 1000)
    with pytest.raises(TrainingFailed, match=r"'user_id' has more than 1,000 distinct texts .* ignore it, or group"):
        merge(blocks())


def test_a_label_of_very_many_values_is_refused_while_it_is_counted() -> None:
    labels = Labels(classes=Counter({(0, str(i)): 1 for i in range(100_001)}))
    with pytest.raises(TrainingFailed, match=r"the label has more than 100000 values, .* task='regression'"):
        merge([Statistics(labels=labels)])


def test_only_the_training_part_is_learned_from() -> None:
    data = table(500)
    read = columns(data)
    late = pa.concat_tables([data.slice(0, 300), data.slice(300).set_column(6, "country", pa.array(["XX"] * 200))])

    seen = observe(assign_parts(late, read, SPLIT), read)

    assert set(seen.categories["country"]) == {"DE", "FR", "PT"}
    assert seen.numbers["amount"] == Moments.of(data["amount"].to_numpy()[:300])
