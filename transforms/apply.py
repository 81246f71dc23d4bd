"""Apply a written transform graph to batches of raw rows, exactly as serving does."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
from collections.abc import Callable

import apache_beam as beam
import pyarrow as pa
import tensorflow as tf
from tfx_bsl.tfxio import tensor_to_arrow

from skewless.arrays import raw_arrays
from skewless.parity import PAD_TO, TransformGraph
from skewless.storage import RemotePath, local_copy, path_of
from skewless.transforms.rows import Outcome, Rejected, Rows, each_batch, reject_rows
from skewless.transforms.single_out import reason_of, single_out

__all__ = ["ApplyTransform", "apply_transform", "load_transform", "local_graph"]

Apply = Callable[[pa.RecordBatch], pa.RecordBatch]


@dataclasses.dataclass(eq=False)
class ApplyTransform(beam.PTransform):  # type: ignore[misc]
    """Turn batches of raw rows into batches of features (lists, as tf.Example has them).

    A row that the graph cannot take is rejected with the reason, not the batch.

    Args:
        transform_graph: A directory in tf.Transform's layout, as `Analyze` writes it, on
            any Beam file system.
    """

    transform_graph: str

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> Rows:
        """Wire the graph over every batch."""
        return each_batch(
            batches, functools.partial(_apply_batch, self.transform_graph), "ApplyTransform"
        )


def _apply_batch(transform_graph: str, batch: pa.RecordBatch) -> Outcome:
    kept, rejected = apply_transform(load_transform(transform_graph), batch)
    return Outcome(kept[1], rejected, {})


def apply_transform(
    apply: Apply, batch: pa.RecordBatch
) -> tuple[tuple[pa.RecordBatch, pa.RecordBatch], list[Rejected]]:
    """Apply a loaded graph to a batch, singling out the rows that it cannot take.

    Args:
        apply: What `load_transform` returned.
        batch: Raw rows.

    Returns:
        The raw rows that went through and their features, row by row in the same order,
        and the rows that did not, with the graph's own words as the reason.
    """
    done, failed = single_out(apply, batch, tf.errors.OpError)
    if not done:
        nothing = batch.slice(0, 0)
        done = [(nothing, apply(nothing))]
    rejected = []
    for row, error in failed:
        reason = f"the transform graph cannot take this row: {reason_of(error)}"
        rejected += reject_rows(row, "ApplyTransform", "", reason)
    if len(done) == 1:
        return done[0], rejected
    rows, features = zip(*done, strict=True)
    return (pa.concat_batches(rows), pa.concat_batches(features)), rejected


def load_transform(transform_graph: str, pad_to: int = PAD_TO) -> Apply:
    """Return the function from raw rows to features of a written graph, once a process.

    Loading costs about half a second and tracing as much again, so bundles share it.
    """
    local = local_graph(transform_graph)
    written = tf.io.gfile.stat(f"{local}/transform_fn/saved_model.pb").mtime_nsec
    return _load(local, pad_to, written)


def local_graph(transform_graph: str) -> str:
    """Return where a graph is on this machine: itself, or a copy that is made once a process."""
    path = path_of(transform_graph)
    if not isinstance(path, RemotePath):
        return transform_graph
    return _fetch(path, (path / "transform_fn" / "saved_model.pb").modified())


@functools.lru_cache(maxsize=4)
def _fetch(path: RemotePath, _: float) -> str:
    copies = contextlib.ExitStack()
    atexit.register(copies.close)
    return str(copies.enter_context(local_copy(path)))


@functools.lru_cache(maxsize=4)
def _load(transform_graph: str, pad_to: int, _: int) -> Apply:
    graph = TransformGraph(transform_graph, pad_to=pad_to)
    # Its branches and loops are over names; rewriting them for tensors takes seconds.
    signature = [graph.row_signature()]
    features = tf.function(graph.from_rows, input_signature=signature, autograph=False)
    specs = features.get_concrete_function().structured_outputs
    converter = tensor_to_arrow.TensorsToRecordBatchConverter(
        {name: tf.type_spec_from_value(value) for name, value in specs.items()}
    )

    def apply(batch: pa.RecordBatch) -> pa.RecordBatch:
        arrays = raw_arrays(batch, graph.raw_schema)
        return converter.convert(features({k: tf.constant(v) for k, v in arrays.items()}))

    return apply
