"""The command line as a script sees it: output, JSON, exit codes, and one line for an expected error."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from deltalake import DeltaTable

FEATURES = """
import mlray as ml
from mlray import days
user = ml.Entity("user", keys=["user_id"])
payments = ml.DeltaSource("payments", path="payments", timestamp="at")
paid = ml.FeatureView("paid", entity=user, source=payments, features=["amount", ml.Count(windows=[days(7)])])
service = ml.FeatureService("payments_service", features=[paid])
"""
CONFIG = """
[platform]
lake = "lake"
[recipe]
service = "shop_features:service"
"""
ROWS = """{"user_id": 7, "at": "2026-03-01 12:00:00", "amount": 1.5}
{"user_id": 7, "at": "2026-03-02 12:00:00", "amount": 2.5}
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, one ingested file and a loaded online store."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "shop_features.py").write_text(FEATURES)
    (folder / "shop.toml").write_text(CONFIG)
    (folder / "rows.jsonl").write_text(ROWS)
    for verb in (["apply"], ["ingest", "payments", "rows.jsonl"], ["materialize", "--until", "2026-03-03T00:00:00Z"]):
        assert mlray(folder, *verb).returncode == 0
    return folder


def mlray(
    folder: Path, *arguments: str, config: str = "shop.toml", **environment: str
) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "mlray.cli", *arguments, "--config", config]
    env = {**os.environ, **environment}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)


def test_get_prints_the_vector_as_json(shop: Path) -> None:
    done = mlray(shop, "get", '{"user_id": 7}', "--at", "2026-03-03T00:00:00Z", "--json")
    assert json.loads(done.stdout) == {"result": [{"amount": 2.5, "count_7d": 2}]}


def test_the_same_file_again_changes_nothing(shop: Path) -> None:
    done = mlray(shop, "ingest", "payments", "rows.jsonl", "--json")
    assert json.loads(done.stdout)["result"][0]["rows"] == 0
    assert DeltaTable(str(shop / "lake/payments")).version() == 0


def test_compact_of_a_table_of_one_file_changes_nothing(shop: Path) -> None:
    done = json.loads(mlray(shop, "compact", "payments", "--json").stdout)["result"][0]
    assert (done["source"], done["version"], done["removed"]) == ("payments", None, 0)


def test_layout_says_what_it_made_and_again_makes_nothing(shop: Path, ray_cluster: str) -> None:
    both = [mlray(shop, "layout", "payments", "--json", MLRAY_RAY=ray_cluster) for _ in range(2)]
    assert [one.returncode for one in both] == [0, 0], [one.stderr for one in both]
    done = [json.loads(one.stdout)["result"][0] for one in both]
    assert [(one["keys"], one["version"], one["rows"], one["files"]) for one in done] == [("user_id", 0, 2, 1)] * 2
    assert done[0]["bytes"] == done[1]["bytes"] > 0


def test_build_explains_what_it_would_read_and_builds_nothing(shop: Path, ray_cluster: str) -> None:
    asked = "import datetime\ndef rows(): return [{'user_id': 7, 'timestamp': datetime.datetime(2026, 3, 3)}]\n"
    (shop / "asked.py").write_text(asked)
    (shop / "build.toml").write_text(CONFIG + 'spine = "asked:rows"\n')
    out = ("--out", str(shop / "built"), "--json")
    done = mlray(shop, "build", "--explain", *out, config="build.toml", MLRAY_RAY=ray_cluster)
    plan = json.loads(done.stdout)["plan"]
    assert "paid: broadcast of payments version 0 (1 of 1 files, 3 of 3 columns, 2 rows" in plan
    assert not (shop / "built").exists()


def test_online_stats_show_a_view_and_gc_keeps_what_is_in_force(shop: Path) -> None:
    done = mlray(shop, "online", "stats", "--json")
    [paid] = json.loads(done.stdout)["result"]
    assert (paid["view"], paid["in_force"], paid["keys"], paid["version"]) == ("paid", True, 1, 0)
    assert (paid["watermark"], paid["newest"]) == ("2026-03-03 00:00:00+00:00", "2026-03-02 12:00:00+00:00")
    done = mlray(shop, "online", "gc", "--json")
    assert json.loads(done.stdout) == {"result": [], "spaces": 0, "cells": 0, "bytes": 0}


def test_apply_shows_that_nothing_changed(shop: Path) -> None:
    assert "nothing changed" in mlray(shop, "apply").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("get", '{"user_id": "seven"}'), "the key is string in the spine and int64 in the source"),
        (("get", '{"user": 7}'), "'user_id' is not in the rows"),
        (("get", "{user_id: 7}"), "the rows are no JSON"),
        (("get", '{"user_id": 7}', "--at", "2026-03-03T00:00:00"), "has no time zone"),
        (("materialize", "--until", "tomorrow"), "is no instant"),
        (("ingest", "paymets", "rows.jsonl"), "did you mean 'payments'"),
        (("ingest", "payments", "rows.txt"), "ends in .parquet, .csv, .jsonl"),
        (("register",), "there is no finished run"),
        (("build",), "needs 'spine'"),
        (("layout", "payments", "--entity", "usr"), "did you mean 'user'"),
    ],
)
def test_an_expected_error_is_one_line_and_exit_code_1(shop: Path, arguments: tuple[str, ...], said: str) -> None:
    done = mlray(shop, *arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_misspelt_key_of_the_recipe_is_named(shop: Path) -> None:
    (shop / "typo.toml").write_text(CONFIG.replace("service =", "servce ="))
    done = mlray(shop, "apply", config="typo.toml")
    assert (done.returncode, "did you mean 'service'" in done.stderr) == (1, True)
