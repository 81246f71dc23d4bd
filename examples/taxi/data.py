"""Made-up taxi trips in the columns of the Chicago data set that TFX documents."""

from __future__ import annotations

import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 6_000


def trips_parquet() -> pathlib.Path:
    """Return the file of trips, made beside this one the first time."""
    target = pathlib.Path(__file__).parent / "data" / "trips.parquet"
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        partial = target.with_suffix(".partial")
        pq.write_table(make_trips(ROWS), partial)
        partial.replace(target)
    return target


def make_trips(rows: int, seed: int = 0) -> pa.Table:
    """Return trips in which long rides paid by card are tipped well."""
    rng = np.random.default_rng(seed)
    miles = rng.lognormal(0.8, 0.8, rows).astype(np.float32)
    fare = (3.25 + 2.25 * miles + rng.normal(0, 1, rows).clip(-2)).astype(np.float32)
    card = rng.random(rows) < 0.5
    tips = np.where(card, fare * rng.uniform(0.05, 0.35, rows), 0).astype(np.float32)

    def sometimes(values: np.ndarray, missing: float) -> pa.Array:
        return pa.array(values, mask=rng.random(rows) < missing)

    return pa.table(
        {
            "trip_id": np.arange(rows),
            "fare": fare,
            "trip_miles": sometimes(miles, 0.05),
            "trip_seconds": sometimes((miles * 240).astype(np.int64), 0.05),
            "trip_start_hour": rng.integers(0, 24, rows),
            "trip_start_day": rng.integers(1, 8, rows),
            "trip_start_month": rng.integers(1, 13, rows),
            "pickup_latitude": sometimes(rng.normal(41.9, 0.05, rows), 0.1),
            "pickup_longitude": sometimes(rng.normal(-87.65, 0.05, rows), 0.1),
            "dropoff_latitude": sometimes(rng.normal(41.9, 0.05, rows), 0.1),
            "dropoff_longitude": sometimes(rng.normal(-87.65, 0.05, rows), 0.1),
            "payment_type": np.where(card, "Credit Card", "Cash"),
            "company": sometimes(rng.choice(["Blue", "Flash", "Dispatch"], rows), 0.3),
            "tips": tips,
        }
    )
