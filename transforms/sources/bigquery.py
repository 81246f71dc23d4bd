"""Tables and queries of BigQuery as batches of typed rows, never as rows of Python."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa

from skewless.errors import DataError, RecipeError
from skewless.schema import Schema, column_names
from skewless.transforms.bigquery_client import (
    Connection,
    TableName,
    check_connection,
    dry_run,
    get_table,
    named_errors,
    parse_table,
)
from skewless.transforms.cells import cast_column
from skewless.transforms.outcomes import cast_rows
from skewless.transforms.parse import replay_json
from skewless.transforms.rows import Outcome, Rejected
from skewless.transforms.sources.source import BatchSource, Typed, require_columns

__all__ = ["BigQueryReader", "ReadBigQuery", "StreamPiece", "Target", "plan_streams"]

# BigQuery sends some thousand rows at once, which is little for what is done with a batch.
_BATCH_ROWS = 65_536
_BATCH_BYTES = 16 << 20
# Offsets of the rows of one stream are above those of the stream before. No stream is longer.
_STREAM_ROWS = 1 << 40
_MOST_QUERY_TEXT = 40


@dataclasses.dataclass(eq=False)
class ReadBigQuery(BatchSource):
    """Read a table or a query of BigQuery, as Arrow streams of the Storage Read API.

    Only the columns of the schema and the rows of `row_restriction` leave BigQuery. All
    streams show the table as it was when they were planned. A row with a value that its
    type cannot hold is rejected. The offset of a row is its number in its stream, plus
    2**40 for each stream before.

    Credentials are those of the environment (Application Default Credentials), looked up by
    each worker.

    Args:
        table: `project.dataset.table`, or `dataset.table` in `project`.
        query: A query in GoogleSQL, instead of a table. It runs once for each read.
        row_restriction: Which rows of the table to read, in GoogleSQL: `origin = "JFK"`.
        project: The project that pays, and that runs the query; by default the table's.
        temp_dataset: `project.dataset` for the query's result, a table that expires after a
            day; by default it goes where BigQuery puts it, which holds 10 GB.
        max_streams: How many streams at most; 0 lets BigQuery choose.
        endpoint: The URL of another REST API; http is for emulators, without credentials.
        storage_endpoint: The Storage API that goes with it; `host:port` and http are for
            emulators, without encryption and credentials.
        retry_seconds: How long a lost connection is tried again before the read fails.
        schema: The raw columns: a Schema, or the path of a `schema.pbtxt`.
        columns: The columns to read; by default all of the schema.
        event_time: The timestamp column that says when a row happened.
        name: What the ledger calls this input; by default the table, or `query`.

    Returns:
        `Rows`: batches with origin columns, rejected rows, and how many were read.

    Raises:
        RecipeError: If an argument or the query is wrong, or a column does not exist.
        DataError: If the table does not exist, cannot be read, or has a column of a type
            that cannot become the schema's.

    >>> ReadBigQuery("bigquery-public-data.samples.shakespeare").input_name
    'shakespeare'
    """

    table: str | None = None
    _: dataclasses.KW_ONLY
    query: str | None = None
    row_restriction: str | None = None
    project: str | None = None
    temp_dataset: str | None = None
    max_streams: int = 0
    endpoint: str | None = None
    storage_endpoint: str | None = None
    retry_seconds: float = 600.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.table is None) == (self.query is None):
            raise RecipeError("ReadBigQuery: give either a table or query=, not both")
        if self.query is not None and self.row_restriction is not None:
            raise RecipeError(
                f'{self.where} row_restriction="{self.row_restriction}": is for tables; write it '
                "into the query"
            )
        if self.query is None and self.temp_dataset is not None:
            raise RecipeError(
                f'{self.where} temp_dataset="{self.temp_dataset}": is for queries; leave it out'
            )
        if self.max_streams < 0:
            raise RecipeError(
                f"{self.where} max_streams={self.max_streams}: expected at least 1, or 0 for "
                "as many as BigQuery likes"
            )
        target = None
        if self.table is not None:
            target = parse_table(self.table, self.project, self.where)
        project = self.project or (target.project if target else None)
        self._connection = Connection(
            project, self.endpoint, self.storage_endpoint, self.retry_seconds
        )
        check_connection(self._connection, self.where)
        if self.endpoint is not None and project is None:
            raise RecipeError(f"{self.where}: give project=, which is to run the query")
        self._target = Target(
            self.where,
            target,
            self.query,
            self._temporary_table(),
            self.row_restriction or "",
            self.max_streams,
        )

    def _temporary_table(self) -> TableName | None:
        if self.temp_dataset is None:
            return None
        return parse_table(f"{self.temp_dataset}.skewless", self.project, self.where)

    @property
    def input_name(self) -> str:
        """The input's name in the ledger: the table's, or `query`."""
        return self.name or (self._target.table.table if self._target.table else "query")

    @property
    def where(self) -> str:
        """The source as a person wrote it, for messages: `ReadBigQuery("p.d.t")`."""
        if self.table is not None or self.query is None:
            return f'ReadBigQuery("{self.table}")'
        text = " ".join(self.query.split())
        shown = text if len(text) <= _MOST_QUERY_TEXT else f"{text[:_MOST_QUERY_TEXT]}..."
        return f'ReadBigQuery(query="{shown}")'

    def reader(self) -> BigQueryReader:
        """Return how the streams are read."""
        return BigQueryReader(self._connection)

    def available_columns(self) -> tuple[str, ...]:
        """Return the names of the table's columns, or of the query's, without running it."""
        return _available_columns(self._connection, self._target)

    def plan(self, pbegin: Any, schema: Schema | None = None) -> beam.PCollection[StreamPiece]:
        """Return the streams of one read session, spread over the workers."""
        return (
            pbegin
            | "Start" >> beam.Create([None])
            | "PlanStreams"
            >> beam.ParDo(_PlanStreams(self._connection, self._target, schema, self.columns))
            | "Spread" >> beam.Reshuffle()
        )

    def fingerprint(self) -> list[dict[str, Any]]:
        """Return when the tables that are read were changed, and what is read of them."""
        asked = {
            "columns": None if self.columns is None else list(self.columns),
            "row_restriction": self.row_restriction,
        }
        if self._target.table is not None:
            return [{**_state(self._connection, self._target.table, self.where), **asked}]
        job = dry_run(self._connection, self.query or "", self.where)
        names = sorted(
            TableName(table.project, table.dataset_id, table.table_id)
            for table in job.referenced_tables
        )
        states = [_state(self._connection, name, self.where) for name in names]
        return [{"query": self.query, **asked}, *states]

    def estimate_size(self) -> int | None:
        """Return the size of a table, from which a restriction may leave much out."""
        if self._target.table is None:
            return None
        size: int | None = get_table(self._connection, self._target.table, self.where).num_bytes
        return size


class StreamPiece(NamedTuple):
    """A stream of a read session, which one worker reads.

    Attributes:
        place: What the rows come from: `bigquery:project.dataset.table`.
        stream: The stream's name.
        first: The offset of its first row.
        schema: The Arrow schema of its rows, as Arrow IPC.
    """

    place: str
    stream: str
    first: int
    schema: bytes


@dataclasses.dataclass(frozen=True)
class Target:
    """What is read: a table, or a query.

    Attributes:
        where: The source as a person wrote it.
        table: The table.
        query: The query, where there is no table.
        temporary: Where the query's result goes, under another name each time; None for
            where BigQuery puts it.
        row_restriction: Which rows of the table to read; "" for all.
        max_streams: How many streams at most; 0 for as many as BigQuery likes.
    """

    where: str
    table: TableName | None
    query: str | None
    temporary: TableName | None
    row_restriction: str
    max_streams: int


# --- Plan -----------------------------------------------------------------------------


class _PlanStreams(beam.DoFn):  # type: ignore[misc]
    def __init__(
        self,
        connection: Connection,
        target: Target,
        schema: Schema | None,
        columns: Sequence[str] | None,
    ) -> None:
        self._connection = connection
        self._target = target
        self._schema = schema
        self._columns = columns

    def process(self, _: None) -> Iterator[StreamPiece]:
        wanted = self._columns if self._schema is None else column_names(self._schema)
        pieces = plan_streams(self._connection, self._target, wanted)
        if pieces and self._schema is not None:
            _check_types(pieces[0], self._schema)
        yield from pieces


def plan_streams(
    connection: Connection, target: Target, columns: Sequence[str] | None
) -> list[StreamPiece]:
    """Create a read session and return its streams.

    Args:
        connection: Where BigQuery is.
        target: What is read; a query is run.
        columns: The columns to read; None for all.

    Raises:
        RecipeError: If a column does not exist, or the query or restriction is wrong.
        DataError: If the table does not exist or cannot be read.
    """
    from google.cloud.bigquery_storage_v1 import types

    if target.table is not None and columns is not None:
        # Whatever was checked before, the table may be another by now.
        require_columns(columns, _available_columns(connection, target), target.where)
    with named_errors(target.where):
        table = target.table or _run_query(connection, target)
        options = types.ReadSession.TableReadOptions(
            selected_fields=columns or (),
            row_restriction=target.row_restriction,
            arrow_serialization_options=types.ArrowSerializationOptions(
                buffer_compression=types.ArrowSerializationOptions.CompressionCodec.LZ4_FRAME
            ),
        )
        with connection.reader() as client:
            session = client.create_read_session(
                parent=f"projects/{connection.project or table.project}",
                read_session=types.ReadSession(
                    table=table.path, data_format=types.DataFormat.ARROW, read_options=options
                ),
                max_stream_count=target.max_streams,
                retry=connection.storage_retry(),
            )
    place = f"bigquery:{target.table or 'query'}"
    schema = bytes(session.arrow_schema.serialized_schema)
    return [
        StreamPiece(place, stream.name, i * _STREAM_ROWS, schema)
        for i, stream in enumerate(session.streams)
    ]


def _check_types(piece: StreamPiece, schema: Schema) -> None:
    """Find a column that can never have the schema's type before any row is read."""
    arrow = _arrow_schema(piece)
    require_columns(column_names(schema), arrow.names, piece.place)
    for feature in schema.feature:
        cast_column(pa.array([], arrow.field(feature.name).type), feature, piece.place)


