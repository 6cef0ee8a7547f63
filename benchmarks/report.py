"""A write-up: hardware, versions, command, tables and verdicts, printed and kept as Markdown."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.check import Verdict
from benchmarks.measure import Cost, Measured

PACKAGES = ("ray", "pyarrow", "polars", "duckdb", "deltalake", "numpy", "pandas")
GIB = 1 << 30
_CONSOLE = Console(width=120)


class Report:
    """The write-up of one theme, in the order in which it is told."""

    def __init__(self, theme: str, title: str, command: str, packages: Sequence[str] = PACKAGES) -> None:
        self.theme = theme
        self.right = True
        self._lines = [f"# {title}", "", f"`{command}`", "", *_surroundings(packages), ""]
        _CONSOLE.print(f"\n{title}", style="bold")

    def text(self, paragraph: str) -> None:
        """A paragraph."""
        print(paragraph)
        self._lines += [paragraph, ""]

    def block(self, text: str) -> None:
        """Text as it stands."""
        print(text)
        self._lines += ["```text", text, "```", ""]

    def table(self, title: str, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table; the first column is text, the others are numbers."""
        shown = Table(title=title, title_justify="left")
        for number, header in enumerate(headers):
            shown.add_column(header, justify="right" if number else "left")
        self._lines += [f"## {title}", "", _row(headers), _row(["---", *["---:"] * (len(headers) - 1)])]
        for row in rows:
            shown.add_row(*row)
            self._lines.append(_row(row))
        self._lines.append("")
        _CONSOLE.print(shown)

    def costs(self, title: str, runs: Mapping[str, Measured], rows: int) -> None:
        """What each contestant took for `rows` rows of the spine."""
        headers = ["who", "cold s", "warm s", "warm runs s", "CPU s", "rows/s", "process GiB", "all GiB"]
        self.table(title, headers, [_costs(who, run, rows) for who, run in runs.items()])

    def goals(self, goals: Iterable["Goal"]) -> None:
        """The ratios that the whole is about. A goal that is not met is told, and fails nothing."""
        rows = [(g.what, g.asked, g.measured, {True: "yes", False: "no", None: ""}[g.met]) for g in goals]
        self.table("Goals", ["goal", "asked", "measured", "met"], rows)

    def verdicts(self, verdicts: Iterable[Verdict]) -> None:
        """What was checked; one cell that differs makes the whole benchmark fail."""
        known = list(verdicts)
        self.right = self.right and all(v.right for v in known)
        self.table(
            "Correctness, in this run",
            ["compared", "rows", "cells", "different"],
            [(v.what, f"{v.rows:,}", f"{v.cells:,}", f"{v.different:,}") for v in known],
        )

    def write(self, folder: Path) -> Path:
        """`<theme>_<hardware>_<date>.md` in the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.theme}_{_hardware()}_{datetime.now(UTC):%Y-%m-%d}.md"
        path.write_text("\n".join(self._lines))
        print(f"written: {path}")
        return path


@dataclass(frozen=True)
class Goal:
    """What BENCHMARKS.md asks and what was measured; met None: nothing is asked."""

    what: str
    asked: str
    measured: str
    met: bool | None = None

    @classmethod
    def faster(cls, who: str, one: Measured, peer: str, other: Measured, asked: float | None = None) -> "Goal":
        """One contestant against another by wall time; by processor time beside it, which a busy machine bends less."""
        times, by_cpu = other.warm.seconds / one.warm.seconds, other.warm.cpu / one.warm.cpu
        wanted, met = ("-", None) if asked is None else (f">= {asked:g}x", times >= asked)
        return cls(f"{who} against {peer}, wall", wanted, f"{times:.2f}x (CPU {by_cpu:.2f}x)", met)

    @classmethod
    def below(cls, what: str, value: float, asked: float, unit: str = "") -> "Goal":
        """A number that must stay below another."""
        return cls(what, f"< {asked:g}{unit}", f"{value:.2f}{unit}", value < asked)


def gib(size: int) -> str:
    """Bytes as GiB; nothing where they were not measured."""
    return f"{size / GIB:.2f}" if size else "-"


def _costs(who: str, run: Measured, rows: int) -> list[str]:
    warm: Cost = run.warm
    times = " ".join(f"{s:.2f}" for s in run.times)
    return [
        who, f"{run.cold.seconds:.2f}", f"{warm.seconds:.2f}", times, f"{warm.cpu:.2f}", f"{rows / warm.seconds:,.0f}",
        gib(warm.process), gib(warm.total),
    ]  # fmt: skip


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _surroundings(packages: Sequence[str]) -> list[str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    load = os.getloadavg()[0]
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return [
        f"{datetime.now(UTC):%Y-%m-%d}; {os.cpu_count()} cores of {_processor()}, {gib(memory)} GiB, Linux "
        f"{platform.release()}; load {load:.1f} before the start.",
        f"mlray at {_commit()}, Python {platform.python_version()}, {versions}.",
    ]


def _processor() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1].strip() if found else platform.machine()


def _hardware() -> str:
    words = re.sub(r"\(.*?\)|[^a-z0-9]+", "-", _processor().lower())
    return re.sub("-+", "-", f"{os.cpu_count()}x-{words}").strip("-")


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "an unknown commit"


def command_line() -> str:
    """How this process was started."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    return " ".join(["python -m", module.name if module else sys.argv[0], *sys.argv[1:]])
