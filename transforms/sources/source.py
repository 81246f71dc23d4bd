"""What all sources have in common: a schema; and batch ones: pieces, and the ledger."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems

from skewless import progress
from skewless.errors import DataError, RecipeError, no_such_column
from skewless.schema import Schema, arrow_schema, column_names, drop_columns, parse_schema
from skewless.transforms.outcomes import restore_origin
from skewless.transforms.rows import Count, Outcome, Rejected, Rows

__all__ = [
    "BatchSource",
    "Reader",
    "Source",
    "Typed",
    "TypedReader",
    "one_ahead",
    "require_columns",
]

_MAX_ROWS = 65_536

_T = TypeVar("_T")


class Reader(Protocol):
    """How the pieces of a source are read. Picklable; opens and connects only when called.

    A piece is a tuple whose first item is a text: where its rows are.
    """

    def read(self, piece: Any, schema: Schema) -> Iterator[Outcome]:
        """Yield the rows of a piece, typed by `schema`, block by block."""

    def untyped(self, piece: Any) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a piece in types of their own, for schema inference.

        A string column holds cells as the format writes them, whose type is to be found
        out; every other type, binary too, is what the column is.
        """

    def replay(self, rejected: Sequence[Rejected], schema: Schema) -> Outcome:
        """Parse repaired payloads; the offset of a row is its position in `rejected`."""


class Typed(NamedTuple):
    """Rows in types of their own, and the offset of each, shape [rows]."""

    batch: pa.RecordBatch
    offsets: npt.NDArray[np.int64]


@runtime_checkable
class TypedReader(Reader, Protocol):
    """How the pieces of a source are read whose columns have types of their own."""

    def typed(self, piece: Any, columns: Sequence[str]) -> Iterator[Typed]:
        """Yield the named columns of a piece, block by block."""


@dataclasses.dataclass(eq=False)
class Source(beam.PTransform):  # type: ignore[misc]
    """Where rows come from.

    Args:
        schema: The raw columns: a Schema, or the path of a `schema.pbtxt`.
        columns: The columns to read; by default all of the schema.
        event_time: The timestamp column that says when a row happened.
        name: What the ledger calls this input.

    Raises:
        RecipeError: If there is no schema, or a column that does not exist.
    """

    _: dataclasses.KW_ONLY
    schema: Schema | str | os.PathLike[str] | None = None
    columns: Sequence[str] | None = None
    event_time: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        super().__init__()
        if self.columns is not None:
            if isinstance(self.columns, str):
                raise RecipeError(
                    f'{type(self).__name__}(columns="{self.columns}"): expected a list of '
                    f'names; write columns=["{self.columns}"]'
                )
            self.columns = tuple(self.columns)

    @property
    def input_name(self) -> str:
        """The input's name in the ledger."""
        raise NotImplementedError

    @property
    def where(self) -> str:
        """The source as a person wrote it, for messages: `ReadCsv("flights.csv")`."""
        raise NotImplementedError

    def raw_schema(self) -> Schema:
        """Return the schema of the columns to read, in the schema's order.

        Raises:
            RecipeError: If there is none, or it lacks one of the columns asked for.
        """
        schema = self.schema
        if schema is None:
            raise RecipeError(
                f"{self.where}: has no schema; give schema=, or infer it with infer_schema(source)"
            )
        if isinstance(schema, (str, os.PathLike)):
            schema = _read_schema(os.fspath(schema))
        names = column_names(schema)
        if self.columns is not None:
            require_columns(self.columns, names, f"{self.where} columns=")
            schema = drop_columns(schema, set(names) - set(self.columns))
        types = arrow_schema(schema)
        if self.event_time is not None:
            require_columns([self.event_time], types.names, f"{self.where} event_time=")
            if not pa.types.is_timestamp(types.field(self.event_time).type):
                raise RecipeError(
                    f'{self.where} event_time="{self.event_time}": the column has type '
                    f"{types.field(self.event_time).type}; expected a timestamp"
                )
        return schema


