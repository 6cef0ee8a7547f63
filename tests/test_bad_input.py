"""Bad input: one clear MlrayError that names the thing and the remedy, and nothing half-written."""

from typing import Any

import numpy as np
import pytest

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
