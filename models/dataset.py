"""Transformed tf.Examples as batches for a network."""

from __future__ import annotations

import dataclasses
import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from skewless.errors import DataError
from skewless.models.inputs import STANDARD, Inputs, Scale, parse_failure

__all__ = ["IN_MEMORY_BYTES", "Examples", "examples_dataset"]

# Examples are kept in memory up to this many bytes of compressed files: packed, they take
# two to three times that, and twice as much while they are read.
IN_MEMORY_BYTES = 256 * 2**20
_PARSED_AT_ONCE = 8192
_SHUFFLED_AT_ONCE = 100_000
_FILES_AT_ONCE = 4
_FRAME_BYTES = 16
_PREFETCHED = 2

Arrays = dict[str, npt.NDArray[Any]]
Tensors = tuple[dict[str, tf.Tensor], tf.Tensor]
Function = TypeVar("Function", bound=Callable[..., Any])


def examples_dataset(
    files: Sequence[str], inputs: Inputs, *, batch_size: int, shuffle_seed: int | None = None
) -> tf.data.Dataset:
    """Read TFRecord files of transformed tf.Examples as (packed features, label).

    Examples are batched first and parsed a batch at a time, which is about ten times
    faster than one by one.

    Args:
        files: TFRecord files; those whose name ends in .gz are decompressed.
        inputs: What to read, and how to pack it.
        batch_size: Rows of each element; the last one may have fewer.
        shuffle_seed: None reads in order. A number mixes the files and shuffles rows
            within 100,000, always the same way for the same files and number.

    Returns:
        A dataset of (`Inputs.pack`, `Inputs.pack_label`).
    """
    serialized = _serialized(files, shuffle_seed).batch(batch_size)
    batches = serialized.map(_parser(inputs), tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(tf.data.AUTOTUNE)


def _parser(inputs: Inputs) -> Callable[[tf.Tensor], Tensors]:
    @_as_written
    def parse(serialized: tf.Tensor) -> Tensors:
        features = tf.io.parse_example(serialized, inputs.feature_spec)
        return inputs.pack(features), inputs.pack_label(features)

    return parse


def _as_written(function: Function) -> Function:
    """Keep autograph off: its rewriting takes longer than reading 100,000 rows."""
    kept: Function = tf.autograph.experimental.do_not_convert(function)
    return kept


def _serialized(files: Sequence[str], shuffle_seed: int | None) -> tf.data.Dataset:
    names = tf.data.Dataset.from_tensor_slices(list(files))
    if shuffle_seed is None:
        return names.flat_map(_records)
    return (
        names.shuffle(len(files), seed=shuffle_seed)
        .interleave(
            _records,
            cycle_length=_FILES_AT_ONCE,
            block_length=16,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        .shuffle(_SHUFFLED_AT_ONCE, seed=shuffle_seed)
    )


@_as_written
def _records(name: tf.Tensor) -> tf.data.Dataset:
    gzipped = tf.strings.regex_full_match(name, r".*\.gz")
    return tf.data.TFRecordDataset(name, tf.where(gzipped, "GZIP", ""))


class Examples:
    """The examples of a split, to be gone through once per epoch.

    Small splits are kept in memory, and put in an order of their own first, so that
    training does not depend on how the rows lay in the files.

    Args:
        files: TFRecord files of transformed tf.Examples.
        inputs: What to read of them.
        in_memory_bytes: Larger files are read anew for every epoch.

    Attributes:
        count: How many rows there are.
        label_counts: Rows of each class, or an empty mapping where the label is a number.
        label_scale: Where the labels lie if they are numbers, whatever their order.

    Raises:
        DataError: If a file is missing, damaged or cut off.
    """

    def __init__(
        self, files: Sequence[str], inputs: Inputs, in_memory_bytes: int = IN_MEMORY_BYTES
    ) -> None:
        self._files = tuple(files)
        self._inputs = inputs
        size = sum(_file_size(name) for name in self._files)
        in_memory = self._files and size <= in_memory_bytes
        self._tensors = _as_tensors(self._read_table()) if in_memory else None
        labels = self._labels()
        self.count = len(labels)
        self.label_counts = _counts(labels) if inputs.is_class else {}
        self.label_scale = STANDARD if inputs.is_class else _scale(labels)

    def batches(self, batch_size: int) -> tf.data.Dataset:
        """Return all rows in a fixed order, as (packed features, label)."""
        if self._tensors is None:
            rows = examples_dataset(self._files, self._inputs, batch_size=batch_size)
            return _of_length(rows, self.count, batch_size)
        return _slices(self._tensors, np.arange(self.count), batch_size)

    def shuffled(self, batch_size: int, *, seed: int, epoch: int) -> tf.data.Dataset:
        """Return all rows in an order that follows from `seed` and `epoch` alone."""
        random = np.random.default_rng([seed, epoch])
        if self._tensors is None:
            shuffle_seed = int(random.integers(2**31))
            rows = examples_dataset(
                self._files, self._inputs, batch_size=batch_size, shuffle_seed=shuffle_seed
            )
            return _of_length(rows, self.count, batch_size)
        return _slices(self._tensors, random.permutation(self.count), batch_size)

    def _read_table(self) -> _Table:
        parts = []
        for features, label in _read_whole(self._files, self._inputs):
            arrays = {name: value.numpy() for name, value in features.items()}
            parts.append(_Table(arrays, label.numpy()))
        return _in_own_order(_concatenated(parts)) if parts else _Table({}, np.empty(0))

    def _labels(self) -> npt.NDArray[Any]:
        if self._tensors is not None:
            return np.asarray(self._tensors[1])
        spec = {self._inputs.label: self._inputs.feature_spec[self._inputs.label]}
        only_label = dataclasses.replace(self._inputs, columns=(), feature_spec=spec)
        labels = [label.numpy() for _, label in _read_whole(self._files, only_label)]
        return np.concatenate(labels) if labels else np.empty(0)


def _counts(labels: npt.NDArray[Any]) -> dict[int, int]:
    values, counts = np.unique(labels, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _scale(labels: npt.NDArray[Any]) -> Scale:
    if not len(labels):
        return STANDARD
    # Sorted, as the last bits of a sum depend on the order of its terms.
    values = np.sort(labels).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return Scale(float(values.mean()), float(values.std()) or 1.0)


@dataclasses.dataclass
class _Table:
    """Packed rows in memory."""

    features: Arrays
    label: npt.NDArray[Any]


def _concatenated(parts: Sequence[_Table]) -> _Table:
    features = {}
    for name in parts[0].features:
        arrays = [part.features[name] for part in parts]
        width = max(array.shape[1] for array in arrays)
        padded = [np.pad(array, ((0, 0), (0, width - array.shape[1]))) for array in arrays]
        features[name] = np.concatenate(padded)
    return _Table(features, np.concatenate([part.label for part in parts]))


def _in_own_order(table: _Table) -> _Table:
    """Sort rows by their bytes: an order that does not depend on where they lay."""
    columns = [*table.features.values(), table.label[:, np.newaxis]]
    rows = np.concatenate([_as_bytes(column) for column in columns], axis=1)
    order = np.argsort(rows.view(np.dtype((np.void, rows.shape[1]))).ravel(), kind="stable")
    return _taken(table, order)


def _as_bytes(column: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    width = column.shape[1] * column.itemsize
    return np.frombuffer(np.ascontiguousarray(column).tobytes(), np.uint8).reshape(-1, width)


def _taken(table: _Table, at: npt.NDArray[Any]) -> _Table:
    return _Table({name: array[at] for name, array in table.features.items()}, table.label[at])


def _as_tensors(table: _Table) -> Tensors:
    features = {name: tf.constant(array) for name, array in table.features.items()}
    return features, tf.constant(table.label)


def _slices(tensors: Tensors, order: npt.NDArray[np.int64], batch_size: int) -> tf.data.Dataset:
    """Return the rows of packed tensors in `order`, a batch at a time."""
    rows = tf.constant(order)

    @_as_written
    def batch(index: tf.Tensor) -> Tensors:
        chosen = rows[index * batch_size : (index + 1) * batch_size]
        features, label = tensors
        taken = {name: tf.gather(tensor, chosen) for name, tensor in features.items()}
        return taken, tf.gather(label, chosen)

    batches = tf.data.Dataset.range(-(-len(order) // batch_size))
    return batches.map(batch).prefetch(_PREFETCHED)


def _of_length(batches: tf.data.Dataset, rows: int, batch_size: int) -> tf.data.Dataset:
    return batches.apply(tf.data.experimental.assert_cardinality(-(-rows // batch_size)))


def _file_size(name: str) -> int:
    try:
        return int(tf.io.gfile.stat(name).length)
    except tf.errors.NotFoundError:
        raise DataError(
            f"examples: there is no file {name}; run the transform stage again"
        ) from None


def _read_whole(files: Sequence[str], inputs: Inputs) -> Iterator[Any]:
    """Iterate over (packed features, label), and check that no file is cut off.

    TensorFlow takes a compressed stream that ends too early for one that ends.
    """
    if not files:
        return
    parse = _parser(inputs)

    @_as_written
    def of_file(index: tf.Tensor, name: tf.Tensor) -> tf.data.Dataset:
        batches = _records(name).batch(_PARSED_AT_ONCE)
        return tf.data.Dataset.zip(tf.data.Dataset.from_tensors(index).repeat(), batches)

    @_as_written
    def measured(index: tf.Tensor, serialized: tf.Tensor) -> tuple[Any, ...]:
        lengths = tf.cast(tf.strings.length(serialized), tf.int64)
        return index, tf.reduce_sum(lengths + _FRAME_BYTES), parse(serialized)

    names = tf.data.Dataset.from_tensor_slices(list(files)).enumerate()
    batches = names.flat_map(of_file).map(measured, tf.data.AUTOTUNE, deterministic=True)
    sizes = [0] * len(files)
    for index, size, rows in _readable(batches.prefetch(tf.data.AUTOTUNE), files):
        sizes[int(index)] += int(size)
        yield rows
    for name, size in zip(files, sizes, strict=True):
        if name.endswith(".gz") and not _holds(name, size):
            raise DataError(
                f"examples: {name} cannot be read to its end: it was cut off after {size} bytes "
                "of records; run the transform stage again"
            )


def _holds(name: str, size: int) -> bool:
    """Return whether a gzip file is complete and holds `size` bytes."""
    with tf.io.gfile.GFile(name, "rb") as file:
        if not (length := file.size()):
            return False
        if size:
            file.seek(max(length - 4, 0))
            if int.from_bytes(file.read(4), "little") == size % 2**32:
                return True
            file.seek(0)
        # Without records the last bytes prove little, and of several streams in one file
        # they tell the size of the last only.
        try:
            return size == _decompressed_size(file)
        except (EOFError, OSError, zlib.error):
            return False


def _decompressed_size(file: Any) -> int:
    with gzip.GzipFile(fileobj=file) as stream:
        return sum(map(len, iter(lambda: stream.read(2**20), b"")))


def _readable(dataset: tf.data.Dataset, files: Sequence[str]) -> Iterator[Any]:
    """Iterate over `dataset`, naming the files where one is damaged or does not fit."""
    try:
        yield from dataset
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        where = files[0] if len(files) == 1 else f"one of the {len(files)} files {files[0]} ..."
        raise DataError(
            f"examples: {where} cannot be read with this graph ({parse_failure(error)}); "
            "run the transform stage again"
        ) from None
