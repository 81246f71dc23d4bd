"""Write batches of rows to a table of BigQuery, all of them or none."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa

from skewless.errors import RunError
from skewless.transforms.bigquery_client import (
    Connection,
    TableName,
    check_connection,
    named_errors,
    parse_table,
    reference,
)
from skewless.transforms.sinks.bigquery_rows import (
    Column,
    difference,
    serialized_slices,
    storable,
    table_columns,
)

__all__ = ["WriteBigQuery", "Written"]

_IN_FLIGHT = 4


@dataclasses.dataclass(eq=False)
class WriteBigQuery(beam.PTransform):  # type: ignore[misc]
    """Append batches of rows to a table, by pending streams of the Storage Write API.

    Nothing is seen in the table before all streams are committed, at once. A bundle that is
    done again leaves its first stream behind, uncommitted: each row is there once. The table
    is made if there is none; one that exists must have the same columns. The batches must be
    bounded.

    Credentials are those of the environment (Application Default Credentials), looked up by
    each worker.

    Args:
        table: `project.dataset.table`, or `dataset.table` in `project`; the dataset exists.
        origin: Whether to write the origin columns `_file` and `_offset` too.
        project: The project of a table named without one.
        endpoint: The URL of another REST API; http is for emulators, without credentials.
        storage_endpoint: The Storage API that goes with it; `host:port` and http are for
            emulators, without encryption and credentials.
        retry_seconds: How long a lost connection is tried again before the write fails.

    Returns:
        A PCollection of one number: how many rows were appended, after they were.

    Raises:
        RecipeError: If an argument is wrong.
        RunError: If the table has other columns, BigQuery has no type for a column, or it
            cannot be written. Nothing was appended then.

    >>> str(WriteBigQuery("p.d.t").name)
    'p.d.t'
    """

    table: str
    _: dataclasses.KW_ONLY
    origin: bool = False
    project: str | None = None
    endpoint: str | None = None
    storage_endpoint: str | None = None
    retry_seconds: float = 600.0

    def __post_init__(self) -> None:
        super().__init__()
        self.name = parse_table(self.table, self.project, "WriteBigQuery")
        self.connection = Connection(
            self.project or self.name.project,
            self.endpoint,
            self.storage_endpoint,
            self.retry_seconds,
        )
        check_connection(self.connection, f'WriteBigQuery("{self.table}")')

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[int]:
        """Append each bundle's batches to a stream of its own, then commit all of them."""
        return (
            batches
            | "InOneWindow" >> beam.WindowInto(beam.window.GlobalWindows())
            | self.appending()
            | "CollectStreams" >> beam.CombineGlobally(beam.combiners.ToListCombineFn())
            | "CommitStreams" >> beam.Map(_commit, self.connection, self.name)
        )

    def appending(self) -> beam.PTransform:
        """Return the step that appends alone: from batches to `Written`, for `commit`."""
        return "AppendRows" >> beam.ParDo(_AppendRows(self.connection, self.name, self.origin))

    def commit(self, streams: Sequence[Written]) -> int:
        """Let the rows of all streams appear, at once; that may be done again.

        Returns:
            How many there are.

        Raises:
            RunError: If they cannot be committed: nothing was appended then.
        """
        return _commit(streams, self.connection, self.name)


class Written(NamedTuple):
    """A stream that is finalized, not committed, and how many rows it holds."""

    stream: str
    rows: int


# --- Streams --------------------------------------------------------------------------


@beam.typehints.with_input_types(pa.RecordBatch)
class _AppendRows(beam.DoFn):  # type: ignore[misc]
    def __init__(self, connection: Connection, name: TableName, origin: bool) -> None:
        self._connection = connection
        self._name = name
        self._origin = origin

    def start_bundle(self) -> None:
        self._open = contextlib.ExitStack()
        self._stream: _PendingStream | None = None

    def process(self, batch: pa.RecordBatch) -> None:
        if not batch.num_rows:
            return
        try:
            rows = storable(batch, self._origin)
            if self._stream is None:
                _make_table(self._connection, self._name, table_columns(rows.schema))
                stream = _PendingStream(self._connection, self._name, rows.schema)
                self._stream = self._open.enter_context(stream)
            self._stream.append(rows)
        except BaseException:
            self._open.close()
            raise

    def finish_bundle(self) -> Iterator[Any]:
        with self._open:
            if self._stream is not None:
                yield beam.utils.windowed_value.WindowedValue(
                    self._stream.finalize(),
                    beam.window.MIN_TIMESTAMP,
                    [beam.window.GlobalWindow()],
                )


def _where(name: TableName) -> str:
    return f'WriteBigQuery("{name}")'


