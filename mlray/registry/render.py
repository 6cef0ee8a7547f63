"""Model cards as text: templates that know sections, texts, facts and tables, and nothing about models."""

import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_SPECIAL = re.compile(r"([\\`*\[\]|#~!$])")
_LEADING = re.compile(r"^(\s*)([-+=]|\d+[.)](?=\s))", re.M)
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def markdown(card: Any) -> str:
    """GitHub-flavoured Markdown."""
    return _environment(escape=False).get_template("card.md.j2").render(card=card)


def html(card: Any) -> str:
    """One page without anything from elsewhere."""
    return _environment(escape=True).get_template("card.html.j2").render(card=card)


def escaped(text: str) -> str:
    """Paragraphs that Markdown shows as they are: no markup, no HTML."""
    plain = _plain(text)
    return _LEADING.sub(lambda found: f"{found[1]}{found[2][:-1]}\\{found[2][-1]}", plain)


def cell(text: str) -> str:
    """The same in one line, for a table."""
    return _plain(" ".join(text.split()))


def _plain(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text.translate(_ENTITIES))


@cache
def _environment(escape: bool) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"escaped": escaped, "cell": cell}
    return environment
