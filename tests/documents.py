"""Pages whose Python blocks are one program, and whose ```text blocks are what the block before each prints.

`python tests/documents.py PAGE...` runs pages and writes what they print into them, and a page's notebook beside it.
"""

import doctest
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat

ROOT = Path(__file__).parent.parent
NOTEBOOKS = {ROOT / "docs" / "getting_started.md": ROOT / "docs" / "getting_started.ipynb"}

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_END = "\x1e"
_DIGEST = re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{12,}\b")
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    """A fenced block. start, end: where it stands in the page; line: of its first line, from 1."""

    language: str
    text: str
    start: int
    end: int
    line: int


@dataclass(frozen=True)
class Step:
    """A Python block and the ```text block that follows it at once, if any."""

    code: Block
    output: Block | None

    @property
    def wanted(self) -> str:
        return self.output.text if self.output else ""


def blocks(page: str) -> list[Block]:
    """Every fenced block, in order."""
    return [Block(found[1], found[2], found.start(), found.end(), page.count("\n", 0, found.start(2)) + 1)
            for found in _FENCE.finditer(page)]


def steps(page: str) -> list[Step]:
    """Every Python block, in order."""
    every = [*blocks(page), None]
    return [Step(block, after if _follows(page, block, after) else None)
            for block, after in pairwise(every) if block and block.language == "python"]


def program(page: str) -> str:
    """The Python blocks at the lines where they stand, each followed by a mark on standard output."""
    lines = [""] * (page.count("\n") + 1)
    for step in steps(page):
        text = step.code.text.splitlines()
        lines[step.code.line - 1 : step.code.line - 1 + len(text)] = text
        lines[step.code.line - 1 + len(text)] = f"print({_END!r}, flush=True)"
    return "\n".join(lines) + "\n"


def printed(page: str, folder: Path, environment: Mapping[str, str], name: str = "page.py") -> list[str]:
    """What each Python block prints when the page runs as one file in `folder`. RuntimeError where it fails."""
    script = folder / name
    script.write_text(program(page))
    done = subprocess.run([sys.executable, name], cwd=folder, env={**os.environ, **environment}, text=True,
                          capture_output=True, timeout=280)
    if done.returncode:
        raise RuntimeError(f"{script}: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")
    return [part.removeprefix("\n") for part in done.stdout.split(_END)][:-1]


def same(wanted: str, got: str) -> bool:
    """Whether the output is as in the page; '...' stands for anything, a digest for any digest."""
    wanted, got = (_DIGEST.sub("<digest>", text.strip()) + "\n" for text in (wanted, got))
    return doctest.OutputChecker().check_output(wanted, got, _FLAGS)


def difference(step: Step, got: str) -> str:
    """What a reader of the page would see instead."""
    return f"line {step.code.line}: the page shows\n{step.wanted}\nbut the block prints\n{got}"


def filled(page: str, outputs: list[str]) -> str:
    """The page with the outputs of its blocks; one that is the same, but for '...', stays."""
    for step, got in reversed(list(zip(steps(page), outputs, strict=True))):
        if same(step.wanted, got):
            continue
        lines = (line.rstrip() for line in got.strip().splitlines())
        text = "\n".join(("```text", *lines, "```"))
        if step.output:
            page = page[: step.output.start] + text + page[step.output.end :]
        else:
            page = f"{page[: step.code.end]}\n\n{text}{page[step.code.end :]}"
    return page


def notebook(page: str) -> nbformat.NotebookNode:
    """The page as a notebook: prose, code and outputs, cell by cell."""
    cells, at = [], 0
    for step in steps(page):
        cells += _prose(page[at : step.code.start])
        cell = nbformat.v4.new_code_cell(step.code.text.rstrip("\n"))
        if step.output:
            cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=step.output.text)]
        cells.append(cell)
        at = (step.output or step.code).end
    cells += _prose(page[at:])
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def _prose(text: str) -> list[nbformat.NotebookNode]:
    return [nbformat.v4.new_markdown_cell(text.strip())] if text.strip() else []


def _follows(page: str, block: Block | None, after: Block | None) -> bool:
    return bool(block and after and after.language == "text" and not page[block.end : after.start].strip())


def refresh(path: Path, environment: Mapping[str, str]) -> None:
    """Runs the page and writes its outputs and its notebook."""
    page = path.read_text()
    with TemporaryDirectory(prefix="mlray-page-") as folder:
        page = filled(page, printed(page, Path(folder), environment))
    path.write_text(page)
    if path in NOTEBOOKS:
        nbformat.write(notebook(page), NOTEBOOKS[path])


if __name__ == "__main__":
    from conftest import TEST_ENVIRONMENT

    for named in sys.argv[1:]:
        refresh(Path(named).absolute(), TEST_ENVIRONMENT)
