"""What a gate found, in words and in figures; the short form of it is the registry's `Gate`."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlray.registry.gates import Gate

EVIDENCE_FILE, REPORT_FILE = "evidence.json", "report.html"


@dataclass(frozen=True, kw_only=True)
class Result:
    """value, threshold: as in `Gate`. problems: why it failed, a sentence each. notes: what else a reader should know.
    details: figures, plain JSON values.
    """

    passed: bool
    value: float | None = None
    threshold: float | None = None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def with_problems(self, problems: Sequence[str], note: str) -> "Result":
        """The same with more problems, where the value is their number."""
        every = (*self.problems, *problems)
        return replace(self, passed=not every, value=float(len(every)), problems=every, notes=(*self.notes, note))

    def gate(self, link: str, *, stop: bool = False) -> Gate:
        """The line of `gates.json`."""
        return Gate(
            passed=self.passed, value=number(self.value), threshold=number(self.threshold), link=link, stop=stop
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "value": number(self.value),
            "threshold": number(self.threshold),
            "problems": list(self.problems),
            "notes": list(self.notes),
            "details": plain(self.details),
        }


def number(value: float | None) -> float | None:
    """The number as JSON has it; None where there is none to tell: NaN or infinite."""
    return None if value is None or not math.isfinite(value) else float(value)


def plain(value: Any) -> Any:
    """JSON values all through, NaN and infinities as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return number(value) if isinstance(value, float) else value


def write_evidence(checkpoint: Path, results: Mapping[str, Result], rows: Mapping[str, int], service: str) -> None:
    """`evidence.json` of the checkpoint: every result in full, and how many rows each part had."""
    content = {"service": service, "rows": dict(rows), "gates": {k: result.to_json() for k, result in results.items()}}
    aside = checkpoint.parent / f".{checkpoint.name}.{EVIDENCE_FILE}"
    aside.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    aside.replace(checkpoint / EVIDENCE_FILE)


def read_evidence(checkpoint: Path) -> dict[str, Any] | None:
    """What `write_evidence` wrote; None where there is none."""
    try:
        found: dict[str, Any] = json.loads((checkpoint / EVIDENCE_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found


def told(checkpoint: str | Path) -> dict[str, str]:
    """What each gate of the checkpoint found, in a line: passed or failed, with what, and the first of its problems;
    nothing where it has been through none.
    """
    evidence = read_evidence(Path(checkpoint))
    return {} if evidence is None else {name: _line(found) for name, found in evidence["gates"].items()}


def _line(found: Mapping[str, Any]) -> str:
    said = str(Gate(**{name: found[name] for name in ("passed", "value", "threshold")}))
    first, *more = found["problems"] or [""]
    return said + (f": {first}" if first else "") + (f" (and {len(more)} more in {REPORT_FILE})" if more else "")
