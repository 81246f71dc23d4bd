"""What one process holds: the store of a stream, the counts of a vocabulary, parts of rows."""

from __future__ import annotations

import dataclasses
import gc
import pathlib
import pickle
import shutil
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from subprocess import DEVNULL

import numpy as np
import pyarrow as pa

from skewless.pipeline.execution import Execution
from skewless.pipeline.live import NewestRun, graph_of, live_rows
from skewless.pipeline.recipe import Recipe
from skewless.pipeline.streaming import StreamRows
from skewless.schema import column_names
from skewless.transforms.analyze.vocabulary import TokenCounts
from skewless.transforms.analyze.vocabulary_file import lines, order, write_vocabulary
from skewless.transforms.live.process import Outputs
from skewless.transforms.rows import to_ipc
from skewless.transforms.shuffle import partition_batch
from tests import flights
from tests.benchmarks.stream_source import Lines, ReadLines

__all__ = ["Store", "Tokens", "count_tokens", "cut_bytes", "stream_into_store"]

_BATCH_TOKENS = 65_536
# In a process of its own: what others have freed would be used again, and not seen.
_LOAD = """
import pathlib, sys
import tensorflow as tf
def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096
one = tf.lookup.KeyValueTensorInitializer(["a"], tf.constant([0], "int64"))
tf.lookup.StaticVocabularyTable(one, 1)
before = resident()
index = tf.lookup.TextFileIndex
file = (sys.argv[1], tf.string, index.WHOLE_LINE, tf.int64, index.LINE_NUMBER)
table = tf.lookup.StaticVocabularyTable(tf.lookup.TextFileInitializer(*file), 1)
table.lookup(tf.constant(["a"]))
print(resident() - before)
"""


@dataclasses.dataclass(frozen=True)
class Store:
    """The store of a stream after some events.

    Attributes:
        events: How many it has seen.
        tiles: How many it holds.
        ids: How many ids it remembers.
        tile_bytes: Of the file, for each tile.
        id_bytes: Of the file, for each id.
        size: Of the file.
    """

    events: int
    tiles: int
    ids: int
    tile_bytes: float
    id_bytes: float
    size: int


def stream_into_store(
    recipe: Recipe, run: pathlib.Path, csv: pathlib.Path, events: int, folder: pathlib.Path
) -> Store:
    """Stream the first departures through a recipe and look at the store.

    Args:
        recipe: Of the flights.
        run: A run of it.
        csv: The flights.
        events: How many.
        folder: An empty one.
    """
    table = flights.departures(flights.table_of(csv)).slice(0, events)
    messages = flights.write_json_lines(table, folder / "events.jsonl")
    live = live_rows(recipe, run, folder, Execution())
    added = [column.name for plan in live.plans for column in plan.columns]
    columns = (*column_names(live.schema), *added, *column_names(live.last))
    outputs = Outputs(graph_of(NewestRun(str(run), columns)), str(folder / "out"), live.at, 0)
    path = folder / "online.db"
    source = ReadLines(lines=Lines(str(messages), 0, 0), schema=live.schema)
    Execution().run(StreamRows(source, live, str(path), outputs))
    with sqlite3.connect(path) as store:
        tiles, ids = (
            store.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
            for name in ("tiles", "seen")
        )
    # Only what it wrote to the file itself counts.
    tile_bytes = _only(path, ("seen", "notes")) / max(tiles, 1)
    id_bytes = _only(path, ("tiles", "notes")) / max(ids, 1)
    return Store(table.num_rows, tiles, ids, tile_bytes, id_bytes, _only(path, ()))


def _only(path: pathlib.Path, without: Sequence[str]) -> int:
    """Return the size of a store without some of its tables."""
    copy = path.with_suffix(".copy")
    shutil.copy(path, copy)
    store = sqlite3.connect(copy, isolation_level=None)
    for name in without:
        store.execute(f"DELETE FROM {name}")
    store.execute("VACUUM")
    store.close()
    size = copy.stat().st_size
    copy.unlink()
    return size


@dataclasses.dataclass(frozen=True)
class Tokens:
    """What distinct tokens take, in bytes for each.

    Attributes:
        held: By the accumulator in which they are counted.
        sent: By the accumulator on its way to another worker.
        peak: At most while it becomes a file, the accumulator included.
        file: In the file.
        table: In the memory of a process that looks tokens up.
    """

    held: float
    sent: float
    peak: float
    file: float
    table: float


def count_tokens(count: int, folder: pathlib.Path) -> Tokens:
    """Count distinct tokens of 12 bytes, make a vocabulary of them, and load it."""
    counts = TokenCounts()
    gc.collect()
    tracemalloc.start()
    accumulator = counts.create_accumulator()
    for start in range(0, count, _BATCH_TOKENS):
        numbers = range(start, min(start + _BATCH_TOKENS, count))
        tokens = np.array([b"%012d" % number for number in numbers], object)
        accumulator = counts.add_input(accumulator, [tokens, np.ones(len(tokens), np.int64)])
        del tokens
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    (vocabulary,) = counts.extract_output(accumulator)
    records = lines(order(vocabulary, of_text=True), store_frequency=False)
    path = write_vocabulary(str(folder / "tokens"), records, "text")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    sent = len(pickle.dumps(accumulator))
    del accumulator, vocabulary, records
    loaded = int(subprocess.check_output([sys.executable, "-c", _LOAD, path], stderr=DEVNULL))
    size = pathlib.Path(path).stat().st_size
    return Tokens(held / count, sent / count, peak / count, size / count, loaded / count)


def cut_bytes(batch: pa.RecordBatch, by: Sequence[str], partitions: int) -> float:
    """Return the bytes a row of a batch that is cut into the parts of its keys."""
    cut = sum(len(to_ipc(rows)) for _, rows in partition_batch(batch, by, partitions))
    return cut / batch.num_rows