def _make_table(connection: Connection, name: TableName, wanted: Sequence[Column]) -> None:
    """Make the table if there is none.

    Raises:
        RunError: If there is one with other columns; names them.
    """
    from google.api_core.exceptions import NotFound
    from google.cloud import bigquery

    retry = connection.rest_retry()
    with named_errors(_where(name), RunError, RunError), connection.rest() as client:
        try:
            table = client.get_table(reference(name), retry=retry)
        except NotFound:
            fields = [bigquery.SchemaField(*column) for column in wanted]
            table = bigquery.Table(reference(name), schema=fields)
            # Another worker may be faster, with other columns.
            client.create_table(table, exists_ok=True, retry=retry)
            table = client.get_table(reference(name), retry=retry)
    found = [Column(field.name, field.field_type, field.mode) for field in table.schema]
    differs = difference(wanted, found)
    if differs:
        raise RunError(
            f"{_where(name)}: the table is there with other columns: {differs}; write to another "
            "table, or change this one"
        )


class _PendingStream:
    """A stream of rows that are not in the table until it is committed."""

    def __init__(self, connection: Connection, name: TableName, schema: pa.Schema) -> None:
        self._connection = connection
        self._where = _where(name)
        self._name = name
        self._schema = schema
        self._rows = 0
        self._waiting: collections.deque[Any] = collections.deque()

    def __enter__(self) -> _PendingStream:
        from google.api_core.exceptions import NotFound
        from google.cloud.bigquery_storage_v1 import types, writer

        with contextlib.ExitStack() as opened, self._named():
            self._client = opened.enter_context(self._connection.writer())
            # A table that was just made may be not found for some seconds.
            self.stream = self._client.create_write_stream(
                parent=self._name.path,
                write_stream=types.WriteStream(type_=types.WriteStream.Type.PENDING),
                retry=self._connection.storage_retry(NotFound),
            ).name
            template = types.AppendRowsRequest(write_stream=self.stream)
            template.arrow_rows.writer_schema.serialized_schema = (
                self._schema.serialize().to_pybytes()
            )
            self._appends = writer.AppendRowsStream(self._client, template)
            opened.callback(self._close)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        self._opened.close()

    def _close(self) -> None:
        from google.cloud.bigquery_storage_v1.exceptions import StreamClosedError

        with contextlib.suppress(StreamClosedError):
            self._appends.close()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        from google.cloud.bigquery_storage_v1.exceptions import StreamClosedError

        try:
            with named_errors(self._where, RunError, RunError):
                yield
        except (StreamClosedError, TimeoutError) as error:
            raise RunError(f"{self._where}: the connection was lost ({error}); run again") from None

    def append(self, batch: pa.RecordBatch) -> None:
        """Send rows; some requests may be under way when this returns."""
        from google.cloud.bigquery_storage_v1 import types

        if not batch.schema.equals(self._schema):
            raise RunError(
                f"{self._where}: the batches have different columns: {self._schema} and "
                f"{batch.schema}; give all batches the same columns"
            )
        for rows, serialized in serialized_slices(batch):
            # The offset makes a request that is sent again a second time harmless.
            request = types.AppendRowsRequest(write_stream=self.stream, offset=self._rows)
            request.arrow_rows.rows.serialized_record_batch = serialized
            with self._named():
                while len(self._waiting) >= _IN_FLIGHT:
                    self._take_answer()
                self._waiting.append(self._appends.send(request))
            self._rows += rows

    def _take_answer(self) -> None:
        self._waiting.popleft().result(timeout=self._connection.retry_seconds)

    def finalize(self) -> Written:
        """Wait for all answers and close the stream for more rows."""
        with self._named():
            while self._waiting:
                self._take_answer()
            answer = self._client.finalize_write_stream(
                name=self.stream, retry=self._connection.storage_retry()
            )
        if answer.row_count != self._rows:
            raise RunError(
                f"{self._where}: BigQuery has {answer.row_count} of {self._rows} rows of a stream; "
                "run again"
            )
        return Written(self.stream, self._rows)


def _commit(streams: Sequence[Written], connection: Connection, name: TableName) -> int:
    """Make the rows of all streams appear; may be done again.

    Returns:
        How many there are.
    """
    from google.cloud.bigquery_storage_v1 import types

    if not streams:
        return 0
    with named_errors(_where(name), RunError, RunError), connection.writer() as client:
        answer = client.batch_commit_write_streams(
            request=types.BatchCommitWriteStreamsRequest(
                parent=name.path, write_streams=[written.stream for written in streams]
            ),
            retry=connection.storage_retry(),
        )
    again = types.StorageError.StorageErrorCode.STREAM_ALREADY_COMMITTED
    # All or none are committed: if all are, an answer was lost on its way.
    errors = answer.stream_errors
    if errors and not (len(errors) == len(streams) and all(e.code == again for e in errors)):
        raise RunError(
            f"{_where(name)}: nothing was appended: {errors[0].error_message}; run again"
        )
    return sum(written.rows for written in streams)
