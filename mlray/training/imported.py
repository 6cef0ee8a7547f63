"""Code of the user's that a model consists of: found by its path, and known by its file's bytes."""

import hashlib
import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

from mlray.errors import ConfigError, CorruptArtifact, DefinitionChanged


def imported(path: str, what: str) -> Any:
    """What `path`, module:attribute, names, also in the current directory; ConfigError where it cannot be had."""
    module, colon, name = path.partition(":")
    if not (module and colon and name):
        raise ConfigError(f"{what} '{path}' is no path; write module:attribute, such as my_package.nets:Wide")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{what} '{path}' cannot be imported here: {error}; install the package that has it, on every machine "
            "that trains or serves the model"
        ) from error


def source_sha256(found: Any) -> str:
    """SHA-256 of the file in which a class or function stands."""
    file = inspect.getsourcefile(found)
    if file is None:
        raise ConfigError(f"{found!r} stands in no source file; put it into a module")
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def file_sha256(path: str, what: str) -> str:
    """SHA-256 of the file of what `path`, module:attribute, names: a class's or function's own, else its module's."""
    found = imported(path, what)
    if inspect.isclass(found) or inspect.isfunction(found):
        return source_sha256(found)
    return hashlib.sha256(Path(str(sys.modules[path.partition(":")[0]].__file__)).read_bytes()).hexdigest()


def check_source(path: str, found: Any, wanted: str | None) -> None:
    """DefinitionChanged where the file is not the one that the model was trained with, CorruptArtifact where the model
    does not say which that was.
    """
    if wanted is None:
        raise CorruptArtifact(f"the model needs code, '{path}', and does not say of which bytes; train it again")
    if (here := source_sha256(found)) != wanted:
        raise DefinitionChanged(
            f"the file of '{path}' was {wanted[:12]} when the model was trained and is {here[:12]} here; install the "
            "version of the package that it was trained with, or train again"
        )
