"""The declarations of the flights recipe."""

import numpy as np
import pyarrow as pa

from configs.flights import features
from configs.flights.tables import DEPARTURES, PLANES, SCHEDULE, WEATHER

SCHEMAS: dict[str, pa.Schema] = {
    "departures": DEPARTURES, "schedule": SCHEDULE, "weather": WEATHER, "planes": PLANES,
}


def test_the_service_reads_what_the_question_needs() -> None:
    assert features.flights.names == [
        "carrier", "origin", "dest", "distance", "scheduled_hour", "weekday",
        "airport_count_1h", "airport_count_3h", "airport_count_1d",
        "airport_delay_mean_1h", "airport_delay_mean_3h", "airport_delay_mean_1d",
        "airport_late_mean_1h", "airport_late_mean_3h", "airport_late_mean_1d",
        "airline_count_3h", "airline_count_1d", "airline_delay_mean_3h", "airline_delay_mean_1d",
        "airline_late_mean_3h", "airline_late_mean_1d",
        "route_count_7d", "route_delay_mean_7d", "route_late_mean_7d",
        "plane_delay", "plane_count_1d", "plane_count_7d", "plane_delay_mean_1d", "plane_delay_mean_7d",
        "plane_late_mean_1d", "plane_late_mean_7d", "plane_delay_left",
        "airport_waiting_3h", "airline_waiting_3h", "plane_waiting_1d",
        "temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib",
        "plane_year", "plane_seats",
    ]


def test_every_source_reads_columns_that_its_table_has() -> None:
    for view in features.flights.views:
        columns = {*SCHEMAS[view.source.path].names, *view.source.select}
        used = {*view.keys, *view.columns, view.source.timestamp, view.source.sequence} - {None}
        assert used <= columns, view.name


def test_only_departures_carry_an_outcome() -> None:
    assert "delay" in DEPARTURES.names
    assert not {"delay", "departed_at"} & set(SCHEDULE.names)


def test_an_hour_of_weather_is_read_when_it_has_ended() -> None:
    assert features.weather.lag == features.hours(1)


def test_the_delay_left_shrinks_by_a_minute_each_minute() -> None:
    at = np.array(["2013-07-04T12:00", "2013-07-04T12:00", "2013-07-04T12:00"], "datetime64[us]")
    left = np.array(["2013-07-04T11:30", "2013-07-04T09:00", "NaT"], "datetime64[us]")
    delay = np.array([45.0, 45.0, np.nan])
    answer = features.plane_delay_left(delay, left, at)
    np.testing.assert_array_equal(answer, [15.0, -135.0, np.nan])


def test_the_baseline_reads_the_request_and_nothing_else() -> None:
    assert features.booking_only.views == ()
    assert features.booking_only.names == list(features.booking.schema)
