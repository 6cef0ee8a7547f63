from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mlray.errors import CorruptArtifact, SchemaError
from mlray.training.preprocessing import Number, Preprocessing, Text, kind
from tests.training.made import columns, parts, table

NUMBER = Number(name="x", mean=0.0, std=1.0, indicator=True)
TEXT = Text(name="c", vocabulary=("a", "b"))


def chunked(values: list[object], dtype: pa.DataType | None = None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, dtype)])


def test_null_and_nan_are_zero_with_the_indicator_set() -> None:
    encoded = NUMBER.encode(chunked([None, float("nan"), 0.0], pa.float64()))
    assert encoded.tolist() == [[0.0, 0.0, 0.0], [1.0, 1.0, 0.0]]


def test_numbers_are_squashed_and_clipped() -> None:
    encoded = NUMBER.encode(chunked([1e300, float("-inf"), np.e - 1]))
    np.testing.assert_allclose(encoded[0], [8.0, -8.0, 1.0], rtol=1e-6)


def test_a_feature_that_was_never_missing_in_training_has_no_indicator() -> None:
    assert Number(name="x", mean=1.0, std=1.0, indicator=False).encode(chunked([None], pa.int64())).tolist() == [[0.0]]


def test_unseen_is_0_missing_is_1_and_the_vocabulary_follows() -> None:
    assert TEXT.encode(chunked(["b", "z", None, "a"])).tolist() == [3, 0, 1, 2]


@pytest.mark.parametrize("dtype", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_every_text_type_gives_the_same_codes(dtype: pa.DataType) -> None:
    assert TEXT.encode(chunked(["b", None]).cast(dtype)).tolist() == [3, 1]


def test_an_all_null_column_is_missing_to_numbers_and_texts() -> None:
    assert NUMBER.encode(chunked([None])).tolist() == [[0.0], [1.0]]
    assert TEXT.encode(chunked([None])).tolist() == [1]


def test_the_vocabulary_keeps_the_most_frequent_and_breaks_ties_by_text() -> None:
    assert Text.learn("c", Counter({"x": 1, "b": 5, "a": 1}), largest=2).vocabulary == ("a", "b")


def test_unseen_categories_are_counted() -> None:
    data = table(300)
    preprocessing, _ = parts(data, columns(data))
    strange = data.set_column(6, "country", pa.array(["XX"] * 100 + ["PT"] * 200))
    assert preprocessing.encode(strange).unseen == {"country": 100}


def test_a_saved_preprocessing_is_the_same_to_the_bit(tmp_path: Path) -> None:
    data = table(300)
    preprocessing, _ = parts(data, columns(data))
    preprocessing.save(tmp_path / "preprocessing.json")
    assert Preprocessing.load(tmp_path / "preprocessing.json") == preprocessing


def test_a_torn_file_is_a_corrupt_artifact(tmp_path: Path) -> None:
    (tmp_path / "preprocessing.json").write_text('{"numbers": [')
    with pytest.raises(CorruptArtifact, match="is not a preprocessing file"):
        Preprocessing.load(tmp_path / "preprocessing.json")


@pytest.mark.parametrize("dtype", [pa.timestamp("us", "UTC"), pa.date32(), pa.list_(pa.int64()), pa.binary()])
def test_a_type_that_the_model_cannot_read_is_refused_with_the_remedy(dtype: pa.DataType) -> None:
    with pytest.raises(SchemaError, match=r"feature 'seen_at' is .*ignore=\('seen_at',\)"):
        kind("seen_at", dtype)


def test_a_missing_feature_is_named_with_the_nearest_one() -> None:
    data = table(100)
    preprocessing, _ = parts(data, columns(data))
    with pytest.raises(SchemaError, match=r"'amount' is not in the feature vectors.*did you mean 'amounts'"):
        preprocessing.encode(data.rename_columns(["at", "bought", "amounts", "visits", "rate", "weekend", "country"]))


def test_a_feature_of_another_kind_than_in_training_is_refused() -> None:
    data = table(100)
    preprocessing, _ = parts(data, columns(data))
    with pytest.raises(SchemaError, match="'amount' was a number in training and is string here"):
        preprocessing.encode(data.set_column(2, "amount", pa.array(["1"] * 100)))
