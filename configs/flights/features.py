"""What is known about a flight one hour before it is due to leave.

Every source says when its rows become known: a departure at the moment the plane left (so a cancelled flight
never appears), a planned flight at its scheduled instant although it was known long before, an hour's weather
when the hour has ended. Windows end before q, so a flight never counts itself.
"""

# mypy: allow-untyped-defs
import numpy as np

import mlray as ml
from mlray import days, hours

airport = ml.Entity("airport", keys=["origin"])
at_airport = ml.Entity("airline_at_airport", keys=["origin", "carrier"])
route = ml.Entity("airline_route", keys=["carrier", "dest"])
plane = ml.Entity("plane", keys=["tailnum"])

departures = ml.DeltaSource(
    "departures", path="departures", timestamp="departed_at", sequence="flight_id",
    select={"late": "CAST(delay >= 15 AS INTEGER)"},
)
schedule = ml.DeltaSource("schedule", path="schedule", timestamp="scheduled_at", sequence="flight_id")
weather = ml.DeltaSource("weather", path="weather", timestamp="hour", lag=hours(1))
planes = ml.DeltaSource("planes", path="planes", timestamp=None)

# count, mean delay in minutes, share of delays of 15 minutes and more
from_airport = ml.FeatureView("from_airport", entity=airport, source=departures, owner="flights", features=[
    ml.Count(windows=[hours(1), hours(3), days(1)]),
    ml.Mean("delay", windows=[hours(1), hours(3), days(1)]),
    ml.Mean("late", windows=[hours(1), hours(3), days(1)]),
])
by_airline = ml.FeatureView("by_airline", entity=at_airport, source=departures, owner="flights", features=[
    ml.Count(windows=[hours(3), days(1)]),
    ml.Mean("delay", windows=[hours(3), days(1)]),
    ml.Mean("late", windows=[hours(3), days(1)]),
])
on_route = ml.FeatureView("on_route", entity=route, source=departures, owner="flights", features=[
    ml.Count(windows=[days(7)]),
    ml.Mean("delay", windows=[days(7)]),
    ml.Mean("late", windows=[days(7)]),
])
of_plane = ml.FeatureView("of_plane", entity=plane, source=departures, owner="flights", features=[
    "delay",
    "departed_at",
    ml.Count(windows=[days(1), days(7)]),
    ml.Mean("delay", windows=[days(1), days(7)]),
    ml.Mean("late", windows=[days(1), days(7)]),
])

# flights due: set against those that left, they tell of cancellations and queues before a delay is known
airport_due = ml.FeatureView("airport_due", entity=airport, source=schedule, owner="flights", features=[
    ml.Count(windows=[hours(3)]),
])
airline_due = ml.FeatureView("airline_due", entity=at_airport, source=schedule, owner="flights", features=[
    ml.Count(windows=[hours(3)]),
])
plane_due = ml.FeatureView("plane_due", entity=plane, source=schedule, owner="flights", features=[
    ml.Count(windows=[days(1)]),
])

sky = ml.FeatureView("sky", entity=airport, source=weather, owner="flights", ttl=hours(3), features=[
    "temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib",
])
hull = ml.FeatureView("hull", entity=plane, source=planes, owner="flights", features=["year", "seats"])

booking = ml.RequestSource("booking", schema={
    "carrier": str, "origin": str, "dest": str, "distance": int, "scheduled_hour": int, "weekday": int,
})

AIRPORT = from_airport.prefixed("airport_")
AIRLINE = by_airline.prefixed("airline_")
ROUTE = on_route.prefixed("route_")
PLANE = of_plane.prefixed("plane_")
AIRPORT_DUE = airport_due.prefixed("airport_due_")
AIRLINE_DUE = airline_due.prefixed("airline_due_")
PLANE_DUE = plane_due.prefixed("plane_due_")


@ml.on_demand(PLANE)
def plane_delay_left(plane_delay, plane_departed_at, at):
    """The plane's last delay less the time it has had since, in minutes."""
    return plane_delay - (at - plane_departed_at) / np.timedelta64(1, "m")


@ml.on_demand(AIRPORT, AIRPORT_DUE)
def airport_waiting_3h(airport_due_count_3h, airport_count_3h):
    """Flights due at the airport in three hours less those that left."""
    return airport_due_count_3h - airport_count_3h


@ml.on_demand(AIRLINE, AIRLINE_DUE)
def airline_waiting_3h(airline_due_count_3h, airline_count_3h):
    """The same of the airline at this airport."""
    return airline_due_count_3h - airline_count_3h


@ml.on_demand(PLANE, PLANE_DUE)
def plane_waiting_1d(plane_due_count_1d, plane_count_1d):
    """Flights that the plane was due to make in a day less those that left."""
    return plane_due_count_1d - plane_count_1d


flights = ml.FeatureService("flights", features=[
    booking,
    AIRPORT, AIRLINE, ROUTE,
    PLANE["delay", "count_1d", "count_7d", "delay_mean_1d", "delay_mean_7d", "late_mean_1d", "late_mean_7d"],
    plane_delay_left, airport_waiting_3h, airline_waiting_3h, plane_waiting_1d,
    sky,
    hull.prefixed("plane_"),
])

# the same question asked of the booking alone: what the features are worth
booking_only = ml.FeatureService("booking_only", features=[booking])
