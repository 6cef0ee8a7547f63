"""What may be registered, found and pointed at."""

import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from mlray.errors import Conflict, CorruptArtifact, InvalidName, RegistryUnavailable, SchemaError, UnknownName
from mlray.registry.artifacts import ArtifactStore
from mlray.registry.client import Registry
from mlray.registry.database import Database
from mlray.registry.identity import Call
from mlray.registry.model_registry import ModelRegistry
from mlray.registry.model_version import record_of


def test_a_version_records_all_that_the_run_said(registry, make_run):
    run = make_run(metrics={"auc": 0.1 + 0.2, "loss": math.inf}, sources={"departures": 4, "weather": 7})

    version = registry.register("flights", run, alias="candidate")

    assert (version.name, version.version, version.aliases) == ("flights", 1, ("candidate",))
    assert version.metrics == {"auc": 0.1 + 0.2, "loss": math.inf}
    assert version.sources == {"departures": 4, "weather": 7}
    assert version.features == ("count_1h", "delay_mean_1d")
    assert (version.service, version.service_hash) == ("flights", "ab" * 32)
    assert version.service_definition == '{"name": "flights"}'
    assert (version.fingerprint, version.spine, version.label) == ("cd" * 32, run.spine, "is_late")
    assert (version.run_id, version.config, version.provenance) == ("run-1", run.config, run.provenance)
    assert version.signature == {"inputs": {"count_1h": "int64"}, "label": "is_late"}
    assert timedelta(0) <= datetime.now(UTC) - version.created_at < timedelta(minutes=1)


def test_a_version_is_found_by_number_and_by_alias(registry, make_run):
    first = registry.register("flights", make_run(b"1"))
    second = registry.register("flights", make_run(b"2"), alias="candidate")

    assert registry.get("flights/1") == first
    assert registry.get("flights/2") == second
    assert registry.get("flights@candidate") == second
    assert registry.list("flights") == [first, second]


def test_models_and_versions_are_listed_by_name_and_number(registry, make_run):
    for name in ("weather", "flights", "weather"):
        registry.register(name, make_run())

    assert registry.models() == ["flights", "weather"]
    assert [version.reference for version in registry.list()] == ["flights/1", "weather/1", "weather/2"]


def test_an_empty_registry_lists_nothing(registry):
    assert registry.models() == []
    assert registry.list() == []


def test_metrics_that_are_no_number_come_back_as_they_went(registry, make_run, execute):
    registry.register("flights", make_run(metrics={"a": math.nan, "b": -math.inf, "c": -0.0, "d": 5e-324, "e": 2**60}))

    metrics = registry.get("flights/1").metrics

    assert math.isnan(metrics["a"])
    assert metrics["b"] == -math.inf
    assert math.copysign(1, metrics["c"]) == -1
    assert (metrics["d"], metrics["e"]) == (5e-324, 2**60)
    assert execute("SELECT metrics FROM model_versions") == (
        '{"a":NaN,"b":-Infinity,"c":-0.0,"d":5e-324,"e":1152921504606846976}'
    )
    assert registry.check_audit() is None


def test_ten_thousand_metrics_are_kept(registry, make_run):
    metrics = {f"slice-{number}": float(number) for number in range(10_000)}

    assert registry.register("flights", make_run(metrics=metrics)).metrics == metrics


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({f"loss-{step}": 0.5 for step in range(1_000_000)}, "has 1000000 metrics, at most 10000 are kept: one"),
        ({"loss": [0.5, 0.4]}, r"metric 'loss' is \[0.5, 0.4\]; a metric is one number, its last value"),
        ({"loss": "0.5"}, "metric 'loss' is '0.5'"),
        ({"good": True}, "metric 'good' is True"),
        ({"n": 10**5000}, "metric 'n' is a whole number beyond 64 bits"),
    ],
    ids=["a million", "a curve", "a text", "a bool", "a number that JSON cannot bring back"],
)
def test_what_is_no_metric_is_refused_before_anything_is_written(registry, make_run, urls, metrics, message):
    with pytest.raises(SchemaError, match=message):
        registry.register("flights", make_run(metrics=metrics))

    assert registry.models() == []
    assert not Path(urls[1]).exists()


