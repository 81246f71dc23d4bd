"""The shared shapes of the road: batches of rows, what was rejected, and what was counted.

Every step gives `Rows`: a PCollection of `pyarrow.RecordBatch`, and beside it the rejected
rows and the counts of all steps so far. `Rows | step` chains like a PCollection does and
carries the two along, so that nothing is lost on the way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam import coders

__all__ = [
    "CARRIED",
    "FILE",
    "OFFSET",
    "ORIGIN",
    "Count",
    "Outcome",
    "Rejected",
    "Rows",
    "as_text",
    "data_columns",
    "each_batch",
    "from_ipc",
    "python_rows",
    "reject_rows",
    "to_ipc",
    "with_origin",
]

# Where each row came from: dictionary<int32, string> and int64. They travel beside the
# data through every step and are never a feature.
FILE = "_file"
OFFSET = "_offset"
ORIGIN = (FILE, OFFSET)
# Columns of a row as they were read, whatever the schema makes of them: a struct. It is
# there only where a step asks for it, and goes with what is written.
CARRIED = "_carried"


class Rejected(NamedTuple):
    """A row that could not be used, with all that a person needs to repair it.

    Attributes:
        step: The step that rejected it, e.g. `Parse`.
        file: The file (or message source) it came from; empty when unknown.
        offset: Byte offset of the row in the file (row number for Parquet); -1 if unknown.
        column: The column at fault; empty when the whole row is.
        value: The offending value as text.
        reason: What was expected.
        payload: The raw line, or the row as a JSON object.
        input: The name of the input; empty for the main source.
    """

    step: str
    file: str
    offset: int
    column: str
    value: str
    reason: str
    payload: bytes
    input: str = ""


class Count(NamedTuple):
    """A number for the ledger: `n` rows of `input` were `kind` at `step`.

    `input` is empty for the main source; kinds are `read`, `duplicate`, `filtered`, `late`
    and `joined`. Rejected and written rows are counted where they are written.
    """

    input: str
    step: str
    kind: str
    n: int


class Outcome(NamedTuple):
    """What a pure step function makes of one batch."""

    kept: pa.RecordBatch
    rejected: list[Rejected]
    counts: Mapping[str, int]


class Rows(NamedTuple):
    """The result of a step: PCollections of batches, of rejected rows and of counts."""

    rows: beam.PCollection[pa.RecordBatch]
    rejected: tuple[beam.PCollection[Rejected], ...] = ()
    counts: tuple[beam.PCollection[Count], ...] = ()

    def __or__(self, transform: Any) -> Any:
        """Apply `transform` to the batches, keeping what was rejected and counted so far."""
        result = self.rows | transform
        if not isinstance(result, Rows):
            return result
        return Rows(result.rows, self.rejected + result.rejected, self.counts + result.counts)


def to_ipc(batch: pa.RecordBatch, compression: str | None = None) -> bytes:
    """Return a batch as bytes of Arrow IPC, compressed by `lz4`, say."""
    options = pa.ipc.IpcWriteOptions(compression=compression, use_threads=False)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def from_ipc(data: bytes) -> pa.RecordBatch:
    """Return what `to_ipc` was called on."""
    with pa.ipc.open_stream(data) as reader:
        return reader.read_next_batch()


class _RecordBatchCoder(coders.Coder):  # type: ignore[misc]
    """Arrow IPC: a pickled slice would drag the whole parent's buffers along."""

    def encode(self, value: pa.RecordBatch) -> bytes:
        return to_ipc(value)

    def decode(self, encoded: bytes) -> pa.RecordBatch:
        return from_ipc(encoded)

    def estimate_size(self, value: pa.RecordBatch) -> int:
        """Return the size for Beam's metrics, which would else encode the batch to know it."""
        return int(value.nbytes)

    def is_deterministic(self) -> bool:
        return True

    def to_type_hint(self) -> Any:
        return pa.RecordBatch


coders.registry.register_coder(pa.RecordBatch, _RecordBatchCoder)


def data_columns(batch: pa.RecordBatch) -> list[str]:
    """Return the names of the columns that are data, not origin."""
    return [name for name in batch.schema.names if name not in ORIGIN]


