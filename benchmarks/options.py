"""What every benchmark is asked on the command line."""

from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Options:
    """full: the sizes of BENCHMARKS.md, else small ones; rounds: timed runs of each contestant; data: where tables are
    cached; results: where the write-up goes.
    """

    full: bool
    rounds: int
    data: Path
    results: Path

    @classmethod
    def parsed(cls, description: str) -> "Options":
        """From the command line. A small run is a check: its write-up stays out of the repository."""
        build = HERE.parent / "build" / "bench"
        parser = ArgumentParser(description=description)
        parser.add_argument("--full", action="store_true", help="the stated sizes, not a tenth of them")
        parser.add_argument("--rounds", type=int, default=3, help="timed runs of each contestant (3)")
        parser.add_argument("--data", type=Path, default=build, help="where tables are kept (build/bench)")
        parser.add_argument("--results", type=Path, help="where the write-up goes")
        given = parser.parse_args()
        results = given.results or (HERE / "results" if given.full else build / "results")
        return cls(given.full, given.rounds, given.data.absolute(), results.absolute())