@pytest.mark.parametrize("config", [{"a": {1, 2}}, {"a": "x" * (5 << 20)}, {"a": object()}], ids=["set", "5 MB", "any"])
def test_a_configuration_is_plain_json_of_some_size(registry, make_run, config):
    with pytest.raises(SchemaError, match=r"config of the version (is not plain JSON|has 52.* characters as JSON)"):
        registry.register("flights", make_run(config=config))


def test_threads_that_move_one_alias_queue(registry, make_run):
    registry.register("flights", make_run())

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: registry.set_alias("flights", "candidate", 1), range(80)))

    assert len(registry.audit("flights")) == 81
    assert registry.check_audit() is None


REGISTER_TEN = """
import sys
sys.path.insert(0, sys.argv[1])
from conftest import SomeRun
from mlray.registry.client import Registry
registry = Registry.connect(sys.argv[2], sys.argv[3], embedded=True)
for _ in range(10):
    registry.register("flights", SomeRun(checkpoint=sys.argv[4]))
"""


@pytest.mark.usefixtures("bare")
def test_processes_that_open_a_new_database_at_once_share_it(urls, make_run):
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", REGISTER_TEN, here, *urls, make_run().checkpoint]

    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]

    assert [process.communicate()[1] for process in processes] == [""] * 3
    versions = Registry.connect(*urls, embedded=True).list("flights")
    assert [version.version for version in versions] == list(range(1, 31))


def test_the_same_key_with_the_same_checkpoint_is_the_same_version(registry, make_run):
    first = registry.register("flights", make_run(), alias="candidate", idempotency_key="nightly-2026-01-31")
    again = registry.register("flights", make_run(), alias="candidate", idempotency_key="nightly-2026-01-31")

    assert again == first
    assert len(registry.list("flights")) == 1


def test_a_repeated_registration_does_not_take_its_alias_back(registry, make_run):
    registry.register("flights", make_run(b"1"), alias="candidate", idempotency_key="a")
    registry.register("flights", make_run(b"2"), alias="candidate", idempotency_key="b")

    registry.register("flights", make_run(b"1"), alias="candidate", idempotency_key="a")

    assert registry.get("flights@candidate").version == 2


def test_the_same_key_with_another_checkpoint_is_a_conflict(registry, make_run):
    registry.register("flights", make_run(b"1"), idempotency_key="nightly")

    with pytest.raises(Conflict, match="'nightly' stands for version 1 with digest"):
        registry.register("flights", make_run(b"2"), idempotency_key="nightly")

    assert len(registry.list("flights")) == 1


@pytest.mark.parametrize("other", [{"run_id": "r2"}, {"description": "b"}, {"description": ""}, {"tags": {"a": "b"}}])
def test_the_same_key_with_a_source_of_which_something_else_is_said_is_a_conflict(registry, other):
    said = {"run_id": "r1", "description": "a"}
    first = registry.register_source("far", "runs:/1/m", idempotency_key="k", **said)

    assert registry.register_source("far", "runs:/1/m", idempotency_key="k", **said) == first
    with pytest.raises(Conflict, match=f"'k' stands for version 1 with {next(iter(other))} "):
        registry.register_source("far", "runs:/1/m", idempotency_key="k", **said | other)


def test_the_same_key_with_another_description_of_a_model_is_a_conflict(registry):
    make = partial(registry._rules.create_model, "fraud", call=Call(request="k", user="ana"))
    first = make(description="one")

    assert make(description="one") == first
    with pytest.raises(Conflict, match="'k' stands for a 'create_model' by os:ana with description one; use a key of"):
        make(description="two")


def test_a_key_belongs_to_one_model(registry, make_run):
    registry.register("flights", make_run(), idempotency_key="nightly")

    assert registry.register("weather", make_run(), idempotency_key="nightly").reference == "weather/1"


@pytest.mark.parametrize("key", ["", "k" * 256, "\x00", "\ud800"])
def test_an_idempotency_key_has_a_length(registry, make_run, key):
    with pytest.raises(InvalidName, match=r"1 to 255 characters|holds a NUL"):
        registry.register("flights", make_run(), idempotency_key=key)


