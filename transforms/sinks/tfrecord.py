"""Write batches of features as TFRecord shards that appear all at once."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from skewless.errors import RecipeError
from skewless.transforms.rows import data_columns
from skewless.transforms.sinks.files import named_errors
from skewless.transforms.sinks.tfrecord_file import TFRecordFile, TFRecordOptions

__all__ = ["Shard", "WriteTFRecord", "publish_shards"]

SHARD_BYTES = 64 << 20
_OPTIONS = TFRecordOptions()


class Shard(NamedTuple):
    """A written file: its path, how many rows it holds, and its size in bytes."""

    path: str
    rows: int
    bytes: int


@dataclasses.dataclass(eq=False)
class WriteTFRecord(beam.PTransform):  # type: ignore[misc]
    """Write batches of features as TFRecords of tf.train.Example, sharded by bytes.

    The shards are `<prefix>-00000-of-00003.tfrecord.gz` and so on. They are written under
    other names, in a directory that begins with a dot, and renamed when all are whole: a
    bundle that is done again leaves no second file. The batches must be bounded.

    Args:
        prefix: How the paths begin, on any Beam file system.
        options: How to compress.
        shard_bytes: A shard is closed when its file is found to have this many bytes, which
            is one batch later. A bundle writes shards of its own, so some are smaller.

    Returns:
        A PCollection of `Shard`, when the files have their names; none for no rows.

    Raises:
        RecipeError: If an argument is wrong, there are such files already, or a column
            cannot be a feature.
        RunError: If a file cannot be written, for example because the disk is full.

    >>> WriteTFRecord("features/train").options.suffix
    '.tfrecord.gz'
    """

    prefix: str
    _: dataclasses.KW_ONLY
    options: TFRecordOptions = _OPTIONS
    shard_bytes: int = SHARD_BYTES

    def __post_init__(self) -> None:
        super().__init__()
        if not self.prefix or self.prefix.endswith("/"):
            raise RecipeError(
                f'WriteTFRecord("{self.prefix}"): expected how the paths of files begin, '
                'such as "features/train"'
            )
        if self.shard_bytes < 1:
            raise RecipeError(
                f"WriteTFRecord(shard_bytes={self.shard_bytes}): expected a number of bytes, "
                f"such as {SHARD_BYTES}"
            )

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[Shard]:
        """Write each bundle's batches to its own shards, then name all of them."""
        _refuse_existing(self.prefix, self.options.suffix)
        directory, name = FileSystems.split(self.prefix)
        temporary = FileSystems.join(directory, f".{name}-{uuid.uuid4().hex}")
        return (
            batches
            | "InOneWindow" >> beam.WindowInto(beam.window.GlobalWindows())
            | "WriteShards" >> beam.ParDo(_WriteShards(temporary, self.options, self.shard_bytes))
            | "CollectShards"
            >> beam.CombineGlobally(beam.combiners.ToListCombineFn()).without_defaults()
            | "NameShards"
            >> beam.FlatMap(
                publish_shards,
                prefix=self.prefix,
                suffix=self.options.suffix,
                temporary=temporary,
            )
        )


def _refuse_existing(prefix: str, suffix: str) -> None:
    with named_errors(prefix):
        found = FileSystems.match([f"{prefix}-*-of-*{suffix}"])[0].metadata_list
    if found:
        raise RecipeError(
            f'WriteTFRecord("{prefix}"): there are such files already, {len(found)} of them, '
            f"such as {found[0].path}; delete them or write under another prefix"
        )


def publish_shards(
    shards: Sequence[Shard], *, prefix: str, suffix: str, temporary: str
) -> Iterator[Shard]:
    """Give whole shards their names and delete what else was begun; may be done again.

    Args:
        shards: All that are to be there, under temporary names.
        prefix: How the names begin.
        suffix: How they end.
        temporary: The directory where the shards are.

    Yields:
        The shards by their names.

    Raises:
        RunError: If a file cannot be renamed.
    """
    with named_errors(prefix):
        named = []
        for number, shard in enumerate(sorted(shards)):
            path = f"{prefix}-{number:05d}-of-{len(shards):05d}{suffix}"
            # It is there where this very step was stopped half way and is done again.
            if not FileSystems.exists(path):
                FileSystems.rename([shard.path], [path])
            named.append(shard._replace(path=path))
        begun = FileSystems.match([FileSystems.join(temporary, "*")])[0].metadata_list
        FileSystems.delete([file.path for file in begun])
        # Where directories are no more than parts of names, there is none left now.
        if FileSystems.exists(temporary):
            FileSystems.delete([temporary])
    yield from named


class _OpenShard:
    """A shard while it is written."""

    def __init__(self, path: str, options: TFRecordOptions) -> None:
        self._path = path
        self._rows = 0
        # What the file's name says is done here, not by Beam.
        self._file = FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED)
        self._records = TFRecordFile(self._file, options)

    @property
    def bytes(self) -> int:
        return self._records.bytes

    def write(self, batch: pa.RecordBatch) -> None:
        self._records.write(batch)
        self._rows += batch.num_rows

    def close(self) -> Shard:
        self._records.close()
        self._file.close()
        return Shard(self._path, self._rows, self._records.bytes)


@beam.typehints.with_input_types(pa.RecordBatch)
@beam.typehints.with_output_types(Shard)
class _WriteShards(beam.DoFn):  # type: ignore[misc]
    def __init__(self, directory: str, options: TFRecordOptions, shard_bytes: int) -> None:
        self._directory = directory
        self._options = options
        self._shard_bytes = shard_bytes

    def start_bundle(self) -> None:
        self._shard: _OpenShard | None = None

    def process(self, batch: pa.RecordBatch) -> Iterator[Shard]:
        with named_errors(self._directory):
            if self._shard is None:
                name = f"{uuid.uuid4().hex}{self._options.suffix}"
                path = FileSystems.join(self._directory, name)
                self._shard = _OpenShard(path, self._options)
            # Where a row came from is no feature.
            self._shard.write(batch.select(data_columns(batch)))
            if self._shard.bytes >= self._shard_bytes:
                shard, self._shard = self._shard, None
                yield shard.close()

    def finish_bundle(self) -> Iterator[Any]:
        if self._shard is not None:
            with named_errors(self._directory):
                yield beam.transforms.window.GlobalWindows.windowed_value(self._shard.close())
