"""Call a function on a batch; where it fails, find the rows at which it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pyarrow as pa

__all__ = ["Singled", "reason_of", "single_out"]

_IN_GRAPH = "Graph execution error:"


class Singled(NamedTuple):
    """What came of a batch.

    Attributes:
        done: Slices of it in order, each with what the function returned.
        failed: The rows at which it failed, in order: batches of one row, with the error.
    """

    done: list[tuple[pa.RecordBatch, Any]]
    failed: list[tuple[pa.RecordBatch, Exception]]


def single_out(
    function: Callable[[pa.RecordBatch], Any],
    batch: pa.RecordBatch,
    faults: type[Exception] | tuple[type[Exception], ...],
    *,
    probes: int = 0,
) -> Singled:
    """Call a function on a batch, and on halves where it fails, until bad rows are alone.

    Of n rows of which k are bad that takes at most 1 + 2 k log2(n) calls, rounded up, and one
    where none is; it costs nothing where all is well.

    Args:
        function: The function.
        batch: The rows.
        faults: The errors that may be a row's; any other is raised at once.
        probes: How many rows, spread over a batch that fails, are tried alone first: if none
            of them passes, the fault is taken for the function's. 0 for none.

    Raises:
        Exception: What the function raised, if it is none of `faults`, or at every probe, or
            for no rows at all.

    >>> batch = pa.record_batch({"a": [4, 0, 2]})
    >>> done, failed = single_out(lambda b: [8 // a for a in b["a"].to_pylist()], batch,
    ...                           ArithmeticError)
    >>> [answer for _, answer in done], [row.to_pylist() for row, _ in failed]
    ([[2], [4]], [[{'a': 0}]])
    """
    try:
        return Singled([(batch, function(batch))], [])
    except faults as error:
        if batch.num_rows == 0:
            raise
        if batch.num_rows == 1:
            return Singled([], [(batch, error)])
        if 0 < probes < batch.num_rows and not _any_passes(function, batch, faults, probes):
            raise
    half = batch.num_rows // 2
    first = single_out(function, batch.slice(0, half), faults)
    second = single_out(function, batch.slice(half), faults)
    return Singled(first.done + second.done, first.failed + second.failed)


def _any_passes(
    function: Callable[[pa.RecordBatch], Any],
    batch: pa.RecordBatch,
    faults: type[Exception] | tuple[type[Exception], ...],
    probes: int,
) -> bool:
    for probe in range(probes):
        try:
            function(batch.slice(batch.num_rows * probe // probes, 1))
        except faults:
            continue
        return True
    return False


def reason_of(error: Exception) -> str:
    """Return what an error says in one line, without where in a graph it was raised.

    >>> reason_of(ValueError("Graph execution error:\\n\\nDetected at node Cast\\nnot a number\\n"
    ...                      "\\t [[{{node Cast}}]] [Op:f]"))
    'not a number'
    """
    text = str(getattr(error, "message", None) or error).strip()
    lines = [line.strip() for line in text.partition("[[{{")[0].splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # The operation's own words come last there, after the stack of those who made it.
    said = lines[-1] if lines[0] == _IN_GRAPH else lines[0]
    return said.replace("{{", "").replace("}}", "")
