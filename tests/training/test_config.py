import re
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlray.errors import ConfigError, TimeError
from mlray.training.config import Optimizer, Resources, Split, TrainerConfig
from mlray.training.preparation import microseconds, parts_of
from mlray.training.values import label_text
from tests.training.made import SPLIT, config

ENDS = {"train": SPLIT.train, "validation": SPLIT.validation, "test": SPLIT.test}
FILE = """
storage = "runs"
epochs = 4
workers = [1, 4]                # of section resources
learning_rate = 0.01            # of section optimizer
split = {train = 2026-01-10T00:00:00Z, validation = 2026-01-20T00:00:00Z, test = 2026-01-30T00:00:00Z, embargo = "36h"}

[optimizer]
name = "SGD"
arguments = {momentum = 0.9}

[schedule]
name = "CosineAnnealingLR"
arguments = {T_max = 4}
"""


def test_a_file_may_name_a_setting_with_or_without_its_section() -> None:
    read = TrainerConfig.from_json(tomllib.loads(FILE))
    assert read.resources == Resources(workers=(1, 4))
    assert read.optimizer == Optimizer(name="SGD", learning_rate=0.01, arguments={"momentum": 0.9})
    assert read.split.embargo == timedelta(hours=36)
    assert TrainerConfig.from_json(read.to_json()) == read


def test_the_settings_of_the_page_are_settings() -> None:
    page = Path(__file__).parents[2] / "docs" / "training_settings.md"
    [block] = re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL)
    read = TrainerConfig.from_json({"storage": "runs", **tomllib.loads(block)["training"]})
    assert (read.resources.workers, read.optimizer.clip, read.checkpoint.keep) == (4, 1.0, 3)


def test_a_section_may_be_given_as_a_mapping() -> None:
    made = TrainerConfig(split=ENDS, storage="runs", optimizer={"clip": 1.0})  # type: ignore[arg-type]
    assert (made.split, made.optimizer) == (SPLIT, Optimizer(clip=1.0))


def test_rows_within_the_embargo_after_a_boundary_are_left_out() -> None:
    #          day   1        10    12        20    22        30
    #                training )      [ validation )  [ test    )
    day = [datetime(2026, 1, d, tzinfo=UTC) for d in range(1, 32)]
    split = Split(train=day[9], validation=day[19], test=day[29], embargo=timedelta(days=2))
    part = parts_of(np.array([microseconds(d) for d in day]), split)
    found = {name: [d.day for d, p in zip(day, part, strict=True) if p == name] for name in (0, 1, 2, -1)}
    assert found == {0: [*range(1, 10)], 1: [*range(12, 20)], 2: [*range(22, 30)], -1: [10, 11, 20, 21, 30, 31]}


def test_a_misspelt_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no setting 'epoch'.*did you mean 'epochs'"):
        config(tmp_path, epoch=3)
    with pytest.raises(ConfigError, match=r"optimizer: there is no setting 'clop'.*did you mean 'clip'"):
        config(tmp_path, optimizer={"clop": 1})


@pytest.mark.parametrize(("settings", "message"), [
    ({"epochs": 0}, "epochs is 0; it must be at least 1"),
    ({"dropout": 1.0}, "dropout is 1.0"),
    ({"device": "gpu"}, "device is 'gpu'; it must be 'auto', 'cpu' or 'cuda'"),
    ({"batch_size": 100, "shuffle_rows": 250}, "a multiple of batch_size, for example 300"),
    ({"split": (SPLIT.test, SPLIT.validation, SPLIT.train)}, "three ascending instants"),
    ({"split": (SPLIT.train, SPLIT.validation)}, "{train, validation, test}, the end of each part"),
    ({"split": ENDS | {"embargo": "20h"}}, "with an embargo of 20:00:00'; it must be three ascending instants"),
    ({"run": "../elsewhere"}, "a plain name"),
    ({"workers": (3, 2)}, r"workers is \(3, 2\); it must be a number, or \(least, most\)"),
    ({"class_weights": "even"}, "class_weights is 'even'; it must be None, 'balanced'"),
    ({"dtype": "float16"}, "'float32' or 'bfloat16'"),
    ({"keep": 0}, "keep is 0"),
    ({"clip": 1.0, "optimizer": {"clip": 2.0}}, "given in .training. and in its section 'optimizer'"),
])
def test_a_setting_that_cannot_work_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, **settings)


def test_a_naive_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TimeError, match="has no time zone"):
        config(tmp_path, split=(datetime(2026, 1, 1), SPLIT.validation, SPLIT.test))


def test_a_class_weight_is_by_the_label_as_it_is_written_large_numbers_too() -> None:
    assert [label_text(one) for one in (True, 1.0, 0.5, "DE", 1_234_567)] == ["1", "1", "0.5", "DE", "1234567"]
