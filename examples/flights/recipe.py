"""Will a flight land more than 15 minutes late? As known at its scheduled departure.

What is known only later (dep_time, dep_delay, arr_time, air_time) is in the rows, and in no
feature: of other flights, once they have left, it is in the aggregates.
"""

from __future__ import annotations

import data
import pyarrow as pa
import pyarrow.compute as pc

import skewless as sk


def minutes_after_hour(*columns: str) -> pc.Expression:
    """Return the time that is so many minutes after the scheduled hour."""
    minutes = sk.field(columns[0])
    for column in columns[1:]:
        minutes = minutes + sk.field(column)
    seconds = (minutes * 60).cast(pa.int64())
    return sk.field("time_hour") + seconds.cast(pa.duration("s"))


SCHEDULED = minutes_after_hour("minute")
# A delay is known when the flight has left, and not before.
DEPARTED = minutes_after_hour("minute", "dep_delay")
WINDOWS = ("1h", "3h", "24h")


def departures(by: str) -> sk.Aggregate:
    """Return how many flights have left, and how late, at an airport, of a carrier, a plane."""
    return sk.Aggregate(
        by=[by],
        known_at=DEPARTED,
        at=SCHEDULED,
        tile="5m",
        **{
            f"{by}_delay": sk.mean("dep_delay", over=WINDOWS),
            f"{by}_departures": sk.count("dep_delay", over=WINDOWS),
        },
    )


AGGREGATED = [departures(by) for by in ("origin", "carrier", "tailnum")]

WEATHER = ("temp", "dewp", "humid", "wind_speed", "visib")


def measured(column: str) -> object:
    """Return a feature of a measured number: missing is the median, outliers are cut."""
    return sk.numeric(column).impute("median").clip(0.01, 0.99).zscore()


recipe = sk.Recipe(
    name="flights",
    source=sk.ReadCsv(data.flights_csv(), event_time="time_hour", strings_can_be_null=True),
    rows=[
        sk.Require("arr_delay"),  # a cancelled flight never lands: filtered, and counted
        sk.Deduplicate(by=["carrier", "flight", "origin", "time_hour"]),
        sk.JoinAsOf(
            sk.ReadCsv(data.weather_csv(), event_time="time_hour"),
            by=["origin"],
            columns=[*WEATHER, "wind_dir", "wind_gust", "precip", "pressure"],
        ),
        *AGGREGATED,
    ],
    features={
        **{column: measured(column) for column in WEATHER},
        **{
            column: sk.numeric(column).impute(0.0).missing_indicator().clip(0.01, 0.99).zscore()
            for step in AGGREGATED
            for column in step.column_names
        },
        "wind_gust": sk.numeric("wind_gust").impute("median").missing_indicator().zscore(),
        "pressure": sk.numeric("pressure").impute("median").missing_indicator().zscore(),
        "precip": sk.numeric("precip").impute(0.0).log1p().zscore(),
        "wind_dir": sk.cyclic("wind_dir", period=360),
        "distance": sk.numeric("distance").log1p().zscore(),
        "minute": sk.numeric("minute").zscore(),
        "hour": sk.cyclic("hour", period=24),
        "hour_of_day": sk.numeric("hour").zscore(),
        "month": sk.cyclic("month", period=12),
        "time": sk.date_parts("time_hour", parts=["weekday"]),
        "departure": sk.numeric("sched_dep_time").bucketize(20),
        "carrier": sk.category("carrier").vocabulary(top=50, oov=1),
        "origin": sk.category("origin").vocabulary(),
        "dest": sk.category("dest").vocabulary(oov=1),
        "route": sk.cross("origin", "dest").hashed(512),
    },
    label=sk.label("arr_delay").greater_than(15),
    split=sk.SplitByTime(train_until="2013-10-01", eval_until="2013-11-15"),
    model=sk.Dnn(
        hidden=[128, 64],
        dropout=0.25,
        l2=1e-5,
        batch_size=2048,
        learning_rate=1e-3,
        epochs=20,
        patience=3,
    ),
    evaluation=sk.Evaluation(
        slices=["origin", "carrier"],
        thresholds=[sk.at_least("auc", 0.65), sk.at_most("calibration", 2.0)],
    ),
    seed=2013,
)
