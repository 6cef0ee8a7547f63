"""What a training set of the flights recipe has to be, row by row and as a whole: the gate `data_validation`.

`metadata` says what one block of rows cannot: the share of missing values that is known and accepted, and the fewest
rows. Weather stations and plane registers have gaps; a plane's first flight has no delay before it.
"""

import pandera.polars as pandera
import polars as pl
from pandera.polars import Check, Column

AIRPORTS = ["EWR", "JFK", "LGA"]

counts = {
    name: Column(pl.Int64, Check.ge(0))
    for name in [
        "airport_count_1h", "airport_count_3h", "airport_count_1d", "airline_count_3h", "airline_count_1d",
        "route_count_7d", "plane_count_1d", "plane_count_7d",
    ]
}
shares = {
    name: Column(pl.Float64, Check.in_range(0, 1), nullable=True, metadata={"max_null_share": most})
    for name, most in {
        "airport_late_mean_1h": 0.2, "airport_late_mean_3h": 0.2, "airport_late_mean_1d": 0.02,
        "airline_late_mean_3h": 0.4, "airline_late_mean_1d": 0.1, "route_late_mean_7d": 0.1,
        "plane_late_mean_1d": 0.6, "plane_late_mean_7d": 0.2,
    }.items()
}
sky = {
    "temp": Column(pl.Float64, Check.in_range(-30, 120), nullable=True, metadata={"max_null_share": 0.05}),
    "humid": Column(pl.Float64, Check.in_range(0, 100), nullable=True, metadata={"max_null_share": 0.05}),
    "wind_dir": Column(pl.Int64, Check.in_range(0, 360), nullable=True, metadata={"max_null_share": 0.1}),
    "visib": Column(pl.Float64, Check.in_range(0, 10), nullable=True, metadata={"max_null_share": 0.05}),
}

schema = pandera.DataFrameSchema(
    {
        "flight_id": Column(pl.Int64, unique=True),
        "timestamp": Column(pl.Datetime("us", "UTC")),
        "late": Column(pl.Int64, Check.isin([0, 1])),
        "origin": Column(pl.String, Check.isin(AIRPORTS)),
        "carrier": Column(pl.String, Check.str_length(2, 2)),
        "distance": Column(pl.Int64, Check.in_range(10, 6000)),
        "scheduled_hour": Column(pl.Int64, Check.in_range(0, 23)),
        "weekday": Column(pl.Int64, Check.in_range(1, 7)),
        **counts,
        **shares,
        **sky,
    },
    metadata={"min_rows": 10_000},
)
