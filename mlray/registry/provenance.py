"""Where a run comes from: its code, its pinned dependencies and its environment, as far as they are known."""

import hashlib
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

# In this order: the first file found is the one recorded.
LOCK_FILES = ("constraints.txt", "uv.lock", "poetry.lock", "pdm.lock", "requirements.lock", "requirements.txt")
PACKAGES = (
    *("mlray", "ray", "torch", "numpy", "pyarrow", "polars", "deltalake", "safetensors"),
    *("scikit-learn", "skops", "xgboost", "xgboost-cpu"),
)
GIT_SECONDS = 30


def capture(directory: str | Path = ".") -> dict[str, Any]:
    """The provenance of work done in `directory`, as plain JSON values.

    `commit` and `dirty` (anything changed or untracked) are None outside a git working tree, and `commit` is
    None before the first one; `lock_file` and `lock_sha256` are of the nearest lock file from the directory
    up to the root of its working tree, None without one; `packages` maps those of `PACKAGES` that are installed to
    versions; `environment_sha256` is of the names and versions of all that is installed.
    """
    where = Path(directory).absolute()
    root = _git(where, "rev-parse", "--show-toplevel")
    status = _git(where, "status", "--porcelain")
    lock = next(_lock_files(where, where if root is None else Path(root)), None)
    return {
        "commit": _git(where, "rev-parse", "--verify", "--quiet", "HEAD"),
        "dirty": None if status is None else bool(status),
        "lock_file": None if lock is None else lock.name,
        "lock_sha256": None if lock is None else hashlib.sha256(lock.read_bytes()).hexdigest(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": dict(_installed()),
        "environment_sha256": environment_digest(),
    }


def environment_digest() -> str:
    """SHA-256 over every installed distribution's name and version, one a line, sorted."""
    lines = {f"{one.metadata['Name']}=={one.version}".lower() for one in distributions()}
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _git(where: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(where), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):  # no git or no repository: unknown is no failure
        return None
    return done.stdout.strip()


def _lock_files(where: Path, root: Path) -> Iterator[Path]:
    for folder in (where, *where.parents):
        yield from (folder / name for name in LOCK_FILES if (folder / name).is_file())
        if folder == root:
            return


def _installed() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue
