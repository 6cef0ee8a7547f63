"""`mlray init`: a project that runs as it is, and that a team makes its own. Its files are templates in `template/`."""

import platform
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from importlib.resources import files
from importlib.resources.abc import Traversable
from keyword import iskeyword
from pathlib import Path, PurePosixPath

from jinja2 import Environment, StrictUndefined
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mlray.errors import ConfigError, InvalidName

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_SUFFIX = ".j2"
_FOLDERS = ("data", "jobs", "tests", "wheels")
"""Of every project, besides its package."""


def create(name: str, folder: Path) -> list[Path]:
    """Writes the project `name` into `folder`; the files written, relative to it.

    name: lower-case letters, digits, '-' and '_', a letter first; its package has '_' for '-'. InvalidName for another,
    and for that of a module that the package would hide; ConfigError where the folder is there and holds anything:
    nothing is ever overwritten.
    """
    if _NAME.fullmatch(name) is None:
        raise InvalidName(f"'{name}' is no project's name; take lower-case letters, digits, '-' and '_': fraud-model")
    package = name.replace("-", "_")
    if iskeyword(package) or package in {*_FOLDERS, *sys.stdlib_module_names, *metadata.packages_distributions()}:
        raise InvalidName(
            f"'{name}' cannot name a package: a word or module of Python, an installed package or a folder of the "
            "project is called so; take another"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there and not empty; name a folder that is not, nothing is overwritten")
    made = dict(rendered(name))
    for path, text in made.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return [Path(path) for path in made]


def rendered(name: str) -> Iterator[tuple[PurePosixPath, str]]:
    """Every file of the project: where it goes, and its text."""
    version = platform.python_version()
    words = {
        "name": name,
        "package": name.replace("-", "_"),
        "python": version,
        "python_minor": ".".join(version.split(".")[:2]),
    }
    jinja = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    for path, template in _templates(files("mlray") / "template", PurePosixPath()):
        yield _place(path, words), jinja.from_string(template.read_text(encoding="utf-8")).render(words)
    yield PurePosixPath("requirements.lock"), lock()


def _templates(folder: Traversable, path: PurePosixPath) -> Iterator[tuple[PurePosixPath, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _templates(entry, path / entry.name)
        elif entry.name.endswith(_SUFFIX):
            yield path / entry.name, entry


def _place(path: PurePosixPath, words: Mapping[str, str]) -> PurePosixPath:
    """Where a template goes: 'package' is the project's own, 'dot_' a dot that a wheel would leave out."""
    parts = path.with_name(path.name.removesuffix(_SUFFIX)).parts
    named = (words["package"] if part == "package" else part for part in parts)
    return PurePosixPath(*(f".{part.removeprefix('dot_')}" if part.startswith("dot_") else part for part in named))


def lock() -> str:
    """The exact versions of mlray and of all that it and the project's gates need, as they are installed here.

    ConfigError where the gates' packages are not.
    """
    found: dict[str, str] = {}
    waiting = [Requirement("mlray[validation,fairness]")]
    while waiting:
        need = waiting.pop()
        name = canonicalize_name(need.name)
        if name in found and not need.extras:
            continue
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # of an extra that is not installed
            continue
        waiting += _needs(name, need.extras)
    missing = [name for name in ("pandera", "fairlearn") if name not in found]
    if missing:
        needs = f"which needs {' and '.join(missing)}: pip install 'mlray[validation,fairness]'"
        raise ConfigError(f"a new project validates its data and compares groups, {needs}")
    index = _index_of_torch(found["torch"])
    lines = (f"{name}=={version}" for name, version in sorted(found.items()))
    return "\n".join(("# What was installed where `mlray init` ran: pip install --no-deps -r", *index, *lines, ""))


def _index_of_torch(version: str) -> Iterator[str]:
    """Where a build of torch is that PyPI does not have, as 2.13.0+cpu. PyPI's own one needs gigabytes of CUDA, which a
    lock that is made where they are not installed does not name.
    """
    build = version.partition("+")[2]
    if build:
        yield f"--extra-index-url https://download.pytorch.org/whl/{build}"


def _needs(name: str, extras: set[str]) -> Iterator[Requirement]:
    for text in metadata.requires(name) or ():
        need = Requirement(text)
        if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield need