def test_an_alias_moves_and_goes(registry, make_run):
    for weights in (b"1", b"2"):
        registry.register("flights", make_run(weights), alias="candidate")

    assert registry.set_alias("flights", "candidate", 1).aliases == ("candidate",)
    assert registry.get("flights/2").aliases == ()

    registry.remove_alias("flights", "candidate")
    with pytest.raises(UnknownName, match="there is no alias 'flights@candidate'"):
        registry.get("flights@candidate")


def test_an_alias_cannot_point_at_what_is_not_there(registry, make_run):
    registry.register("flights", make_run())

    with pytest.raises(UnknownName, match="there is no model version 'flights/2'; known are flights/1"):
        registry.set_alias("flights", "candidate", 2)
    with pytest.raises(UnknownName, match="there is no alias 'flights@candidate'"):
        registry.remove_alias("flights", "candidate")


def test_an_unknown_name_points_at_the_nearest(registry, make_run):
    registry.register("flights", make_run(), alias="candidate")

    with pytest.raises(UnknownName, match="no model 'flight'; known are flights; did you mean 'flights'"):
        registry.get("flight/1")
    with pytest.raises(UnknownName, match=r"no alias 'flights@candidat'.*did you mean 'flights@candidate'"):
        registry.get("flights@candidat")
    with pytest.raises(UnknownName, match=r"no model version 'flights/12'.*did you mean 'flights/1'"):
        registry.get("flights/12")
    with pytest.raises(UnknownName, match="no model 'flight'"):
        registry.list("flight")


def test_a_checkpoint_without_a_signature_is_refused_before_anything_is_written(registry, make_run, urls):
    run = make_run()
    Path(run.checkpoint, "signature.json").unlink()

    with pytest.raises(SchemaError, match=r"signature\.json cannot be read"):
        registry.register("flights", run)

    assert registry.models() == []
    assert not Path(urls[1]).exists()


def test_a_row_needs_its_artifact_in_the_store_first(urls, make_run):
    rules = ModelRegistry(Database(urls[0]), ArtifactStore(urls[1]), clock=lambda: datetime(2026, 1, 31, tzinfo=UTC))
    record = record_of(make_run(), digest="0" * 64, signature={})

    with pytest.raises(UnknownName, match=r"there is no artifact 0000.*upload it first"):
        rules.register("flights", record, alias=None, call=Call(request="r"))

    assert rules.models() == []


def test_a_version_bears_the_time_of_the_clock(urls, make_run):
    at = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
    artifacts = ArtifactStore(urls[1])
    record = record_of(make_run(), digest=artifacts.upload(make_run().checkpoint), signature={})

    rules = ModelRegistry(Database(urls[0]), artifacts, clock=lambda: at)

    assert rules.register("flights", record, alias=None, call=Call(request="r", user="ana")).created_at == at
    assert rules.get("flights/1").author == "os:ana"


def test_a_database_that_cannot_be_read_is_an_error_of_its_own(tmp_path):
    (tmp_path / "registry.db").mkdir()
    registry = Registry.connect(f"sqlite:///{tmp_path}/registry.db", str(tmp_path / "artifacts"), embedded=True)

    with pytest.raises(RegistryUnavailable, match=r"database sqlite:///.*registry\.db does not answer"):
        registry.models()


@pytest.mark.parametrize("left", [None, b"\x00"])
def test_a_checkpoint_of_which_a_file_is_missing_or_cut_off_is_not_registered(registry, urls, make_run, left):
    run = make_run(b"\x00\x01\x02")
    record = record_of(run, digest=registry._artifacts.upload(run.checkpoint), signature={})
    blob = next(path for path in Path(urls[1]).rglob("*") if path.is_file() and path.read_bytes() == b"\x00\x01\x02")
    blob.unlink() if left is None else blob.write_bytes(left)

    with pytest.raises(CorruptArtifact, match=r"tensors: wanted 3 bytes, got (nothing|1 bytes); upload it again"):
        registry._rules.register("flights", record, alias=None, call=registry._call())
    assert registry.models() == []