def _run_query(connection: Connection, target: Target) -> TableName:
    """Run the query and return the table that holds its result."""
    query, temporary = target.query, target.temporary
    if temporary is not None:
        temporary = temporary._replace(table=f"skewless_{uuid.uuid4().hex}")
        query = (
            f"CREATE TABLE `{temporary}` OPTIONS (expiration_timestamp = "
            f"TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL 1 DAY)) AS {query}"
        )
    with connection.rest() as client:
        job = client.query(query, retry=connection.rest_retry())
        job.result(max_results=0, retry=connection.rest_retry())
    if temporary is not None:
        return temporary
    found = job.destination
    if found is None:
        raise DataError(f"{target.where}: the query has no result; write a SELECT")
    return TableName(found.project, found.dataset_id, found.table_id)


def _available_columns(connection: Connection, target: Target) -> tuple[str, ...]:
    if target.table is None:
        fields = dry_run(connection, target.query or "", target.where).schema or ()
    else:
        table = get_table(connection, target.table, target.where)
        if table.table_type == "VIEW":
            raise DataError(
                f"{target.where}: is a view, which has no rows of its own; read it with "
                f'query="SELECT * FROM `{target.table}`"'
            )
        fields = table.schema
    return tuple(field.name for field in fields)


def _state(connection: Connection, name: TableName, where: str) -> dict[str, Any]:
    table = get_table(connection, name, where)
    return {
        "path": f"bigquery:{name}",
        "size": table.num_bytes,
        "rows": table.num_rows,
        "modified": None if table.modified is None else table.modified.isoformat(),
        "digest": table.etag,
    }


