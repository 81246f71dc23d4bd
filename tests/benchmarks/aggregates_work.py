"""What the contenders of `aggregates` compute, of which tables, and whether they agree.

Run as: python -m tests.benchmarks.aggregates_work write|agree|write-wide FOLDER ROWS
"""

from __future__ import annotations

import datetime
import pathlib
import sys
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

CONTENDERS = ("skewless", "pandas", "polars")
KEYS = ("origin", "carrier", "tailnum")
# Hours by the names of the windows.
WINDOWS = {"1h": 1, "3h": 3, "24h": 24}
TILE = "5m"
COLUMNS = ("time_hour", "minute", "dep_delay", *KEYS)
YEAR = datetime.timedelta(days=365)
# Of random events: columns, aggregates and windows that make 1,000 in all.
WIDE_ROWS, WIDE_COLUMNS, WIDE_WINDOWS, WIDE_KEYS = 17_000, 25, 20, 200
_GROUP_ROWS = 65_536
# A mean may be off by this much of itself where sums are not exact.
_TOLERANCE = 1e-5


def main(what: str, folder: str, rows: str) -> None:
    data, count = pathlib.Path(folder), int(rows)
    if what == "write":
        write_flights(data / f"flights-{count}.parquet", count)
    elif what == "agree":
        check_agreement(data, count)
    else:
        write_wide(data / f"wide-{count}.parquet")


def names(key: str) -> list[tuple[str, str, str]]:
    """Return for each window of a key its name, its column of means and that of counts."""
    return [(label, f"{key}_mean_{label}", f"{key}_count_{label}") for label in WINDOWS]


def all_names() -> list[str]:
    """Return the 18 columns."""
    return [name for key in KEYS for _, *both in names(key) for name in both]


def write_flights(path: pathlib.Path, rows: int) -> None:
    """Write the year of flights, and again as the years after it until there are enough."""
    # Not above: the contenders import this module, and their memory is measured.
    from tests.benchmarks.data import read_flights

    columns = read_flights().select(COLUMNS)
    place = columns.schema.get_field_index("time_hour")
    times = columns["time_hour"].cast(pa.timestamp("us", "UTC"))
    columns = columns.set_column(place, "time_hour", times)
    with pq.ParquetWriter(path, columns.schema) as writer:
        for year in range(-(-rows // columns.num_rows)):
            part = columns.slice(0, rows - year * columns.num_rows)
            times = part["time_hour"].cast(pa.int64()).to_numpy()
            moved = pa.array(times + year * YEAR // datetime.timedelta(microseconds=1))
            moved = moved.cast(part.schema.field("time_hour").type)
            writer.write_table(part.set_column(place, "time_hour", moved), _GROUP_ROWS)


def write_wide(path: pathlib.Path) -> None:
    """Write random events of many columns, a few days of them."""
    random = np.random.default_rng(2013)
    seconds = random.integers(0, 3 * 86_400, WIDE_ROWS) + 1_700_000_000
    columns = {
        "time": pa.array(seconds * 1_000_000, pa.timestamp("us", "UTC")),
        "key": pa.array([f"k{n}" for n in random.integers(0, WIDE_KEYS, WIDE_ROWS)]),
    }
    for name in wide_names():
        columns[name] = pa.array(np.round(random.normal(0, 100, WIDE_ROWS), 2))
    pq.write_table(pa.table(columns), path, _GROUP_ROWS)


def wide_names() -> Iterator[str]:
    """Yield the names of the columns of numbers."""
    yield from (f"x{n:02d}" for n in range(WIDE_COLUMNS))


def check_agreement(folder: pathlib.Path, rows: int) -> None:
    """Check that all contenders gave every row the same, column by column."""
    order = _column(folder / "skewless", "_offset").argsort()
    if len(order) != rows:
        raise SystemExit(f"skewless: {len(order)} of {rows} rows")
    for name in all_names():
        ours = _column(folder / "skewless", name)[order]
        for peer in CONTENDERS[1:]:
            theirs = _column(folder / peer, name)
            same = np.isclose(ours, theirs, _TOLERANCE, _TOLERANCE, equal_nan=True)
            if not same.all():
                at = int(np.flatnonzero(~same)[0])
                raise SystemExit(f"{name}: row {at} is {ours[at]} and, of {peer}, {theirs[at]}")


def _column(folder: pathlib.Path, name: str) -> npt.NDArray[np.float64]:
    """Return a column of what a contender wrote; a missing value is NaN."""
    files = list(folder.rglob("*.parquet"))
    column = ds.dataset(files).to_table(columns=[name])[name]
    return np.asarray(column.cast(pa.float64()).to_numpy())


if __name__ == "__main__":
    main(*sys.argv[1:])
