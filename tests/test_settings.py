"""Where things lie: files, variables, and what is refused."""

from pathlib import Path

import pytest

import mlray as ml


def written(folder: Path, text: str) -> Path:
    path = folder / "platform.toml"
    path.write_text(text)
    return path


def test_what_is_not_given_lies_under_the_lake(tmp_path: Path) -> None:
    settings = ml.Settings(lake=tmp_path)
    assert settings.online == f"lmdb://{tmp_path}/_mlray/online"
    assert settings.registry == f"sqlite:///{tmp_path}/_mlray/registry.db"
    assert settings.artifacts == f"{tmp_path}/_mlray/artifacts"


def test_a_variable_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLRAY_LAKE", "/from/variable")
    path = written(tmp_path, '[platform]\nlake = "/from/file"\nonline = "memory://here"\n')
    settings = ml.Settings.load(path)
    assert (settings.lake, settings.online) == ("/from/variable", "memory://here")


def test_a_misspelt_setting_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(ml.MlrayError, match=r"no setting 'onlin'.*did you mean 'online'"):
        ml.Settings.load(written(tmp_path, '[platform]\nonlin = "memory://here"\n'))


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ml.MlrayError, match=r"there is no configuration at .*nowhere.toml"):
        ml.connect(tmp_path / "nowhere.toml")


def test_a_relative_path_is_taken_from_here_but_refused_in_a_submitted_job(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ml.Settings(lake="lake").lake == str(Path("lake").absolute())
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(ml.MlrayError, match=r"lake='lake' is relative.*MLRAY_LAKE"):
        ml.Settings(lake="lake")


def test_connecting_starts_no_ray(tmp_path: Path) -> None:
    ml.connect(ml.Settings(lake=tmp_path))
    assert not list(tmp_path.iterdir())
