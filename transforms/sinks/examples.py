"""Write features as gzipped TFRecord parts of tf.Example, one for each part of rows."""

from __future__ import annotations

import dataclasses
import errno
import pathlib

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from tfx_bsl.coders import example_coder

from skewless import progress
from skewless.transforms.apply import apply_transform, load_transform
from skewless.transforms.rows import Rejected
from skewless.transforms.sinks.files import whole_file, write_error
from skewless.transforms.sinks.rejected import rejected_to_json

__all__ = ["WriteExamples", "write_examples"]


@dataclasses.dataclass(eq=False)
class WriteExamples(beam.PTransform):  # type: ignore[misc]
    """Turn each Parquet part of rows into a TFRecord part of features, in the same order.

    A row that the graph cannot take is rejected, and its part of rows is written anew
    without it, so that the two stay row by row the same. A part that is there already is
    left as it is: that is how a killed run goes on.

    Args:
        transform_graph: A directory in tf.Transform's layout.
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
    source = pathlib.Path(part)
    split = source.parent.name
    target = pathlib.Path(directory) / split / f"{source.stem}.tfrecord.gz"
    if target.exists():
        return str(target)
    with whole_file(target) as path:
        try:
            kept, bad = _write(source, path, transform_graph, batch_rows)
        except (tf.errors.ResourceExhaustedError, tf.errors.UnknownError) as error:
            raise write_error(target, OSError(errno.ENOSPC, str(error.message))) from error
        if bad:
            # In this order a kill at any point loses no row: the rejected ones are on
            # disk before they leave the rows, and the part counts as done only after.
            with whole_file(pathlib.Path(rejected) / f"{split}-{source.stem}.jsonl") as lines:
                lines.write_text("".join(f"{rejected_to_json(row)}\n" for row in bad))
            with whole_file(source) as rows:
                pq.write_table(pa.Table.from_batches(kept), rows, compression="zstd")
    return str(target)


def _write(
    source: pathlib.Path, target: pathlib.Path, transform_graph: str, batch_rows: int
) -> tuple[list[pa.RecordBatch], list[Rejected]]:
    """Write features to `target`; return the rows written, where any was rejected."""
    apply = load_transform(transform_graph)
    encoder = example_coder.RecordBatchToExamplesEncoder()
    options = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=6)
    kept: list[pa.RecordBatch] = []
    rejected: list[Rejected] = []
    with (
        tf.io.TFRecordWriter(str(target), options) as writer,
        pq.ParquetFile(source) as rows,
    ):
        for batch in rows.iter_batches(batch_size=batch_rows):
            (taken, features), bad = apply_transform(apply, batch)
            for example in encoder.encode(features):
                writer.write(example)
            kept.append(taken)
            rejected.extend(bad)
            progress.add("rows_transformed", taken.num_rows)
    return (kept if rejected else []), rejected
