"""TFRecord files of tf.train.Example as batches of typed rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import pyarrow as pa

from skewless.schema import Schema
from skewless.transforms.parse import replay_json
from skewless.transforms.rows import Outcome, Rejected
from skewless.transforms.sources.files import FileSource, Piece
from skewless.transforms.sources.source import one_ahead
from skewless.transforms.sources.tfrecord_file import Records, open_records, read_records

__all__ = ["ReadTFRecord"]

_LOOK_BYTES = 1 << 16


@dataclasses.dataclass(eq=False)
class ReadTFRecord(FileSource):
    """Read TFRecord files of tf.train.Example, plain or gzipped.

    A feature of one value is a cell, one of none, or left out, is missing. Whole numbers are
    taken for numbers and times, texts for times in ISO 8601 where the schema says so. A
    record that is no Example, and a value that its type cannot hold, is a rejected row.
    The offset of a row is the byte of the (decompressed) file at which its record begins.

    Args:
        pattern: A path or glob, or several, on any Beam file system.
        schema: The raw columns: a Schema, or the path of a `schema.pbtxt`.
        columns: The columns to read; by default all of the schema.
        event_time: The timestamp column that says when a row happened.
        name: What the ledger calls this input; by default the stem of the first pattern.

    Returns:
        `Rows`: batches with origin columns, rejected rows, and how many were read.

    Raises:
        RecipeError: If an argument is wrong.
        DataError: If a file is missing, is no TFRecord file, or is damaged.
    """

    def file_format(self) -> TFRecordFormat:
        """Return how these files are read."""
        return TFRecordFormat()


@dataclasses.dataclass(frozen=True)
class TFRecordFormat:
    """How files of tf.train.Example are parsed."""

    def header(self, path: str) -> tuple[str, ...]:
        """Return no names: each record has its own. The first record is looked at."""
        with open_records(path) as file:
            next(read_records(file, path, most_rows=1, chunk_bytes=_LOOK_BYTES), None)
        return ()

    def pieces(self, path: str, size: int) -> Iterator[Piece]:  # noqa: ARG002
        """Yield the file: where a record begins is known only to who has read those before."""
        yield Piece(path, 0, None)

    def _records(self, piece: Piece) -> Iterator[Records]:
        """Yield some thousand records at once, the next being read while one is worked on."""
        with open_records(piece.path) as file:
            yield from one_ahead(read_records(file, piece.path))

    def read(self, piece: Piece, schema: Schema) -> Iterator[Outcome]:
        """Yield the rows of a piece, at most 32,768 at once: TensorFlow is fastest with these."""
        from skewless.transforms.sources.examples import ExampleParser  # loads TensorFlow

        yield from ExampleParser(schema, piece.path).parse(self._records(piece))

    def untyped(self, piece: Piece) -> Iterator[pa.RecordBatch]:
        """Yield the rows in the types of tf.train.Example, features of one value as cells."""
        from skewless.transforms.sources.examples import example_cells

        for _, records in self._records(piece):
            yield from example_cells(records)

    def replay(self, rejected: Sequence[Rejected], schema: Schema) -> Outcome:
        """Parse repaired payloads; the offset of a row is its position in `rejected`."""
        return replay_json(rejected, schema)
