"""Windowed aggregates with Polars, by the same plan as `aggregates_pandas`."""

from __future__ import annotations

import os

os.environ.setdefault("POLARS_MAX_THREADS", "2")

import polars as pl

from tests.benchmarks import aggregates_work as work
from tests.benchmarks.work import Job


def run(job: Job) -> None:
    scheduled = pl.col("time_hour") + pl.duration(minutes=pl.col("minute"))
    known = scheduled + pl.duration(minutes=pl.col("dep_delay"))
    rows = pl.read_parquet(job.data).with_columns(
        asked=scheduled.dt.truncate(work.TILE),
        # A tile counts from its end on.
        seen=known.dt.truncate(work.TILE) + pl.duration(minutes=int(work.TILE.rstrip("m"))),
    )
    for key in work.KEYS:
        rows = _with(rows, key)
    rows.drop("asked", "seen").write_parquet(
        job.output / "rows.parquet", compression="zstd", compression_level=1
    )


def _with(rows: pl.DataFrame, key: str) -> pl.DataFrame:
    """Return the rows with the columns of one key."""
    tiles = (
        rows.lazy()
        .filter(pl.col("seen").is_not_null() & pl.col(key).is_not_null())
        .group_by(key, pl.col("seen").alias("at"))
        .agg(sum=pl.col("dep_delay").sum(), count=pl.len().cast(pl.Int64))
    )
    asked = (
        rows.lazy()
        .filter(pl.col(key).is_not_null())
        .select(key, pl.col("asked").alias("at"))
        .unique()
        .with_columns(sum=pl.lit(0, pl.Int64), count=pl.lit(0, pl.Int64))
    )
    # One row for each key and time: those who ask at the end of a tile are that tile's.
    both = pl.concat([tiles, asked]).group_by(key, "at").agg(pl.col("sum", "count").sum())
    found = both.sort(key, "at").with_columns(
        pl.col(column).rolling_sum_by("at", label, closed="right").over(key).alias(name)
        for label, *added in work.names(key)
        for column, name in zip(("sum", "count"), added, strict=True)
    )
    found = found.with_columns(
        (pl.col(mean) / pl.col(count)).fill_nan(None).cast(pl.Float32).alias(mean)
        for _, mean, count in work.names(key)
    ).drop("sum", "count")
    joined = rows.lazy().join(
        found, how="left", left_on=[key, "asked"], right_on=[key, "at"], maintain_order="left"
    )
    return joined.with_columns(
        pl.col(count).fill_null(0) for _, _, count in work.names(key)
    ).collect()
