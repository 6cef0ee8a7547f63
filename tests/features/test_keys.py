"""Keys as codes: whichever way the distinct ones are found, each row has the position of its own key."""

import numpy as np
import pyarrow as pa
import pytest

from mlray.features.keys import distinct

RNG = np.random.default_rng(5)
KEYS = {
    "none": [],
    "close together": RNG.integers(-50, 50, 1000).tolist(),
    "far apart": RNG.choice([-(2**63), -7, 0, 2**40, 2**63 - 1], 1000).tolist(),
    "far apart and many": RNG.integers(0, 2**62, 70_000).repeat(2).tolist(),
    "in order": [-(2**63), *sorted(RNG.integers(-50, 50, 1000).tolist()), 2**63 - 1],
    "one": [7],
    "text": RNG.choice(["", "a", "\0", "ä"], 1000).tolist(),
}


@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
def test_a_row_has_the_position_of_its_key_among_the_distinct_ones(keys: list[int | str]) -> None:
    table = pa.table({"k": pa.array(keys, pa.string() if isinstance((keys or [0])[0], str) else pa.int64())})
    dictionary, codes = distinct(table)
    assert dictionary.schema == table.schema
    assert dictionary["k"].take(pa.array(codes)).to_pylist() == keys
    assert len(set(dictionary["k"].to_pylist())) == dictionary.num_rows == len(set(keys))
