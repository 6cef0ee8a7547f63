"""The gate `bias`: differences between groups as Fairlearn has them, and no zero for a group that says nothing."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference

from mlray.errors import ConfigError
from mlray.gates.bias import examine
from mlray.gates.result import Result
from mlray.gates.scored import Scored
from mlray.gates.settings import Bias
from mlray.training.task import Task

ROWS = 4000
RANDOM = np.random.default_rng(0)
GROUP = RANDOM.choice(["a", "b"], ROWS)
LABELS = (RANDOM.random(ROWS) < 0.4).astype(np.float64)
FAIR = np.clip(0.5 * LABELS + RANDOM.random(ROWS) * 0.6, 0, 1)
UNFAIR = FAIR - 0.3 * (GROUP == "b")


def found(scores: np.ndarray, groups: dict[str, Any], labels: np.ndarray = LABELS, **settings: Any) -> Result:
    scored = Scored(labels=labels, predictions=scores, columns=pa.table(groups))
    return examine(scored, Task(), Bias(groups=tuple(groups), **settings))


def test_the_differences_are_those_of_fairlearn() -> None:
    table = found(UNFAIR, {"group": GROUP}).details["groups"][0]
    decided = (UNFAIR >= 0.5).astype(int)
    assert table["demographic_parity"] == demographic_parity_difference(LABELS, decided, sensitive_features=GROUP)
    assert table["equalized_odds"] == equalized_odds_difference(LABELS, decided, sensitive_features=GROUP)


def test_a_difference_beyond_what_is_allowed_fails_and_is_named() -> None:
    assert found(FAIR, {"group": GROUP}).passed
    failed = found(UNFAIR, {"group": GROUP}, max_demographic_parity=0.05, max_equalized_odds=1.0)
    assert not failed.passed
    assert failed.problems[0].startswith("demographic_parity by group differs by 0.")
    assert failed.value == failed.details["groups"][0]["demographic_parity"]
    assert failed.threshold == 0.05


def test_a_small_group_is_named_as_small_and_decides_nothing() -> None:
    group = np.where(np.arange(ROWS) < 50, "tiny", GROUP)
    scores = np.where(group == "tiny", 0.0, FAIR)  # never decided yes
    result = found(scores, {"group": group})
    tiny = result.details["groups"][0]["groups"][2]
    assert result.passed
    assert (tiny["group"], tiny["rows"], tiny["size"], tiny["selection_rate"]) == ("tiny", 50, "small", None)
    assert result.notes == ("by group, small and not compared: tiny",)


def test_a_group_without_a_positive_has_no_true_positive_rate_and_not_zero() -> None:
    labels, noise = np.where(GROUP == "b", 0.0, LABELS), np.random.default_rng(1).random(ROWS)
    result = found(noise, {"group": GROUP}, labels)
    table = result.details["groups"][0]
    assert not result.passed
    wanted = "equalized_odds by group: fewer than two groups have enough rows for a true positive rate"
    assert result.problems == (wanted,)
    assert [line["true_positive_rate"] for line in table["groups"]] == [None, None]
    assert all(line["false_positive_rate"] is not None for line in table["groups"])
    assert table["equalized_odds"] < 0.1  # of the false positives alone
    assert equalized_odds_difference(labels, (noise >= 0.5).astype(int), sensitive_features=GROUP) > 0.4


@pytest.mark.parametrize(("label", "rate"), [("yes", "true positive"), ("no", "false positive")])
def test_a_large_group_with_few_of_a_label_is_named_too(label: str, rate: str) -> None:
    group = RANDOM.choice(["a", "b", "c"], ROWS)
    labels = np.where(group == "c", float(label == "no"), LABELS)
    result = found(FAIR, {"group": group}, labels, max_equalized_odds=1.0, max_demographic_parity=1.0)
    assert result.passed  # a and b are compared in both, c in what can be said of it
    assert result.notes == (f"by group, too few rows labelled {label}, {rate} rate not compared: c",)


def test_groups_are_crossed_and_a_crossing_without_rows_is_named_as_empty() -> None:
    other = np.where(GROUP == "a", "x", RANDOM.choice(["x", "y"], ROWS))
    result = found(FAIR, {"group": GROUP, "other": other})
    crossing = result.details["groups"][2]
    assert crossing["column"] == "group x other"
    sizes = {line["group"]: line["size"] for line in crossing["groups"]}
    assert sizes == {"a, x": "compared", "a, y": "empty", "b, x": "compared", "b, y": "compared"}
    assert "by group x other, empty and not compared: a, y" in result.notes


def test_a_crossing_that_is_decided_otherwise_fails_where_neither_of_its_groups_does() -> None:
    other = RANDOM.choice(["x", "y"], ROWS)
    scores = FAIR - 0.3 * ((GROUP == "a") == (other == "x"))  # a half of each group
    result = found(scores, {"group": GROUP, "other": other})
    assert [problem.split(" differs")[0] for problem in result.problems] == [
        "demographic_parity by group x other",
        "equalized_odds by group x other",
    ]
    alone = found(scores, {"group": GROUP, "other": other}, crossings=False)
    assert (alone.passed, len(alone.details["groups"])) == (True, 2)


def test_the_answer_is_yes_from_the_decision_on_and_a_number_is_a_group_by_its_quantile() -> None:
    age = np.where(GROUP == "b", 70.0, 30.0)
    table = found(UNFAIR, {"age": age}, decision=0.3, bins={"age": 2}).details["groups"][0]
    assert table["demographic_parity"] == demographic_parity_difference(LABELS, UNFAIR >= 0.3, sensitive_features=GROUP)
    assert [line["group"] for line in table["groups"]] == ["< 70", ">= 70"]
    thirds = found(FAIR, {"age": RANDOM.random(ROWS)}, bins={"age": 3}).details["groups"][0]
    assert len(thirds["groups"]) == 3


def test_of_several_classes_one_is_the_yes_and_it_is_decided_where_it_is_the_likeliest() -> None:
    classes, place = Task(kind="multiclass", classes=("no", "maybe", "yes")), 2 * (UNFAIR >= 0.5).astype(int)
    scored = Scored(labels=2 * LABELS, predictions=np.eye(3)[place], columns=pa.table({"group": GROUP}))
    several = examine(scored, classes, Bias(groups=("group",), positive="yes"))
    assert several.details["groups"] == found(UNFAIR, {"group": GROUP}).details["groups"]
    with pytest.raises(ConfigError, match=r"positive='oui'; it must be one of no, maybe, yes"):
        examine(scored, classes, Bias(groups=("group",), positive="oui"))
    with pytest.raises(ConfigError, match="about yes-or-no decisions and the task is a regression"):
        examine(scored, Task(kind="regression"), Bias(groups=("group",)))


def test_where_nothing_can_be_compared_nothing_passes() -> None:
    result = found(FAIR, {"group": np.full(ROWS, "a")})
    assert not result.passed
    assert result.problems[0] == (
        "demographic_parity by group: fewer than two groups have enough rows to be compared, "
        "see min_rows and min_of_label in [gates.bias]"
    )
    assert (result.value, result.gate("").value) == (None, None)


def test_a_gate_without_a_group_is_refused_when_it_is_declared() -> None:
    with pytest.raises(ConfigError, match="needs groups"):
        Bias()
