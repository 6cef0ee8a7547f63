"""Labels are counted by part, whatever the blocks; what cannot be learned from is refused before training."""

import numpy as np
import pyarrow as pa
import pytest

from mlray.errors import ConfigError, TrainingFailed
from mlray.training.labels import Labels, check, class_weights, observe, task_for
from mlray.training.task import Task

PARTS = ("train", "validation", "test")


def seen(kind: str, values: list[object], parts: list[int]) -> Labels:
    return observe(kind, pa.chunked_array([pa.array(values)]), np.array(parts, np.int8))


def refused(kind: str, values: list[object], parts: list[int]) -> str:
    with pytest.raises(TrainingFailed) as caught:
        check(kind, "sort", seen(kind, values, parts), {part: parts.count(part) for part in range(3)}, PARTS)
    return str(caught.value)


@pytest.mark.parametrize(("kind", "values"), [
    ("binary", [0, 1, None, 1, 2, 0]),
    ("multiclass", ["a", "b", None, "a", "c", "c"]),
    ("regression", [0.5, 1.5, None, float("inf"), 2.5, -1.0]),
])
def test_counts_do_not_depend_on_blocks(kind: str, values: list[object]) -> None:
    parts = [0, 0, 1, 1, 2, -1]
    whole, pieces = seen(kind, values, parts), Labels()
    for i in (5, 4, 3, 2, 1, 0):
        pieces.add(seen(kind, [values[i], None], [parts[i], 7]))
    del pieces.missing[7]
    assert pieces == whole


def test_classes_are_those_of_the_training_part_in_order() -> None:
    assert task_for("multiclass", pa.string(), seen("multiclass", ["b", "a", "c"], [0, 0, -1])).classes == ("a", "b")
    assert task_for("multiclass", pa.int8(), seen("multiclass", [10, 9, 2], [0, 0, 0])).classes == ("2", "9", "10")


def test_a_binary_label_with_other_values_is_refused_with_the_two_remedies() -> None:
    message = refused("binary", [0, 1, 2], [0, 0, 0])
    assert "must be 0 or 1 (or false or true); it also has 2.0; train with task='multiclass'" in message


def test_a_value_that_is_not_finite_is_refused() -> None:
    assert "must be finite; it also has inf" in refused("regression", [0.0, float("inf")], [0, 0])


def test_a_missing_label_is_refused() -> None:
    assert "label 'sort' is null in 1 of 2 rows" in refused("multiclass", ["a", None], [0, 1])


@pytest.mark.parametrize(("kind", "values", "value"), [
    ("binary", [0, 1, 1, 1], "1"), ("multiclass", ["a", "b", "a", "a"], "a"), ("regression", [0.5, 1.0, 3.0, 3.0], "3"),
])
def test_a_constant_label_is_refused(kind: str, values: list[object], value: str) -> None:
    message = refused(kind, values, [0, 0, 1, 1])
    assert f"label 'sort' is {value} in all 2 rows of the validation part" in message


def test_a_class_that_training_does_not_have_is_refused() -> None:
    assert "classes in the test part that the train part does not have: c" in refused(
        "multiclass", ["a", "b", "a", "b", "a", "c"], [0, 0, 1, 1, 2, 2]
    )


def test_balanced_weights_are_rows_over_classes_and_rows_of_the_class() -> None:
    counted = seen("binary", [0, 0, 0, 1], [0, 0, 0, 0])
    assert class_weights("balanced", Task(), counted) == (4 / 6, 4 / 2)
    assert class_weights(None, Task(), counted) == ()


def test_weights_are_by_the_class_s_name_and_one_where_it_is_left_out() -> None:
    task = Task(kind="multiclass", classes=("apple", "fig"))
    assert class_weights({"fig": 3.0}, task, Labels()) == (1.0, 3.0)


def test_weights_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ConfigError, match="no setting '2'; known are 0, 1"):
        class_weights({"2": 1.0}, Task(), seen("binary", [0, 1], [0, 0]))
    with pytest.raises(ConfigError, match="a regression, which has no classes"):
        class_weights("balanced", Task(kind="regression"), Labels())
