"""Write features as gzipped TFRecord parts of tf.Example, one for each part of rows."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from skewless import progress
from skewless.parity import read_raw_schema
from skewless.schema import column_names
from skewless.storage import local_copy, path_of
from skewless.transforms.apply import Apply, apply_transform, load_transform, local_graph
from skewless.transforms.rows import Rejected
from skewless.transforms.sinks.files import whole_file
from skewless.transforms.sinks.rejected import rejected_to_json
from skewless.transforms.sinks.tfrecord_file import TFRecordFile, TFRecordOptions

__all__ = ["WriteExamples", "write_examples"]

_OPTIONS = TFRecordOptions()


@dataclasses.dataclass(eq=False)
class WriteExamples(beam.PTransform):  # type: ignore[misc]
    """Turn each Parquet part of rows into a TFRecord part of features, in the same order.

    A row that the graph cannot take is rejected, and its part of rows is written anew
    without it, so that the two stay row by row the same. A part that is there already is
    left as it is: that is how a killed run goes on. A part of rows is in memory at once,
    or as much of it as the graph needs.

    Args:
        transform_graph: A directory in tf.Transform's layout, on any Beam file system.
        directory: Where `<split>/part-*.tfrecord.gz` go.
        rejected: Where `<split>-part-*.jsonl` go.
        batch_rows: Rows in one call of the graph.

    Returns:
        A PCollection of the paths written.
    """

    transform_graph: str
    directory: str
    rejected: str
    batch_rows: int = 32_768

    def expand(self, parts: beam.PCollection[str]) -> beam.PCollection[str]:
        """Transform every part on its own."""
        return parts | "TransformPart" >> beam.Map(
            write_examples,
            transform_graph=self.transform_graph,
            directory=self.directory,
            rejected=self.rejected,
            batch_rows=self.batch_rows,
        )


def write_examples(
    part: str, *, transform_graph: str, directory: str, rejected: str, batch_rows: int
) -> str:
    """Write the features of one part of rows; see `WriteExamples`.

    Returns:
        The path of the part of features.

    Raises:
        RunError: If the disk is full.
    """
    source = path_of(part)
    split = source.parent.name
    target = path_of(directory) / split / f"{source.stem}{_OPTIONS.suffix}"
    if target.exists():
        return str(target)
    apply = load_transform(transform_graph)
    columns = column_names(read_raw_schema(local_graph(transform_graph)))
    with whole_file(target) as path, local_copy(source) as rows_file:
        try:
            rows = _write(path, map(apply, _batches(rows_file, batch_rows, columns)))
        except tf.errors.OpError:
            # Rare, and then every column is needed: the part is gone through once more.
            rows, kept, bad = _write_accepted(path, apply, _batches(rows_file, batch_rows))
            if bad:
                # In this order a kill at any point loses no row: the rejected ones are on
                # disk before they leave the rows, and the part counts as done only after.
                with whole_file(path_of(rejected) / f"{split}-{source.stem}.jsonl") as lines:
                    lines.write_text("".join(f"{rejected_to_json(row)}\n" for row in bad))
                with whole_file(source) as remaining:
                    pq.write_table(pa.Table.from_batches(kept), remaining, compression="zstd")
    progress.add("rows_transformed", rows)
    return str(target)


def _batches(
    source: pathlib.Path, batch_rows: int, columns: list[str] | None = None
) -> list[pa.RecordBatch]:
    """Return the rows of a part in even batches, as its row groups may be of any size."""
    with pq.ParquetFile(source) as file:
        table = file.read(columns=columns)
    return list(table.combine_chunks().to_batches(max_chunksize=batch_rows))


def _write(target: pathlib.Path, batches: Iterable[pa.RecordBatch]) -> int:
    """Write batches of features to `target`; return how many rows there were."""
    rows = 0
    with target.open("wb") as file, TFRecordFile(file, _OPTIONS) as records:
        for features in batches:
            records.write(features)
            rows += features.num_rows
    return rows


def _write_accepted(
    target: pathlib.Path, apply: Apply, batches: Iterable[pa.RecordBatch]
) -> tuple[int, list[pa.RecordBatch], list[Rejected]]:
    """Write the features of the rows that the graph takes; return those and the others."""
    kept: list[pa.RecordBatch] = []
    rejected: list[Rejected] = []

    def accepted() -> Iterator[pa.RecordBatch]:
        for batch in batches:
            (taken, features), bad = apply_transform(apply, batch)
            kept.append(taken)
            rejected.extend(bad)
            yield features

    return _write(target, accepted()), kept, rejected
