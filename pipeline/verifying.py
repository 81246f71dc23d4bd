"""The proof of parity: every feature of every row, bit by bit, as written and as served."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
import tensorflow_transform as tft

from skewless import progress
from skewless.arrays import argument_names, raw_arrays
from skewless.errors import RunError
from skewless.models.predict import read_input_schema
from skewless.pipeline.artifacts import SPLITS, RunPaths
from skewless.pipeline.json_rows import json_rows
from skewless.pipeline.verifying_elsewhere import elsewhere
from skewless.schema import Schema
from skewless.storage import AnyPath, local_copy
from skewless.transforms.parse import parse_json_rows
from skewless.transforms.rows import FILE, OFFSET

__all__ = [
    "BATCH_SIZES",
    "Arrays",
    "Comparison",
    "Difference",
    "WrittenPart",
    "compare",
    "verify_elsewhere",
    "verify_features",
    "written_parts",
    "written_spec",
]

BATCH_SIZES: tuple[int | None, ...] = (1, 7, 1024, None)
_SHOWN = 10
_CHUNK_CALLS = 256

Arrays = Mapping[str, npt.NDArray[Any]]
Transform = Callable[[Mapping[str, tf.Tensor]], Mapping[str, tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class Difference:
    """One feature of one row that is not the same: where it came from and both values."""

    file: str
    offset: int
    feature: str
    written: str
    served: str


@dataclasses.dataclass
class Comparison:
    """What came of comparing the written features with one way of serving them.

    Attributes:
        path: Which way, e.g. `SavedModel, batches of 7`.
        rows: How many rows were compared.
        features: How many features each.
        differing: How many values (a feature of a row) differ in at least one bit.
        bits: How many bits differ in all.
        first: The first differences.
    """

    path: str
    rows: int = 0
    features: int = 0
    differing: int = 0
    bits: int = 0
    first: list[Difference] = dataclasses.field(default_factory=list)


def verify_features(
    paths: RunPaths,
    label: str,
    batch_sizes: Sequence[int | None] = BATCH_SIZES,
    limit: int | None = None,
) -> list[Comparison]:
    """Compare the features in a run's TFRecords with the SavedModel's `transform`.

    Args:
        paths: A run with an exported model.
        label: The label's name; it is written, but not served.
        batch_sizes: Rows in one call; None is a whole part at once.
        limit: Compare no more than this many rows of each part.

    Returns:
        One comparison for each batch size, and one of the rows as a client sends them:
        written as JSON, and parsed as `skewless predict` does.

    Raises:
        RunError: If rows and examples do not have the same parts and numbers of rows.
    """
    with local_copy(paths.newest_model()) as model:
        schema = read_input_schema(str(model))
        transform = _load_transform(str(model), schema)
    spec = written_spec(paths, label)
    found = [Comparison(_way(size), features=len(spec)) for size in batch_sizes]
    as_json = Comparison("SavedModel, rows as JSON", features=len(spec))
    for part in written_parts(paths, spec, limit):
        raw, rows = raw_arrays(part.batch, schema), part.batch.num_rows
        for size, comparison in zip(batch_sizes, found, strict=True):
            compare(comparison, part, _call_in_batches(transform, raw, rows, size))
        raw = raw_arrays(_through_json(part.batch, schema), schema)
        compare(as_json, part, _call_in_batches(transform, raw, rows, None))
    return [*found, as_json]


def verify_elsewhere(paths: RunPaths, label: str, limit: int | None = None) -> Comparison:
    """Compare the features with those of a process that computes as on an older CPU.

    See `verifying_elsewhere` for what it changes, and what not.

    Args:
        paths: A run with an exported model.
        label: The label's name.
        limit: Compare no more than this many rows of each part.

    Raises:
        RunError: If the process fails, or the run's parts do not fit each other.
    """
    spec = written_spec(paths, label)
    comparison = Comparison("SavedModel, oneDNN off", features=len(spec))
    with local_copy(paths.newest_model()) as model, elsewhere(str(model)) as process:
        schema = read_input_schema(str(model))
        arguments = argument_names(schema)
        for part in written_parts(paths, spec, limit):
            raw = raw_arrays(part.batch, schema)
            served = process.transform({arguments[name]: raw[name] for name in raw})
            compare(comparison, part, served)
            progress.add("rows_compared", part.batch.num_rows)
    return comparison


class WrittenPart(NamedTuple):
    """A part of a run's rows, and what was written of them.

    Attributes:
        batch: The rows.
        names: The names of the features, sorted.
        features: The features, as the `transform` signature names them.
    """

    batch: pa.RecordBatch
    names: tuple[str, ...]
    features: Arrays


def written_spec(paths: RunPaths, label: str) -> dict[str, Any]:
    """Return the spec of the written features, without the label."""
    with local_copy(paths.transform_graph) as graph:
        spec: dict[str, Any] = tft.TFTransformOutput(str(graph)).transformed_feature_spec()
    spec.pop(label, None)
    return spec


def written_parts(
    paths: RunPaths, spec: Mapping[str, Any], limit: int | None = None
) -> Iterator[WrittenPart]:
    """Yield the parts of a run, split by split.

    Args:
        paths: The run.
        spec: The features wanted, see `written_spec`.
        limit: No more than this many rows of each part.

    Raises:
        RunError: If rows and examples do not have the same parts and numbers of rows.
    """
    for split in SPLITS:
        parts = _same_parts(paths.row_parts(split), paths.example_parts(split))
        for rows_part, examples_part in parts:
            batch = _read_part(rows_part, limit)
            features = _read_examples(examples_part, spec, batch.num_rows)
            yield WrittenPart(batch, tuple(sorted(spec)), features)


def _way(size: int | None) -> str:
    return "SavedModel, all at once" if size is None else f"SavedModel, batches of {size:,}"


def _load_transform(model: str, schema: Schema) -> Transform:
    loaded = tf.saved_model.load(model)
    arguments = argument_names(schema)

    def transform(raw: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        # Through `loaded`, which must live as long as its signatures.
        named = {arguments[name]: value for name, value in raw.items()}
        features: Mapping[str, tf.Tensor] = loaded.signatures["transform"](**named)
        return features

    return transform


def _through_json(batch: pa.RecordBatch, schema: Schema) -> pa.RecordBatch:
    """Return the rows after a journey through JSON."""
    kept, rejected, _ = parse_json_rows(json_rows(batch, schema), schema)
    if rejected:
        raise RunError(
            f'row at {rejected[0].offset} cannot be written as JSON: column "{rejected[0].column}"'
            f" is {rejected[0].value}: {rejected[0].reason}"
        )
    return kept


def _same_parts(rows: list[AnyPath], examples: list[AnyPath]) -> list[tuple[AnyPath, AnyPath]]:
    if [p.name.split(".")[0] for p in rows] != [p.name.split(".")[0] for p in examples]:
        raise RunError(
            f"{len(rows)} parts of rows but {len(examples)} parts of examples; "
            "run `skewless transform` again"
        )
    return list(zip(rows, examples, strict=True))


def _read_part(part: AnyPath, limit: int | None) -> pa.RecordBatch:
    with part.open("rb") as file:
        table = pq.read_table(file)
    batches = table.slice(0, limit).combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


def _read_examples(part: AnyPath, spec: Mapping[str, Any], rows: int) -> Arrays:
    """Return the written features as arrays, named as the `transform` signature names them."""
    with local_copy(part) as file:
        records = tf.data.TFRecordDataset(str(file), compression_type="GZIP")
        serialized = list(records.take(rows).as_numpy_iterator())
    if len(serialized) != rows:
        raise RunError(
            f"{part} holds {len(serialized):,} examples, but its part of rows {rows:,}; "
            "the file is damaged: run `skewless transform` again"
        )
    parsed = tf.io.parse_example(tf.constant(serialized, tf.string), dict(spec))
    arrays = {}
    for name, value in parsed.items():
        if isinstance(value, tf.SparseTensor):
            lengths = tf.math.bincount(
                tf.cast(value.indices[:, 0], tf.int32), minlength=len(serialized)
            )
            arrays[f"{name}/values"] = value.values.numpy()
            arrays[f"{name}/row_lengths"] = lengths.numpy()
        else:
            arrays[name] = value.numpy()
    return arrays


def _call_in_batches(transform: Transform, raw: Arrays, rows: int, size: int | None) -> Arrays:
    """Call the signature on consecutive batches and put the results together."""
    step = size or max(rows, 1)
    starts = list(range(0, rows, step))
    chunks = [starts[i : i + _CHUNK_CALLS] for i in range(0, len(starts), _CHUNK_CALLS)]
    call = functools.partial(_call_chunk, transform, raw, step)
    # TensorFlow lets go of the interpreter while it computes, so threads help a little.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(call, chunks))
    return {name: np.concatenate([r[name] for r in results]) for name in (results or [{}])[0]}


def _call_chunk(transform: Transform, raw: Arrays, step: int, starts: list[int]) -> Arrays:
    first, last = starts[0], starts[-1] + step
    chunk = {name: values[first:last] for name, values in raw.items()}
    rows = len(next(iter(chunk.values())))
    sizes = [min(step, rows - at) for at in range(0, rows, step)]
    # Split in TensorFlow: making a tensor of each single value costs more than the graph.
    pieces = {name: tf.split(tf.constant(values), sizes) for name, values in chunk.items()}
    results = [
        transform({name: piece[i] for name, piece in pieces.items()}) for i in range(len(sizes))
    ]
    progress.add("rows_compared", rows)
    return {name: tf.concat([r[name] for r in results], 0).numpy() for name in results[0]}


def compare(comparison: Comparison, part: WrittenPart, served: Arrays) -> None:
    """Compare a part's features with served ones, bit by bit.

    Args:
        comparison: What is added to.
        part: The part.
        served: Arrays by the names of the part's features.
    """
    batch, written = part.batch, part.features
    comparison.rows += batch.num_rows
    for name in part.names:
        if name in written:
            bits = _dense_bits(written[name], served[name])
        else:
            bits = _ragged_bits(name, written, served, batch.num_rows)
        at = np.flatnonzero(bits)
        comparison.differing += len(at)
        comparison.bits += int(bits.sum())
        for row in at[: _SHOWN - len(comparison.first)]:
            comparison.first.append(
                Difference(
                    batch.column(FILE)[int(row)].as_py(),
                    batch.column(OFFSET)[int(row)].as_py(),
                    name,
                    _show(name, written, int(row)),
                    _show(name, served, int(row)),
                )
            )


def _dense_bits(written: npt.NDArray[Any], served: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return how many bits differ in each row."""
    if written.dtype == object:
        unequal = (written != served).reshape(len(written), -1)
        return np.asarray(unequal.sum(axis=1), np.int64)
    if written.dtype != served.dtype or written.shape != served.shape:
        # Another shape or type is another value, whatever it holds.
        return np.full(len(written), 8 * max(written.itemsize, 1), np.int64)
    one = np.ascontiguousarray(written).reshape(len(written), -1).view(np.uint8)
    two = np.ascontiguousarray(served).reshape(len(served), -1).view(np.uint8)
    return np.asarray(np.bitwise_count(one ^ two).sum(axis=1), np.int64)


def _ragged_bits(name: str, written: Arrays, served: Arrays, rows: int) -> npt.NDArray[np.int64]:
    values, lengths = f"{name}/values", f"{name}/row_lengths"
    if np.array_equal(written[lengths], served[lengths]):
        bits = _dense_bits(written[values].reshape(-1, 1), served[values].reshape(-1, 1))
        row_of = np.repeat(np.arange(rows), written[lengths])
        return np.bincount(row_of, weights=bits, minlength=rows).astype(np.int64)
    shown = [(_show(name, written, r), _show(name, served, r)) for r in range(rows)]
    return np.array([int(one != two) for one, two in shown], np.int64)


def _show(name: str, arrays: Arrays, row: int) -> str:
    if name in arrays:
        value = arrays[name][row]
        return value.hex() if isinstance(value, float) else repr(value.tolist())
    ends = np.cumsum(arrays[f"{name}/row_lengths"])
    start = int(ends[row - 1]) if row else 0
    return repr(arrays[f"{name}/values"][start : int(ends[row])].tolist())
