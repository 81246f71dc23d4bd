"""Windowed aggregates with pandas: what one writes who knows it well, tiles included.

Events are summed by tile and rows are asked for by distinct time, so that the rolling windows
go over as little as possible; rolling windows end at rows, so both stand in one table.
"""

from __future__ import annotations

import pandas as pd

from tests.benchmarks import aggregates_work as work
from tests.benchmarks.work import Job

_TILE = work.TILE.replace("m", "min")


def run(job: Job) -> None:
    rows = pd.read_parquet(job.data)
    scheduled = rows["time_hour"] + pd.to_timedelta(rows["minute"] * 60, unit="s")
    known = scheduled + pd.to_timedelta(rows["dep_delay"] * 60, unit="s")
    rows["asked"] = scheduled.dt.floor(_TILE)
    # A tile counts from its end on.
    rows["seen"] = known.dt.floor(_TILE) + pd.Timedelta(_TILE)
    for key in work.KEYS:
        _add(rows, key)
    rows = rows.drop(columns=["asked", "seen"])
    rows.to_parquet(job.output / "rows.parquet", compression="zstd", compression_level=1)


def _add(rows: pd.DataFrame, key: str) -> None:
    """Add the columns of one key."""
    tiles = rows.groupby([key, "seen"], observed=True)["dep_delay"].agg(["sum", "count"])
    tiles = tiles.reset_index().rename(columns={"seen": "at"})
    asked = rows[[key, "asked"]].dropna().drop_duplicates().rename(columns={"asked": "at"})
    # Tiles stand before who asks at the same time: the sort is stable.
    both = pd.concat([tiles, asked.assign(sum=0.0, count=0)], ignore_index=True)
    both = both.sort_values("at", kind="stable").sort_values(key, kind="stable")
    grouped = both.set_index("at").groupby(key, sort=True)[["sum", "count"]]
    found = both[[key, "at"]].reset_index(drop=True)
    for label, mean, count in work.names(key):
        rolled = grouped.rolling(label).sum()
        counts = rolled["count"].to_numpy()
        found[count] = counts.round().astype("int64")
        sums = rolled["sum"].to_numpy()
        found[mean] = (sums / counts).astype("float32")
    found = found.drop_duplicates([key, "at"], keep="last")
    joined = rows[[key, "asked"]].merge(
        found, how="left", left_on=[key, "asked"], right_on=[key, "at"]
    )
    for _, mean, count in work.names(key):
        rows[mean] = joined[mean].to_numpy()
        rows[count] = joined[count].fillna(0).to_numpy("int64")
