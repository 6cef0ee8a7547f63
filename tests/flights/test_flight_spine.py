"""The question: one row per flight, asked one hour before it is due."""

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pyarrow as pa
import pytest

from configs.flights.features import flights
from configs.flights.recipe import spine, tables

YEAR = {"start": date(2013, 1, 1), "end": date(2014, 1, 1)}


@pytest.fixture(scope="module")
def whole() -> pa.Table:
    return spine(**YEAR)


def test_there_is_one_row_per_flight(whole: pa.Table) -> None:
    assert whole["flight_id"].to_pylist() == list(range(336_776))


def test_the_question_is_asked_one_hour_before_the_scheduled_departure(whole: pa.Table) -> None:
    scheduled = tables(**YEAR)["schedule"]["scheduled_at"]
    assert whole.schema.field("timestamp").type == pa.timestamp("us", tz="UTC")
    ahead = pl.from_arrow(scheduled) - pl.from_arrow(whole["timestamp"])
    assert ahead.unique().to_list() == [timedelta(hours=1)]


def test_late_is_fifteen_minutes_or_more_or_cancelled(whole: pa.Table) -> None:
    delays = pl.from_arrow(tables(**YEAR)["departures"]).select("flight_id", "delay")
    rows = pl.from_arrow(whole).join(delays, on="flight_id", how="left")

    def labels(delay: int | None) -> list[int]:
        return rows.filter(pl.col("delay").eq_missing(pl.lit(delay)))["late"].unique().to_list()

    assert (labels(14), labels(15), labels(None)) == ([0], [1], [1])
    assert rows["late"].sum() == 72_914 + 8_255


def test_hour_and_weekday_are_on_the_clock_of_new_york(whole: pa.Table) -> None:
    # Friday 5 July lasts until 04:00 of Saturday in UTC; asked between 01:00 and 02:00, due an hour later
    first, stop = datetime(2013, 7, 6, 1, tzinfo=UTC), datetime(2013, 7, 6, 2, tzinfo=UTC)
    rows = pl.from_arrow(whole).filter(pl.col("timestamp").is_between(first, stop, closed="left"))
    assert rows.select("scheduled_hour", "weekday").unique().rows() == [(22, 5)]


def test_the_spine_carries_every_key_and_request_field_of_the_service(whole: pa.Table) -> None:
    assert {*flights.keys, *flights.request} <= set(whole.column_names)


def test_no_spine_column_tells_the_outcome_but_the_label(whole: pa.Table) -> None:
    assert whole.column_names == [
        "flight_id", "timestamp", "origin", "dest", "carrier", "tailnum", "distance", "scheduled_hour",
        "weekday", "late",
    ]
