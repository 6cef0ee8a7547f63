"""The pages: their code runs and prints what they show, every verb and name is in them, and nothing is stale."""

import asyncio
import re
import shlex
import socket
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import documents
import nbformat
import pytest
import typer
from documents import ROOT, blocks, difference, printed, same, steps
from nbclient import NotebookClient

import mlray
from mlray.cli import app
from mlray.platform import Platform
from mlray.recipe import Recipe
from mlray.registry import actor
from mlray.serving.app import undeploy
from mlray.training.trainer import Trainer
from tests.conftest import TEST_ENVIRONMENT

README = ROOT / "README.md"
GUIDES = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, ROOT / "CONTRIBUTING.md", *GUIDES, *sorted((ROOT / "docs" / "design").glob("*.md"))]
WITH_SERVER = ROOT / "docs" / "getting_started.md"
TEXT = {page: page.read_text() for page in PAGES}
IRIS = ROOT / "docs" / "iris.md"
PORT = "8000"
PROGRAMS = {"mlray", "make", "python", "ray", "curl", "pip"}


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def check(page: str, outputs: list[str]) -> None:
    pairs = zip(steps(page), outputs, strict=True)
    wrong = [difference(step, got) for step, got in pairs if not same(step.wanted, got)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "time.md"], ids=lambda p: p.name)
def test_a_page_prints_what_it_shows(page: Path, tmp_path: Path, ray_cluster: str) -> None:
    text = TEXT[page]
    check(text, printed(text, tmp_path, {**TEST_ENVIRONMENT, "RAY_ADDRESS": ray_cluster}))


def test_the_way_of_a_beginner_works_as_a_script_with_nothing_started(tmp_path: Path) -> None:
    text = TEXT[IRIS].replace(PORT, free_port())
    check(text, printed(text, tmp_path, TEST_ENVIRONMENT))


@pytest.fixture
def joined(ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The cluster of the session, which the process of a page joins; what that serves ends with the test."""
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster)
    actor.stop()  # that of an earlier test serves another database
    yield ray_cluster
    undeploy()
    actor.stop()


@pytest.mark.usefixtures("joined")
def test_the_way_from_a_table_to_a_prediction_works_as_a_notebook_on_a_cluster_that_runs(tmp_path: Path) -> None:
    text = documents.NOTEBOOKS[WITH_SERVER].read_text().replace(PORT, free_port())
    wanted = nbformat.reads(text, as_version=4)
    done = nbformat.reads(text, as_version=4)
    runner = NotebookClient(done, timeout=250, resources={"metadata": {"path": str(tmp_path)}})
    asyncio.run(runner.async_execute())
    for before, after in zip(wanted.cells, done.cells, strict=True):
        assert before.cell_type != "code" or same(standard_output(before), standard_output(after)), before.source


def standard_output(cell: nbformat.NotebookNode) -> str:
    return "".join(out.text for out in cell.outputs if out.output_type == "stream" and out.name == "stdout")


@pytest.mark.parametrize(("page", "path"), documents.NOTEBOOKS.items(), ids=lambda p: p.name)
def test_a_notebook_is_its_page(page: Path, path: Path) -> None:
    assert nbformat.read(path, as_version=4) == documents.notebook(TEXT[page]), f"python tests/documents.py {page}"


def test_every_python_block_is_run() -> None:
    run = {README, ROOT / "docs" / "time.md", IRIS, *documents.NOTEBOOKS}
    assert {page for page in PAGES if steps(TEXT[page])} == run


def test_the_law_is_the_first_line() -> None:
    law = "*A training row as of time t equals, bit for bit, what online serving would have answered at t.*"
    assert TEXT[README].splitlines()[0] == law


@pytest.mark.parametrize("verb", [command.name or command.callback.__name__ for command in app.registered_commands])
def test_every_command_is_in_the_readme(verb: str) -> None:
    assert f"`mlray {verb}`" in TEXT[README]


@pytest.mark.parametrize("name", mlray.__all__)
def test_every_public_name_is_in_the_pages(name: str) -> None:
    documented = "\n".join(TEXT[page] for page in (README, *GUIDES))
    assert re.search(rf"[`.]{name}\b", documented), f"mlray.{name} is in no page"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_no_name_is_stale(page: Path) -> None:
    text = TEXT[page]
    for name in re.findall(r"\bml\.([A-Za-z_]+)", text):
        assert hasattr(mlray, name), f"ml.{name}"
    for verb in re.findall(r"(?<!/)\bplatform\.([a-z_]+)", text):
        assert hasattr(Platform, verb), f"platform.{verb}"
    for variable in re.findall(r"\bMLRAY_([A-Z]+)", text):
        assert variable.lower() in mlray.Settings.model_fields or variable == "CONFIG", variable
    for path in re.findall(r"`((?:mlray|jobs|configs|tests|docs)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_resolve(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", TEXT[page], flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        path, _, anchor = target.partition("#")
        if path.startswith("http"):
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text()), target


def anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands() -> list[tuple[str, list[str]]]:
    """Every command line of the pages' shell blocks: page and words."""
    lines = [(page.name, line) for page in PAGES for block in blocks(TEXT[page]) if block.language == "sh"
             for line in block.text.replace("\\\n", " ").splitlines()]
    return [(name, shlex.split(line, comments=True)) for name, line in lines if line.strip()]


@pytest.mark.parametrize(("page", "words"), commands(), ids=lambda v: v if isinstance(v, str) else " ".join(v))
def test_a_shell_line_names_what_exists(page: str, words: list[str]) -> None:
    assert words[0] in PROGRAMS, page
    rest = words[words.index("--") + 1 :] if words[:2] == ["ray", "job"] else words
    if rest[0] == "python":
        assert (ROOT / rest[1]).exists(), rest[1]
        rest = ["mlray", Path(rest[1]).stem, *rest[2:]]
    if rest[0] == "mlray":
        check_options(rest[1:])
    for option, value in pairwise(rest):
        assert option != "--config" or page == WITH_SERVER.name or (ROOT / value).exists(), value


def check_options(words: list[str]) -> None:
    """The command itself reads the words, and is not run."""
    verbs: Any = typer.main.get_command(app)
    verbs.commands[words[0]].make_context(words[0], list(words[1:]))


@pytest.mark.parametrize("target", re.findall(r"^ +make (\w+)", "\n".join(TEXT.values()), re.M))
def test_a_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M), target


def test_the_recipe_of_the_page_is_one(tmp_path: Path) -> None:
    [block] = [b for b in blocks(TEXT[WITH_SERVER]) if b.language == "toml"]
    path = tmp_path / "disputes.toml"
    path.write_text(block.text)
    recipe = Recipe.load(path)
    config = Trainer.Config.from_json({"storage": "runs", **recipe.training})
    assert (config.epochs, recipe.label, recipe.alias) == (4, "disputed", "candidate")
    assert tomllib.loads(block.text)["recipe"]["spine"] == recipe.spine()
