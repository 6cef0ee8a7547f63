"""Where work comes from, inside and outside a git working tree."""

import hashlib
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from mlray.registry.provenance import capture

LOCK = "ray==2.60.0\n"


def git(where: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(["git", "-C", where, *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """A working tree with one commit: constraints.txt, and a folder below."""
    git(tmp_path, "init", "-q")
    (tmp_path / "below").mkdir()
    (tmp_path / "constraints.txt").write_text(LOCK)
    git(tmp_path, "add", "constraints.txt")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_a_clean_working_tree_gives_commit_and_lock_file(repository):
    got = capture(repository / "below")

    assert (got["commit"], got["dirty"]) == (git(repository, "rev-parse", "HEAD"), False)
    assert (got["lock_file"], got["lock_sha256"]) == ("constraints.txt", hashlib.sha256(LOCK.encode()).hexdigest())


def test_a_changed_or_a_new_file_makes_it_dirty(repository):
    (repository / "new.py").write_text("")

    assert capture(repository)["dirty"] is True


def test_before_the_first_commit_there_is_none(tmp_path):
    git(tmp_path, "init", "-q")

    assert (capture(tmp_path)["commit"], capture(tmp_path)["dirty"]) == (None, False)


def test_outside_of_git_commit_and_dirty_are_unknown(tmp_path):
    (tmp_path / "constraints.txt").write_text(LOCK)
    (tmp_path / "below").mkdir()

    got = capture(tmp_path / "below")

    assert (got["commit"], got["dirty"], got["lock_file"]) == (None, None, None)


def test_the_environment_is_named(tmp_path):
    got = capture(tmp_path)

    assert got["python"] == platform.python_version()
    assert got["packages"]["ray"] == version("ray")
