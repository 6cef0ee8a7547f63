"""Where a verb's progress and result go: tables for people, or JSON for scripts."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.tree import Tree

Shown = Mapping[str, Any]
_PAGE = 1000
_REPLACED: list[TextIO] = []
"""Streams that nobody holds close what lies below them: whoever runs a verb within a test still reads it."""


class Screen:
    """Where a verb's progress and result go: tables for people, or one JSON object on standard output.

    For JSON, whatever else is printed goes to standard error until the process ends: a thread of Ray prints the
    warnings of raylets when they come.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._out = sys.stdout
        if as_json:
            _REPLACED.append(sys.stdout)
            sys.stdout = sys.stderr
        self.console = Console(stderr=as_json)

    @contextmanager
    def working(self, text: str) -> Iterator[Callable[[str], None]]:
        """A line with a running clock, whose text can be changed."""
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(text)
            yield lambda now: progress.update(task, description=f"{text}: {now}")

    def show(self, title: str, rows: Sequence[Shown], extra: Shown | None = None) -> None:
        """The result: rows as a table, `extra` as lines below it."""
        if self.as_json:
            self._say(json.dumps({"result": rows, **(extra or {})}, default=str))
            return
        self.console.print(title, style="bold", highlight=False)
        table = Table()
        for name in rows[0] if rows else ():
            table.add_column(name, justify="right" if isinstance(rows[0][name], int | float) else "left")
        for row in rows:
            table.add_row(*(escape(_cell(value)) for value in row.values()))
        if rows:
            self.console.print(table)
        for name, value in (extra or {}).items():
            self.console.print(f"{name}: {_cell(value)}", highlight=False)

    def show_each(self, title: str, rows: Iterable[Shown]) -> None:
        """`show` for rows that are never all in memory: table after table, or the same JSON object."""
        left = iter(rows)
        if self.as_json:
            self._say('{"result": [', end="")
            for number, row in enumerate(left):
                self._say(", " if number else "", json.dumps(row, default=str), end="")
            self._say("]}")
            return
        self.show(title, list(islice(left, _PAGE)))
        while page := list(islice(left, _PAGE)):
            self.show(f"{title}, continued", page)

    def _say(self, *parts: str, end: str = "\n") -> None:
        print(*parts, sep="", end=end, file=self._out, flush=True)

    def tree(self, title: str, branches: Shown) -> None:
        """Names and texts, nested."""
        if self.as_json:
            self._say(json.dumps({"result": branches}))
            return
        root = Tree(escape(title))
        _grow(root, branches)
        self.console.print(root, highlight=False, soft_wrap=True)


def _grow(node: Tree, branches: Shown) -> None:
    for name, value in branches.items():
        if isinstance(value, Mapping):
            _grow(node.add(escape(name)), value)
        else:
            node.add(escape(f"{name}: {value}"))


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
