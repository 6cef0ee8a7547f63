"""Bad input: one clear MlrayError that names the thing and the remedy, and nothing half-written."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

import mlray as ml

user = ml.Entity("user", keys=["user_id"])
purchases = ml.DeltaSource("purchases", path="purchases", timestamp="at")


def spending(
    *features: Any, name: str = "spending", source: ml.DeltaSource = purchases, **options: Any
) -> ml.FeatureView:
    return ml.FeatureView(name, entity=user, source=source, features=list(features), **options)


def test_two_features_of_one_name_in_a_view() -> None:
    with pytest.raises(ml.MlrayError, match=r"spending.*amount_sum_1d.*name="):
        spending(ml.Sum("amount", windows=[ml.days(1)]), ml.Sum("amount", windows=[ml.hours(24)], where="amount > 0"))


def test_two_features_of_one_name_in_a_service() -> None:
    with pytest.raises(ml.MlrayError, match=r"fraud.*'country'.*prefixed"):
        ml.FeatureService("fraud", features=[spending("country"), spending("country", name="other")])


def test_two_different_views_of_one_name_in_a_service() -> None:
    with pytest.raises(ml.MlrayError, match=r"fraud.*spending"):
        ml.FeatureService("fraud", features=[spending("country"), spending("amount").prefixed("p_")])


def test_an_unknown_feature_of_a_view_has_a_suggestion() -> None:
    with pytest.raises(ml.MlrayError, match=r"did you mean 'country'"):
        spending("country")["contry"]


def test_an_unknown_key_of_a_view_has_a_suggestion() -> None:
    with pytest.raises(ml.MlrayError, match=r"did you mean 'user_id'"):
        spending("country").on(user_di="payer")


def test_an_unknown_request_field_has_a_suggestion() -> None:
    with pytest.raises(ml.MlrayError, match=r"did you mean 'channel'"):
        ml.RequestSource("checkout", schema={"channel": str})["chanel"]


def test_a_source_without_time_gives_no_windows_ttl_or_lag() -> None:
    static = ml.DeltaSource("planes", path="planes", timestamp=None)
    with pytest.raises(ml.MlrayError, match=r"no timestamp"):
        spending(ml.Count(windows=[ml.days(1)]), source=static)
    with pytest.raises(ml.MlrayError, match=r"ttl"):
        spending("seats", source=static, ttl=ml.days(1))
    with pytest.raises(ml.MlrayError, match=r"lag"):
        ml.DeltaSource("planes", path="planes", timestamp=None, lag=ml.minutes(1))


def test_an_on_demand_function_names_its_inputs_or_is_refused() -> None:
    with pytest.raises(ml.MlrayError, match=r"'amnt'.*amount"):

        @ml.on_demand(spending("amount"))
        def doubled(amnt: Any) -> Any:
            return amnt * 2


def test_an_on_demand_function_may_not_read_a_global_value() -> None:
    with pytest.raises(ml.MlrayError, match=r"'purchases'.*imported module"):

        @ml.on_demand(spending("amount"))
        def doubled(amount: Any) -> Any:
            return np.where(purchases, amount, 0)


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SPINE = pa.table({"user_id": [7, 8], "timestamp": [NOON, NOON], "label": [True, False]})


@pytest.fixture
def platform(ray_cluster: str, tmp_path: Path) -> ml.Platform:
    """A platform whose lake holds purchases of users 7 and 8."""
    rows = pa.table({"user_id": [7, 8, 7], "at": [NOON] * 3, "amount": [1.5, None, 2.5], "count": [2**62] * 3,
                     "country": ["PT", None, "DE"]})
    write_deltalake(str(tmp_path / "lake" / "purchases"), rows)
    return ml.connect(ml.Settings(lake=str(tmp_path / "lake"), online=f"memory://{tmp_path.name}", ray=ray_cluster))


def service(*features: Any, **options: Any) -> ml.FeatureService:
    return ml.FeatureService("fraud", features=[spending(*features, **options)])


def source(**options: Any) -> ml.DeltaSource:
    return ml.DeltaSource("purchases", **{"path": "purchases", "timestamp": "at", **options})


MONTH = [ml.days(30)]


@pytest.mark.parametrize(("asked", "message"), [
    (lambda: service("amuont"), r"spending.*'amuont'.*did you mean 'amount'"),
    (lambda: service(ml.Sum("amuont", windows=MONTH)), r"spending.*'amuont'.*did you mean 'amount'"),
    (lambda: service("amount", source=source(timestamp="att")), r"'att'.*did you mean 'at'"),
    (lambda: service("amount", source=source(known_at="seen")), r"'seen'"),
    (lambda: service("amount", source=source(timestamp="country")), r"'country'.*string.*timestamp"),
    (lambda: service(ml.Sum("country", windows=MONTH)), r"spending.*Sum.*'country'.*CAST"),
    (lambda: service("amount", source=source(where="amuont > 1")), r"'amuont'.*did you mean 'amount'"),
    (lambda: service("amount", source=source(where="amount + 1")), r"amount \+ 1.*predicate"),
    (lambda: service("amount", source=source(where="amount > 'x'")), r"amount > 'x'"),
    (lambda: service("double", source=source(select={"double": "2 *"})), r"'double'.*'2 \*'"),
    (lambda: service("total", source=source(select={"total": "SUM(amount)"})), r"SUM\(amount\).*more than one row"),
    (lambda: service("when", source=source(select={"when": "NOW()"})), r"NOW"),
    (lambda: service(ml.Count(windows=MONTH, where="countri = 'PT'")), r"'countri'.*did you mean 'country'"),
])
def test_a_service_that_does_not_fit_its_table_is_not_applied(
    platform: ml.Platform, asked: Callable[[], ml.FeatureService], message: str
) -> None:
    with pytest.raises(ml.MlrayError, match=message):
        platform.apply(asked())
    with pytest.raises(ml.MlrayError, match="fraud"):
        platform.get_features("fraud", [{"user_id": 7}])


@pytest.mark.parametrize(("spine", "options", "message"), [
    (SPINE.rename_columns(["user", "timestamp", "label"]), {}, r"'user_id'.*the spine.*did you mean 'user'"),
    (SPINE, {"timestamp": "timestmp"}, r"'timestmp'.*did you mean 'timestamp'"),
    (SPINE, {"label": "lable"}, r"'lable'.*did you mean 'label'"),
    (SPINE, {"timestamp": "user_id"}, r"'user_id'.*int64.*timestamp"),
    (SPINE.append_column("amount", pa.array([1.0, 2.0])), {}, r"'amount'.*spine column.*prefixed"),
    (SPINE.set_column(0, "user_id", pa.array(["7", "8"])), {}, r"'user_id'.*string.*int64"),
    (SPINE.set_column(0, "user_id", pa.array([7.0, 8.0])), {}, r"'user_id'.*double"),
    (7, {}, r"int.*Arrow"),
    ("no_such_table", {}, r"spine.*no Delta table.*no_such_table"),
])
def test_a_spine_that_does_not_fit_is_refused(
    platform: ml.Platform, spine: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ml.MlrayError, match=message):
        platform.build_training_set(service("amount"), spine, **options).to_arrow()


def test_a_missing_table_is_named(platform: ml.Platform) -> None:
    missing = service("amount", source=source(path="purchasse"))
    with pytest.raises(ml.MlrayError, match=r"purchases.*no Delta table.*purchasse"):
        platform.build_training_set(missing, SPINE)
    with pytest.raises(ml.MlrayError, match=r"purchases.*no Delta table.*purchasse"):
        platform.materialize(missing, until=NOON)


def test_an_integer_sum_that_leaves_int64_names_column_and_remedy(platform: ml.Platform) -> None:
    asked = service(ml.Sum("count", windows=MONTH, closed="right"))
    with pytest.raises(ml.MlrayError, match=r"view spending: source purchases.*'count'.*int64.*CAST"):
        platform.build_training_set(asked, SPINE).to_arrow()


def test_a_failing_row_fails_the_build_and_names_the_expression(platform: ml.Platform) -> None:
    asked = service("number", source=source(select={"number": "CAST(country AS INT)"}))
    with pytest.raises(ml.MlrayError, match=r"purchases: select 'number', .*CAST\(country AS INT\).*3 rows"):
        platform.build_training_set(asked, SPINE).to_arrow()


@ml.on_demand(spending("amount"))
def broken(amount):  # type: ignore[no-untyped-def]
    return amount[:0]


@ml.on_demand(spending("amount"))
def raising(amount):  # type: ignore[no-untyped-def]
    return amount["no such field"]


@pytest.mark.parametrize("function", [broken, raising])
def test_a_failing_on_demand_function_is_named_with_its_rows(platform: ml.Platform, function: Any) -> None:
    asked = ml.FeatureService("fraud", features=[function])
    with pytest.raises(ml.MlrayError, match=rf"{function.name}.*2 rows"):
        platform.build_training_set(asked, SPINE).to_arrow()
    platform.materialize(asked, until=NOON)
    with pytest.raises(ml.MlrayError, match=rf"{function.name}.*1 rows"):
        platform.get_features(asked, [{"user_id": 7}], at=NOON)


@pytest.mark.parametrize("name", ["__ts", "__known", "__seq", "__keep", "__commit"])
def test_a_column_with_a_name_of_mlray_s_own_is_not_read_by_mistake(name: str, platform: ml.Platform) -> None:
    user, source = ml.Entity("user", keys=["user_id"]), ml.DeltaSource("p", path="p", timestamp="at")
    count = ml.Count(windows=[ml.lifetime], where=f"{name} > 1")
    view = ml.FeatureView("v", entity=user, source=source, features=[count])
    with pytest.raises(ml.MlrayError, match=rf"view v: the column '{name}'.*select=\{{'{name[2:]}': '{name}'\}}"):
        platform.apply(ml.FeatureService("s", features=[view]))


def test_naive_datetimes_are_refused(platform: ml.Platform) -> None:
    asked = service("amount")
    naive = NOON.replace(tzinfo=None)
    with pytest.raises(ml.MlrayError, match=r"until=.*timezone.utc"):
        platform.materialize(asked, until=naive)
    platform.materialize(asked, until=NOON)
    with pytest.raises(ml.MlrayError, match=r"at=.*timezone.utc"):
        platform.get_features(asked, [{"user_id": 7}], at=naive)
    with pytest.raises(ml.MlrayError, match=r"at=.*timezone.utc"):
        platform.get_features(asked, [{"user_id": 7}], at=[naive])


def test_a_read_before_materialize_says_what_to_run(platform: ml.Platform) -> None:
    with pytest.raises(ml.MlrayError, match=r"spending.*materialize"):
        platform.get_features(service("amount"), [{"user_id": 7}], at=NOON)


@pytest.mark.parametrize(("row", "message"), [
    ({"user": 7}, r"'user_id'.*did you mean 'user'"),
    ({"user_id": "7"}, r"'user_id'.*string.*int64"),
    ({"user_id": 7.5}, r"'user_id'.*double"),
])
def test_an_online_request_that_does_not_fit_is_refused(
    platform: ml.Platform, row: dict[str, Any], message: str
) -> None:
    asked = service("amount")
    platform.materialize(asked, until=NOON)
    with pytest.raises(ml.MlrayError, match=message):
        platform.get_features(asked, [row], at=NOON)


@pytest.mark.parametrize(("rows", "message"), [
    ({"user_id": [7], "at": [NOON], "amuont": [1.0]}, r"purchases.*'amuont'"),
    ({"user_id": [7], "at": [NOON], "amount": ["much"]}, r"purchases.*'amount'.*string.*double"),
    ({"user_id": [7], "at": ["noon"], "amount": [1.0]}, r"purchases.*'at'.*string"),
])
def test_rows_that_do_not_fit_leave_delta_and_online_as_they_were(
    platform: ml.Platform, tmp_path: Path, rows: dict[str, Any], message: str
) -> None:
    asked = service("amount", ml.Count(windows=[ml.lifetime]))
    platform.apply(asked)
    platform.materialize(asked, until=NOON)
    before = platform.get_features(asked, [{"user_id": 7}], at=NOON)
    others = {"count": [1], "country": ["PT"]}
    with pytest.raises(ml.MlrayError, match=message):
        platform.ingest("purchases", pa.table({**rows, **others}))
    assert DeltaTable(str(tmp_path / "lake" / "purchases")).version() == 0
    assert platform.get_features(asked, [{"user_id": 7}], at=NOON).equals(before)


def test_an_unknown_service_or_source_has_a_suggestion(platform: ml.Platform) -> None:
    platform.apply(service("amount"))
    with pytest.raises(ml.MlrayError, match="did you mean 'fraud'"):
        platform.get_features("froud", [{"user_id": 7}])
    with pytest.raises(ml.MlrayError, match="did you mean 'purchases'"):
        platform.ingest("purchasse", [{"user_id": 7}])
