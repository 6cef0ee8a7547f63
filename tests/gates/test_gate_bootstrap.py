"""The bootstrap: a draw written as counts is the draw of the rows themselves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlray.gates.bootstrap import interval, replicates, statistic
from mlray.training.evaluate import auc
from mlray.training.task import Task

ROWS = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=40)


@given(ROWS)
def test_an_auc_of_counts_is_the_auc_of_the_rows_that_often(rows: list[tuple[float, int, int]]) -> None:
    labels, scores, counts = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    times = counts.astype(np.int64)
    fast = statistic(Task(), "auc", labels, scores)(times)
    slow = auc(np.repeat(labels, times), np.repeat(scores, times))
    assert fast == pytest.approx(slow, abs=1e-12, nan_ok=True)


def test_the_same_seed_gives_the_same_draws_and_each_has_as_many_rows() -> None:
    drawn: list[int] = []

    def rows(counts: np.ndarray) -> float:
        drawn.append(int(counts.sum()))
        return float(counts[0])

    first = replicates([rows], 50, samples=20, seed=(1, 2))
    assert np.array_equal(first, replicates([rows], 50, samples=20, seed=(1, 2)))
    assert not np.array_equal(first, replicates([rows], 50, samples=20, seed=(1, 3)))
    assert set(drawn) == {50}


def test_figures_of_one_call_see_the_same_draws_so_a_difference_is_a_paired_one() -> None:
    random = np.random.default_rng(0)
    labels = (random.random(500) < 0.4).astype(np.float64)
    scores = labels + random.normal(0, 1, 500)
    pair = [statistic(Task(), "auc", labels, one) for one in (scores, scores + 1e-9 * random.random(500))]
    drawn = replicates(pair, 500, samples=50, seed=(0,))
    alone = interval(drawn[:, 0], 0.95)
    difference = interval(drawn[:, 0] - drawn[:, 1], 0.95)
    assert alone[1] - alone[0] > 0.05
    assert difference[1] - difference[0] < 1e-6


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random, covered = np.random.default_rng(3), 0
    for i in range(100):
        labels = (random.random(150) < 0.5).astype(np.float64)
        one = statistic(Task(), "accuracy", labels, np.full(150, 0.9))  # right for a half of all rows
        low, high = interval(replicates([one], 150, samples=100, seed=(i,))[:, 0], 0.9)
        covered += low <= 0.5 <= high
    assert 80 <= covered <= 99


def test_draws_of_one_class_only_are_left_out_and_no_draw_leaves_no_interval() -> None:
    assert interval(np.array([0.2, np.nan, 0.4]), 0.5) == pytest.approx((0.25, 0.35))
    assert np.isnan(interval(np.array([np.nan]), 0.95)).all()
