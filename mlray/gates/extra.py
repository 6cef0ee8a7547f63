"""Packages that only some gates need, imported when one of them runs."""

import importlib
from typing import Any

from mlray.errors import ConfigError


def imported(module: str, *, extra: str, who: str) -> Any:
    """The module; ConfigError that names the extra where it, or what it needs, is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{who} needs a package: pip install 'mlray[{extra}]' ({error})") from error
