"""scikit-learn's estimators as models: their settings, their file, what of it is trusted."""

import os
from pathlib import Path

import numpy as np
import pytest
import skops.io
from sklearn.calibration import CalibratedClassifierCV
from sklearn.svm import LinearSVC

from mlray.errors import ConfigError, CorruptArtifact, DefinitionChanged, TrainingFailed
from mlray.training.design import Design
from mlray.training.model import Model, Signature, load_model
from mlray.training.sklearn_model import SklearnScorer, estimator_of, untrusted
from mlray.training.task import Task
from tests.training.made import FEATURES, columns, parts, table

DATA = table(300)
PREPROCESSING, ROWS = parts(DATA, columns(DATA))
TRAIN = ROWS["train"]
FOREST = "sklearn.ensemble:RandomForestClassifier"


def calibrated(tol: float = 1e-4) -> CalibratedClassifierCV:
    """A user's function that makes an estimator."""
    return CalibratedClassifierCV(LinearSVC(tol=tol), cv=2)


def fitted(path: str, task: Task = Task(), *, one_hot: bool = False, **arguments: object) -> Model:  # noqa: B008
    design = Design.of(PREPROCESSING, one_hot=one_hot)
    labels = TRAIN.labels if task.kind != "multiclass" else TRAIN.codes[:, 0] - 1
    estimator = estimator_of(path, arguments, seed=3).fit(design.matrix(TRAIN.numbers, TRAIN.codes), labels)
    inputs = {name: str(DATA.schema.field(name).type) for name in FEATURES}
    signature = Signature.of(inputs, "bought", task, model=path)
    return Model(SklearnScorer(path, estimator, design, task), PREPROCESSING, signature)


@pytest.mark.parametrize("path", [
    FOREST,
    "sklearn.ensemble:HistGradientBoostingClassifier",
    "sklearn.ensemble:GradientBoostingClassifier",
    "sklearn.linear_model:LogisticRegression",
    "sklearn.neighbors:KNeighborsClassifier",
    "tests.training.test_sklearn_model:calibrated",
])
@pytest.mark.parametrize("one_hot", [False, True])
def test_a_saved_classifier_predicts_the_same_to_the_bit(path: str, one_hot: bool, tmp_path: Path) -> None:
    made = fitted(path, one_hot=one_hot)
    made.save(tmp_path)
    np.testing.assert_array_equal(load_model(tmp_path).predict(DATA), made.predict(DATA))
    assert sorted(os.listdir(tmp_path)) == ["model.json", "model.skops", "preprocessing.json", "signature.json"]


def test_a_regressor_gives_values_and_several_classes_a_column_each(tmp_path: Path) -> None:
    values = fitted("sklearn.linear_model:Ridge", Task(kind="regression"))
    classes = fitted("sklearn.tree:DecisionTreeClassifier", Task(kind="multiclass", classes=("-", "DE", "FR", "PT")))
    classes.save(tmp_path)
    assert values.predict(DATA).shape == (300,)
    assert load_model(tmp_path).predict(DATA).shape == (300, 4)
    assert load_model(tmp_path).predict(DATA.slice(0, 0)).shape == (0, 4)


def test_the_same_rows_and_seed_give_the_same_predictions_to_the_bit() -> None:
    np.testing.assert_array_equal(fitted(FOREST).predict(DATA), fitted(FOREST).predict(DATA))
    assert estimator_of(FOREST, {}, seed=3).random_state == 3
    assert estimator_of(FOREST, {"random_state": 8}, seed=3).random_state == 8


def test_one_hot_columns_are_one_for_each_code_and_carry_the_feature_s_name() -> None:
    design = Design.of(PREPROCESSING, one_hot=True)
    matrix = design.matrix(TRAIN.numbers[:5], TRAIN.codes[:5])
    width, sizes = PREPROCESSING.width, PREPROCESSING.sizes
    assert design.columns[width:] == ("country",) * sizes[0]
    assert matrix[:, width:].argmax(axis=1).tolist() == TRAIN.codes[:5, 0].tolist()
    np.testing.assert_array_equal(matrix[:, :width], TRAIN.numbers[:5])


@pytest.mark.parametrize(("path", "arguments", "message"), [
    ("sklearn.ensemble:RandomForestClasifier", {}, "has no attribute 'RandomForestClasifier'"),
    (FOREST, {"trees": 3}, "takes n_estimators, .*it was given {'trees': 3}"),
    ("sklearn.preprocessing:StandardScaler", {}, "a StandardScaler, which is no classifier and no regressor"),
    ("sklearn.svm:LinearSVC", {}, "gives no probabilities.*CalibratedClassifierCV"),
])
def test_an_estimator_that_cannot_serve_is_refused(path: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        estimator_of(path, arguments, seed=0)


class Evil:
    """What an attacker would put into a file."""


def test_a_file_with_an_unknown_type_is_refused_and_the_type_named(tmp_path: Path) -> None:
    made = fitted(FOREST, n_estimators=2)
    made.save(tmp_path)
    made.scorer.estimator.note = Evil()  # type: ignore[attr-defined]
    (tmp_path / "model.skops").write_bytes(data := skops.io.dumps(made.scorer.estimator))  # type: ignore[attr-defined]
    assert untrusted(data) == [f"{Evil.__module__}.Evil"]
    with pytest.raises(CorruptArtifact, match=rf"types that are not trusted: {Evil.__module__}\.Evil"):
        load_model(tmp_path)
    with pytest.raises(TrainingFailed, match=rf"cannot be kept: it holds {Evil.__module__}\.Evil"):
        made.save(tmp_path / "again")


def test_an_estimator_of_another_scikit_learn_is_refused(tmp_path: Path) -> None:
    fitted(FOREST, n_estimators=2).save(tmp_path)
    text = (tmp_path / "model.json").read_text()
    (tmp_path / "model.json").write_text(text.replace('"sklearn": "1.', '"sklearn": "0.'))
    with pytest.raises(DefinitionChanged, match=r"trained with scikit-learn 0\..*install scikit-learn 0\."):
        load_model(tmp_path)


def test_a_torn_file_is_a_corrupt_artifact(tmp_path: Path) -> None:
    fitted(FOREST, n_estimators=2).save(tmp_path)
    whole = (tmp_path / "model.skops").read_bytes()
    (tmp_path / "model.skops").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptArtifact, match="does not hold a model of this version"):
        load_model(tmp_path)
