import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlray.training.evaluate import accuracy, auc, brier, evaluate, log_loss

PAIRS = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])), min_size=1, max_size=30)


@given(PAIRS)
def test_auc_is_the_share_of_pairs_in_the_right_order_and_half_the_ties(pairs: list[tuple[bool, float]]) -> None:
    labels = np.array([float(label) for label, _ in pairs])
    scores = np.array([score for _, score in pairs])
    wins = [(p > n) + (p == n) / 2 for p in scores[labels == 1] for n in scores[labels == 0]]

    expected = sum(wins) / len(wins) if wins else math.nan
    assert auc(labels, scores) == pytest.approx(expected, abs=1e-15, nan_ok=True)


@given(PAIRS)
def test_auc_does_not_depend_on_the_order_of_rows(pairs: list[tuple[bool, float]]) -> None:
    rows = np.array(pairs, dtype=float)
    np.testing.assert_equal(auc(rows[::-1, 0], rows[::-1, 1]), auc(rows[:, 0], rows[:, 1]))


def test_the_scores_of_a_hand_made_example() -> None:
    labels, scores = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.8, 0.4, 0.5, 0.6])

    assert auc(labels, scores) == 0.75
    assert accuracy(labels, scores) == 0.75
    assert brier(labels, scores) == pytest.approx((0.04 + 0.16 + 0.25 + 0.36) / 4)
    assert log_loss(labels, scores) == pytest.approx(-math.log(0.8 * 0.6 * 0.5 * 0.4) / 4)
    assert evaluate(labels, scores)["positive_share"] == 0.5


def test_a_certain_and_wrong_score_costs_a_finite_loss() -> None:
    assert log_loss(np.array([1.0]), np.array([0.0])) == pytest.approx(-math.log(1e-15))
