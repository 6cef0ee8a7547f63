"""One hour before it is due: will this flight leave 15 or more minutes late, or be cancelled?"""

from datetime import date, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from configs.flights.tables import load

LEAD = timedelta(hours=1)
LATE_MINUTES = 15


def tables(*, start: date, end: date) -> dict[str, pa.Table]:
    """What `mlray ingest` loads: table name = source name = path under the lake."""
    return load(start=start, end=end)


def spine(*, start: date, end: date) -> pa.Table:
    """One row per flight at q, `timestamp`, with its keys, its request fields and the label `late` (0 or 1).

    `scheduled_hour` and `weekday` (1 = Monday ... 7 = Sunday) are New York's: timetables and habits follow
    the clock on the wall. A flight without tail number was cancelled, always: the gap is the outcome, written
    down afterwards. `where` in flights.toml leaves those 2,512 rows out.
    """
    loaded = load(start=start, end=end)
    schedule, departures = loaded["schedule"], loaded["departures"].select(["flight_id", "delay"])
    joined = schedule.join(departures, "flight_id", join_type="left outer").sort_by("flight_id")
    local = pc.local_timestamp(joined["scheduled_at"].cast(pa.timestamp("us", tz="America/New_York")))
    late = pc.fill_null(pc.greater_equal(joined["delay"], LATE_MINUTES), True)
    q = pc.subtract(joined["scheduled_at"], pa.scalar(LEAD, pa.duration("us")))
    return pa.table({
        "flight_id": joined["flight_id"],
        "timestamp": q,
        "origin": joined["origin"],
        "dest": joined["dest"],
        "carrier": joined["carrier"],
        "tailnum": joined["tailnum"],
        "distance": joined["distance"],
        "scheduled_hour": pc.hour(local),
        "weekday": pc.day_of_week(local, count_from_zero=False),
        "late": late.cast(pa.int64()),
    })