@dataclasses.dataclass(eq=False)
class BatchSource(Source):
    """A source whose rows are planned as pieces, spread over the workers, and read there.

    Args:
        schema: The raw columns: a Schema, or the path of a `schema.pbtxt`.
        columns: The columns to read; by default all of the schema.
        event_time: The timestamp column that says when a row happened.
        name: What the ledger calls this input.

    Raises:
        RecipeError: If there is no schema, or a column that does not exist.
        DataError: If the source cannot be used.
    """

    def reader(self) -> Reader:
        """Return how the pieces are read."""
        raise NotImplementedError

    def available_columns(self) -> tuple[str, ...]:
        """Return the names of the columns that there are; empty where each row has its own.

        Raises:
            DataError: If the source cannot be used.
        """
        raise NotImplementedError

    def plan(self, pbegin: Any, schema: Schema | None = None) -> beam.PCollection[Any]:
        """Return the pieces, spread over the workers, each of which has the schema's columns."""
        raise NotImplementedError

    def fingerprint(self) -> list[dict[str, Any]]:
        """Return what tells this input from one with other rows: sizes, digests, versions.

        Raises:
            DataError: If the source cannot be used.
        """
        raise NotImplementedError

    def estimate_size(self) -> int | None:
        """Return about how many bytes the rows take in memory; None if nobody knows.

        Raises:
            DataError: If the source cannot be used.
        """
        return None

    def check_columns(self, schema: Schema) -> None:
        """Check that the source has the columns of `schema`.

        Raises:
            RecipeError: If it lacks one.
            DataError: If the source cannot be used.
        """
        available = self.available_columns()
        if available:
            require_columns(column_names(schema), available, self.where)

    def read_rejected(self, rejected: Sequence[Rejected], schema: Schema) -> Outcome:
        """Parse rows that a person repaired, by the rules they were rejected by.

        Args:
            rejected: The rows; a payload is a JSON object of the columns, or a raw line.
            schema: The raw columns.

        Returns:
            The rows with the file and offset they first had; what is still bad is
            rejected again, with the same file, offset and payload.
        """
        return restore_origin(self.reader().replay(rejected, schema), rejected)

    def expand(self, pbegin: Any) -> Rows:
        """Plan, spread and read the pieces."""
        schema = self.raw_schema()
        self.check_columns(schema)
        return self.read_pieces(self.plan(pbegin, schema), schema)

    def read_pieces(
        self, pieces: beam.PCollection[Any], schema: Schema, reader: Reader | None = None
    ) -> Rows:
        """Read pieces, whose rows have the columns of `schema`, by another reader if given."""
        outputs = pieces | "ReadPieces" >> beam.ParDo(
            _ReadPieces(reader or self.reader(), schema)
        ).with_outputs("rejected", "counts", main="rows")
        return Rows(outputs.rows, (outputs.rejected,), (outputs.counts,))


def require_columns(wanted: Sequence[str], known: Sequence[str], where: str) -> None:
    """Check that all columns exist.

    Raises:
        RecipeError: If one does not; the message names the nearest.
    """
    names = set(known)
    for column in wanted:
        if column not in names:
            raise no_such_column(column, known, where)


def _read_schema(path: str) -> Schema:
    try:
        with FileSystems.open(path) as file:
            return parse_schema(file.read().decode(), path)
    except (OSError, BeamIOError) as error:
        raise DataError(f"{path}: cannot be opened ({error}); check the path") from error


@beam.typehints.with_output_types(pa.RecordBatch)
class _ReadPieces(beam.DoFn):  # type: ignore[misc]
    def __init__(self, reader: Reader, schema: Schema) -> None:
        self._reader = reader
        self._schema = schema

    def process(self, piece: Any) -> Iterator[Any]:
        read = 0
        for kept, rejected, counts in one_ahead(self._reader.read(piece, self._schema)):
            read += counts["read"]
            progress.add("rows_read", counts["read"])
            yield from _in_batches(kept)
            for row in rejected:
                yield beam.pvalue.TaggedOutput("rejected", row)
        if read:
            yield beam.pvalue.TaggedOutput("counts", Count("", "Read", "read", read))


def one_ahead(outcomes: Iterator[_T]) -> Iterator[_T]:
    """Yield what an iterator does, the next being read while one is worked on."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        following = reader.submit(next, outcomes, None)
        while (outcome := following.result()) is not None:
            following = reader.submit(next, outcomes, None)
            yield outcome


def _in_batches(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Yield the batch, in even slices if it has very many rows."""
    parts = -(-batch.num_rows // _MAX_ROWS)
    edges = [batch.num_rows * i // max(parts, 1) for i in range(parts + 1)]
    for start, stop in itertools.pairwise(edges):
        yield batch.slice(start, stop - start)