def with_origin(batch: pa.RecordBatch, file: str, offsets: pa.Array) -> pa.RecordBatch:
    """Return `batch` with its origin columns: one file, and an offset for each row."""
    files = pa.DictionaryArray.from_arrays(
        pa.repeat(pa.scalar(0, pa.int32()), batch.num_rows), pa.array([file], pa.string())
    )
    names = [*batch.schema.names, FILE, OFFSET]
    return pa.RecordBatch.from_arrays([*batch.columns, files, offsets], names=names)


def reject_rows(batch: pa.RecordBatch, step: str, column: str, reason: str) -> list[Rejected]:
    """Return every row of `batch` as rejected for `reason`, its payload a JSON object."""
    rejected = []
    for row in python_rows(batch):
        file, offset = row.pop(FILE, ""), row.pop(OFFSET, -1)
        if isinstance(row.get(CARRIED), dict):
            row |= row.pop(CARRIED)
        value = row.get(column)
        rejected.append(
            Rejected(
                step=step,
                file=file or "",
                offset=-1 if offset is None else offset,
                column=column,
                value="" if value is None else as_text(value),
                reason=reason,
                payload=json.dumps(row, default=as_text).encode(),
            )
        )
    return rejected


def python_rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Return the rows as Python values; what Python cannot hold as Arrow spells it.

    >>> python_rows(pa.record_batch({"t": pa.array([253_402_300_800]).cast(pa.timestamp("s"))}))
    [{'t': '10000-01-01 00:00:00'}]
    """
    try:
        return batch.to_pylist()  # type: ignore[no-any-return]
    except _NO_PYTHON_VALUE:
        columns = [[_python_value(scalar) for scalar in column] for column in batch.columns]
        names = batch.schema.names
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


# Times out of range are ArithmeticErrors or ValueErrors, as is text that is not UTF-8;
# unknown time zones are LookupErrors.
_NO_PYTHON_VALUE = (ArithmeticError, LookupError, ValueError)


def _python_value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except _NO_PYTHON_VALUE:
        if isinstance(scalar, pa.ListScalar):
            return [_python_value(item) for item in scalar.values]
        if isinstance(scalar, (pa.StringScalar, pa.LargeStringScalar)):
            return as_text(scalar.as_buffer().to_pybytes())
        return pa.repeat(scalar, 1).to_string(skip_new_lines=True)[1:-1]


def as_text(value: Any) -> str:
    """Return a Python value as text for a person, lists as JSON."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, (bool, int, float, list, dict)):
        return json.dumps(value, default=as_text)
    return value.isoformat().replace("+00:00", "Z") if hasattr(value, "isoformat") else str(value)


def each_batch(
    batches: beam.PCollection[pa.RecordBatch], fn: Callable[[pa.RecordBatch], Outcome], step: str
) -> Rows:
    """Wire a pure function over batches as a step.

    Args:
        batches: The batches.
        fn: A picklable function (a module-level one, or a `functools.partial` of it).
        step: The step's fixed name, for the ledger.

    Returns:
        The rows kept, those rejected, and the counts of the outcome.
    """
    outputs = batches | step >> beam.ParDo(_EachBatch(fn, step)).with_outputs(
        "rejected", "counts", main="rows"
    )
    return Rows(outputs.rows, (outputs.rejected,), (outputs.counts,))


@beam.typehints.with_input_types(pa.RecordBatch)
@beam.typehints.with_output_types(pa.RecordBatch)
class _EachBatch(beam.DoFn):  # type: ignore[misc]
    def __init__(self, fn: Callable[[pa.RecordBatch], Outcome], step: str) -> None:
        self._fn = fn
        self._step = step

    def process(self, batch: pa.RecordBatch) -> Iterator[Any]:
        kept, rejected, counts = self._fn(batch)
        if kept.num_rows:
            yield kept
        for row in rejected:
            yield beam.pvalue.TaggedOutput("rejected", row)
        for kind, n in counts.items():
            if n:
                yield beam.pvalue.TaggedOutput("counts", Count("", self._step, kind, n))
