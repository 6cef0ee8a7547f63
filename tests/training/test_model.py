from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from mlray.errors import CorruptArtifact
from mlray.training.model import MODEL_FILES, Model, Signature, load_model
from mlray.training.network import Features, NetworkScorer
from mlray.training.task import Task
from tests.training.made import FEATURES, columns, parts, table


def model(data: pa.Table) -> Model:
    preprocessing, _ = parts(data, columns(data))
    torch.manual_seed(0)
    scorer = NetworkScorer.build("mlp", {"hidden": (16, 8)}, Features.of(preprocessing, Task()))
    inputs = {name: str(data.schema.field(name).type) for name in FEATURES}
    return Model(scorer, preprocessing, Signature(inputs=inputs, label="bought"))


def test_a_saved_model_predicts_the_same_to_the_bit(tmp_path: Path) -> None:
    data = table(300)
    made = model(data)
    made.save(tmp_path / "m")

    loaded = load_model(tmp_path / "m")

    np.testing.assert_array_equal(loaded.predict(data), made.predict(data))
    assert loaded.features == tuple(FEATURES)
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == sorted(MODEL_FILES)


def test_saving_what_was_loaded_gives_the_same_bytes(tmp_path: Path) -> None:
    model(table(300)).save(tmp_path / "a")
    load_model(tmp_path / "a").save(tmp_path / "b")
    for name in MODEL_FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert {tensor.dtype for tensor in load_file(tmp_path / "a" / "model.safetensors").values()} == {torch.float32}


def test_a_row_alone_and_in_a_batch_agree_within_1e_12() -> None:
    data = table(200)
    made = model(data)
    alone = np.concatenate([made.predict(data.slice(i, 1)) for i in range(200)])
    np.testing.assert_allclose(alone, made.predict(data), rtol=0, atol=1e-12)


def test_an_unseen_category_and_nothing_at_all_still_give_a_probability() -> None:
    data = table(200)
    strange = pa.table({name: pa.nulls(2) for name in FEATURES[:-1]} | {"country": ["Atlantis", None]})

    predicted = model(data).predict(strange)

    assert predicted.dtype == np.float64
    assert ((predicted > 0) & (predicted < 1)).all()
    assert predicted[0] == predicted[1]  # both buckets are neutral until training meets one


def test_no_rows_give_no_predictions() -> None:
    data = table(200)
    assert model(data).predict(data.slice(0, 0)).shape == (0,)


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "signature.json"])
def test_a_torn_file_is_a_corrupt_artifact(tmp_path: Path, name: str) -> None:
    model(table(200)).save(tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptArtifact, match="does not hold a model of this version"):
        load_model(tmp_path)


def test_preprocessing_of_another_model_is_refused(tmp_path: Path) -> None:
    model(table(200)).save(tmp_path)
    other = table(200).set_column(6, "country", pa.array(["DE"] * 200))
    parts(other, columns(other))[0].save(tmp_path / "preprocessing.json")
    with pytest.raises(CorruptArtifact, match="are not of one model"):
        load_model(tmp_path)
