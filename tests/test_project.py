"""`mlray init`: what it writes is whole, is never written over anything, and runs as it is."""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from mlray.errors import ConfigError, InvalidName
from mlray.project import create, lock, rendered
from mlray.registry import actor
from mlray.training.network import Features
from mlray.training.task import Task
from tests.conftest import TEST_ENVIRONMENT

ROOT = Path(__file__).parent.parent


def test_a_project_has_all_that_a_team_needs(tmp_path: Path) -> None:
    made = create("return-risk", tmp_path / "new")
    assert {*map(str, made)} >= {
        "return_risk/features.py", "return_risk/network.py", "return_risk/data.py", "return_risk/checks.py",
        "recipe.toml", "jobs/pipeline.py",
        "tests/test_features.py", "Dockerfile", ".github/workflows/ci.yml", ".gitignore", "requirements.lock",
    }
    for path in made:
        assert not re.search(r"{{|}}|{%|\.j2", f"{path}{(tmp_path / 'new' / path).read_text()}"), path


def test_the_image_is_pinned_and_not_root(tmp_path: Path) -> None:
    create("risk", tmp_path)
    lines = (tmp_path / "Dockerfile").read_text().splitlines()
    assert f"FROM python:{sys.version.split()[0]}-slim" in lines
    assert lines.index("USER app") < len(lines) - 1
    assert any("--no-deps" in line and "-r requirements.lock" in line for line in lines)


def test_the_lock_has_mlray_and_all_that_it_needs_at_one_version_each() -> None:
    pinned = [line.split("==") for line in lock().splitlines() if "==" in line]
    names = [name for name, _ in pinned]
    assert {"mlray", "ray", "torch", "pyarrow", "click", "anyio", "pandera", "fairlearn"} <= {*names}
    assert len(names) == len({*names})
    assert all(re.fullmatch(r"\d[\w.+]*", version) for _, version in pinned)


def test_the_lock_names_the_build_of_torch_that_is_installed_and_where_it_is() -> None:
    version = metadata.version("torch")  # 2.13.0+cpu needs nothing of CUDA, 2.13.0 all that pip installed beside it
    lines = lock().splitlines()
    assert f"torch=={version}" in lines
    builds = [line.rpartition("/")[2] for line in lines if line.startswith("--extra-index-url")]
    assert builds == ([version.partition("+")[2]] if "+" in version else [])


def test_the_network_makes_no_tensor_of_its_own_so_it_runs_on_any_device() -> None:
    [text] = [text for path, text in rendered("risk") if path.name == "network.py"]
    names: dict[str, Any] = {"__name__": "risk_network"}
    exec(compile(text.replace("@dataclass(frozen=True)", ""), "network.py", "exec"), names)
    features = Features(width=3, sizes=(4,), columns=("a", "b", "c"), texts=("country",), task=Task())
    elsewhere = names["WideModule"](features, 8).to("meta")  # a device that, as a GPU, takes no tensor of the CPU's
    numbers, codes = torch.zeros((5, 3), device="meta"), torch.zeros((5, 1), dtype=torch.int64, device="meta")
    assert elsewhere(numbers, codes).shape == (5,)


def test_a_folder_that_holds_anything_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is there and not empty; name a folder that is not, nothing is overwritten"):
        create("risk", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", ["Risk", "1risk", "risk model", "../risk", "", "risk-"])
def test_a_name_that_no_package_can_have_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidName, match="is no project's name; take lower-case letters"):
        create(name, tmp_path / "new")


@pytest.mark.parametrize("name", ["class", "json", "torch", "data", "tests"])
def test_a_name_whose_package_would_hide_another_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidName, match="cannot name a package"):
        create(name, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_new_project_passes_its_tests_and_goes_from_tables_to_a_verified_model(
    tmp_path: Path, ray_cluster: str
) -> None:
    actor.stop()  # that of an earlier test serves another database
    create("return-risk", tmp_path)
    recipe = (tmp_path / "recipe.toml").read_text()
    small = recipe.replace("[training] ", "[recipe.options]\norders = 1500\n\n[training] ")
    (tmp_path / "recipe.toml").write_text(small.replace("epochs = 5", "epochs = 2").replace("rows = 300", "rows = 50"))
    environment = {**os.environ, **TEST_ENVIRONMENT, "RAY_ADDRESS": ray_cluster, "PYTHONPATH": str(ROOT)}

    def ran(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=280
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout

    with ThreadPoolExecutor(2) as at_once:  # the tests run while the pipeline waits for its workers to start
        tests, pipeline = at_once.submit(ran, "-m", "pytest", "-q"), at_once.submit(ran, "jobs/pipeline.py")
        assert "4 passed" in tests.result()
        said = pipeline.result()
    ran("-m", "ruff", "check", ".")
    assert "ingested 1500 rows into orders" in said
    assert "gate leakage passed with " in said
    [gates] = (tmp_path / "data" / "_mlray" / "runs").glob("*/model/gates.json")
    found = {name: gate["passed"] for name, gate in json.loads(gates.read_text())["gates"].items()}
    assert found.keys() == {"data_validation", "leakage", "evaluation", "bias", "model_card"}
    assert all(found[name] for name in ("data_validation", "leakage", "model_card"))  # so few rows make no good model
    assert re.search(r"registered return_risk/1 as return_risk@candidate", said)
    assert re.search(r"verified: \d+ cells, 0 different", said)
