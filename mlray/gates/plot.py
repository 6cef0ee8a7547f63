"""Charts as SVG texts, for a page that is one file: lines, and bars. Each says in words what it shows.

Matplotlib is 30 MB and half a second of import for five lines on a page; a line here is one `polyline`.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 420, 280
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 44
COLOURS = ("#0b5fa5", "#b3401f", "#3f7a2b", "#7a3f8f", "#6b6b6b")
DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4")
"""Lines differ in dash as well as in colour: colour alone says nothing to some readers."""

Points = Sequence[tuple[float, float]]


def lines(title: str, series: Mapping[str, Points], x: str, y: str, *, diagonal: bool = False) -> str:
    """One line per series, axes from the least to the largest value. NaN is left out.
    diagonal: with the line y = x, both axes from 0 on and to the same end.
    """
    known = {name: [p for p in points if all(map(math.isfinite, p))] for name, points in series.items()}
    every = [p for points in known.values() for p in points]
    if not every:
        return f"<p>{escape(title)}: nothing to draw.</p>"
    across, up = _Axis.of([p[0] for p in every]), _Axis.of([p[1] for p in every])
    if diagonal:
        across = up = _Axis.of([0.0, *(end for p in every for end in p)])
    drawn = [_frame(across, up, x, y)]
    if diagonal:
        drawn.append(_line([(up.low, up.low), (up.high, up.high)], across, up, "#9a9a9a", "3 3", ""))
    for i, (name, points) in enumerate(known.items()):
        drawn.append(_line(points, across, up, COLOURS[i % 5], DASHES[i % 5], name))
    return _svg(title, f"{y} over {x}: {', '.join(known)}", "".join(drawn), HEIGHT) + _legend(list(known))


def bars(title: str, values: Mapping[str, float], unit: str) -> str:
    """One bar per name, from 0, as long as its share of the largest."""
    known = {name: value for name, value in values.items() if math.isfinite(value)}
    largest = max((abs(value) for value in known.values()), default=0.0) or 1.0
    drawn = []
    for i, (name, value) in enumerate(known.items()):
        top, long = 4 + 20 * i, (WIDTH - 240) * abs(value) / largest
        drawn.append(
            f'<text x="176" y="{top + 12}" text-anchor="end">{escape(_short(name))}</text>'
            f'<rect x="182" y="{top}" width="{long:.1f}" height="15" fill="{COLOURS[0]}"/>'
            f'<text x="{186 + long:.1f}" y="{top + 12}">{value:.4g}</text>'
        )
    return _svg(title, f"{unit} by feature", "".join(drawn), 8 + 20 * len(known))


class _Axis:
    """From a round number below the least value to one above the largest, with marks at round distances."""

    def __init__(self, low: float, high: float) -> None:
        span = (high - low) or abs(high) or 1.0
        unit = 10.0 ** math.floor(math.log10(span / 4))
        self.step = next(unit * k for k in (1, 2, 5, 10) if unit * k * 5 >= span)
        self.low = math.floor(low / self.step + 1e-9) * self.step
        self.high = max(math.ceil(high / self.step - 1e-9) * self.step, self.low + self.step)

    @classmethod
    def of(cls, values: Sequence[float]) -> "_Axis":
        return cls(min(values), max(values))

    def marks(self) -> list[float]:
        return [self.low + i * self.step for i in range(round((self.high - self.low) / self.step) + 1)]

    def place(self, value: float) -> float:
        """0 to 1."""
        return (value - self.low) / (self.high - self.low)


def _x(axis: _Axis, value: float) -> float:
    return LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT)


def _y(axis: _Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.place(value) * (HEIGHT - TOP - BOTTOM)


def _frame(across: _Axis, up: _Axis, x: str, y: str) -> str:
    drawn = []
    for mark in across.marks():
        at = _x(across, mark)
        drawn.append(f'<line x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{HEIGHT - BOTTOM}" class="grid"/>')
        drawn.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{mark:.4g}</text>')
    for mark in up.marks():
        at = _y(up, mark)
        drawn.append(f'<line x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}" class="grid"/>')
        drawn.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{mark:.4g}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    drawn.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x)}</text>')
    drawn.append(f'<text transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">{escape(y)}</text>')
    return "".join(drawn)


def _line(points: Points, across: _Axis, up: _Axis, colour: str, dash: str, name: str) -> str:
    shown = " ".join(f"{_x(across, a):.1f},{_y(up, b):.1f}" for a, b in points)
    return (
        f'<polyline points="{shown}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}">'
        f"<title>{escape(name)}</title></polyline>"
    )


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    items = [
        f'<li><svg width="28" height="8" aria-hidden="true"><line x1="0" y1="4" x2="28" y2="4" stroke-width="2" '
        f'stroke="{COLOURS[i % 5]}" stroke-dasharray="{DASHES[i % 5]}"/></svg> {escape(name)}</li>'
        for i, name in enumerate(names)
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'


def _svg(title: str, told: str, drawn: str, height: int) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title><desc>{escape(told)}</desc>{drawn}</svg>"
    )


def _short(name: str) -> str:
    return name if len(name) <= 26 else f"{name[:25]}…"
