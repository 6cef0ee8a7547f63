"""The pages on the registry: each of their commands, one after the other, from an empty folder."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlray.cli import app
from mlray.registry.client import Registry
from mlray.settings import Settings
from tests.registry.conftest import PASSED

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(), re.M | re.S)


def commands(page):
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [one[1:] for one in words if one[:1] == ["mlray"] and one[1:3] != ["registry", "serve"]]


def who(words):
    """Who would give the command: the admin, who has the role that it names, or who may withdraw."""
    if "--role" in words and words[0] == "approve":
        return {"ml_engineer": "ben", "risk_officer": "cleo"}[words[words.index("--role") + 1]]
    return "root" if words[0] in ("user", "policy") else "ben" if words[0] == "model" else "ana"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """With the two files that the guide shows, and the policy of this repository."""
    for name, text in zip(("registry.toml", "policy.toml"), blocks("registry_guide.md", "toml"), strict=True):
        (tmp_path / name).write_text(text)
    shutil.copytree(DOCS.parent / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLRAY_CONFIG", "registry.toml")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path


@pytest.mark.parametrize(("page", "stage"), [("registry.md", "Production"), ("registry_guide.md", "None")])
def test_every_command_of_a_page_works_from_an_empty_folder(page, stage, folder, make_run):
    settings, tokens = Settings.load(folder / "registry.toml"), {}
    for words in commands(page):
        known = Registry.connect(settings.registry, settings.artifacts, embedded=True, token=tokens.get("ana"))
        if any(word.startswith("fr") for word in words) and not known.models():
            for number in range(3):
                known.register("fraud", make_run(b"%d" % number, gates={"evaluation": PASSED}))
        token = {"MLRAY_TOKEN": tokens[who(words)]} if tokens else {}
        done = CliRunner().invoke(app, [*words, "--json"], env=token)
        assert done.exit_code == 0, (words, done.output, done.exception)
        if words[:2] == ["user", "add"]:
            tokens[words[2]] = json.loads(done.stdout)["result"][0]["token"]
    model = "fraud" if page == "registry.md" else "cards"
    assert known.get(f"{model}/3").stage == stage
    assert known.check_audit() is None