# --- Read -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class BigQueryReader:
    """How the streams of a read session are read and cast."""

    connection: Connection

    def typed(self, piece: StreamPiece, columns: Sequence[str]) -> Iterator[Typed]:
        """Yield columns of a stream in types of their own, about 65,536 rows at once."""
        first = piece.first
        for batch in self._batches(piece):
            yield Typed(batch.select(list(columns)), np.arange(first, first + batch.num_rows))
            first += batch.num_rows

    def read(self, piece: StreamPiece, schema: Schema) -> Iterator[Outcome]:
        """Yield the rows of a stream, about 65,536 at once."""
        for batch, offsets in self.typed(piece, column_names(schema)):
            yield cast_rows(batch, schema, piece.place, offsets)

    def untyped(self, piece: StreamPiece) -> Iterator[pa.RecordBatch]:
        """Yield the rows in the table's own types."""
        for batch in self._batches(piece):
            for i, field in enumerate(batch.schema):
                if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
                    batch = batch.set_column(i, field.name, batch.column(i).cast(pa.binary()))
            yield batch

    def replay(self, rejected: Sequence[Rejected], schema: Schema) -> Outcome:
        """Parse repaired payloads; the offset of a row is its position in `rejected`."""
        return replay_json(rejected, schema)

    def _batches(self, piece: StreamPiece) -> Iterator[pa.RecordBatch]:
        """Yield what the stream sends, several messages in one batch."""
        schema = _arrow_schema(piece)
        gathered: list[pa.RecordBatch] = []
        rows = size = 0
        with named_errors(piece.place), self.connection.reader() as client:
            # The stream goes on at its next row when the connection comes back.
            stream = client.read_rows(piece.stream, retry=self.connection.storage_retry())
            for message in stream:
                serialized = message.arrow_record_batch.serialized_record_batch
                batch = pa.ipc.read_record_batch(pa.py_buffer(serialized), schema)
                if gathered and (
                    rows + batch.num_rows > _BATCH_ROWS or size + batch.nbytes > _BATCH_BYTES
                ):
                    yield pa.concat_batches(gathered)
                    gathered, rows, size = [], 0, 0
                gathered.append(batch)
                rows += batch.num_rows
                size += batch.nbytes
        if rows:
            yield pa.concat_batches(gathered)


def _arrow_schema(piece: StreamPiece) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(piece.schema))
