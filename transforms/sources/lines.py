"""Files of lines: where rows begin and end, and files cut into pieces and blocks there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from skewless.errors import DataError
from skewless.transforms.sources.files import open_file

__all__ = ["BOM", "Bounds", "Quoting", "read_blocks", "row_bounds", "row_starts_after", "skip_bom"]

BOM = b"\xef\xbb\xbf"

_LF, _CR = 10, 13
_PROBE = 1 << 16

Bytes = npt.NDArray[np.uint8]
Positions = npt.NDArray[np.int64]


class Quoting(NamedTuple):
    """The characters that decide whether a newline is inside a quoted field."""

    delimiter: str
    quote_char: str


class Bounds(NamedTuple):
    """Where the rows of a block begin and end, blank lines left out.

    Attributes:
        starts: Shape [rows]; bytes from the beginning of the block.
        ends: Shape [rows]; past the line end.
        complete: Up to where all rows are complete: past the last newline not in quotes.
        unclosed: The start of the row whose quote is never closed, or None.
    """

    starts: Positions
    ends: Positions
    complete: int
    unclosed: int | None


def row_bounds(block: bytes, quoting: Quoting | None) -> Bounds:
    r"""Find the rows of a block that begins where a row begins.

    A quote counts where a field begins with it, as in Arrow's parser; anywhere else it is
    a character like any other.

    Args:
        block: Text whose rows end in LF, CR LF or CR.
        quoting: The CSV dialect; None where newlines are never quoted.

    >>> row_bounds(b'a,"x\ny"\n\nb,5"\n', Quoting(",", '"')).starts.tolist()
    [0, 9]
    """
    data = np.frombuffer(block, np.uint8)
    is_end = data == _LF
    if b"\r" in block:
        lone = data == _CR
        lone[:-1] &= ~is_end[1:]
        is_end |= lone
    ends = np.flatnonzero(is_end) + 1
    unclosed = False
    if quoting and quoting.quote_char.encode() in block:
        inside, unclosed = _inside_quotes(block, data, ends - 1, quoting)
        ends = ends[~inside]
    newlines = ends[data[ends - 1] == _LF]
    complete = int(newlines[-1]) if newlines.size else 0
    last = int(ends[-1]) if ends.size else 0
    if last < len(block) and not unclosed:
        ends = np.append(ends, len(block))
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)[: len(ends)]
    first = data[starts]
    blank = (ends - starts == 1) & ((first == _LF) | (first == _CR))
    blank |= (ends - starts == 2) & (first == _CR) & (data[ends - 1] == _LF)
    full = ~blank
    return Bounds(starts[full], ends[full], complete, last if unclosed else None)


def _inside_quotes(
    block: bytes, data: Bytes, at: Positions, quoting: Quoting
) -> tuple[npt.NDArray[np.bool_], bool]:
    """Say for each position whether it is in a quoted field, and whether the last is open."""
    quote, delimiter = ord(quoting.quote_char), ord(quoting.delimiter)
    quotes = np.flatnonzero(data == quote)
    opening = quotes[0::2]
    before = data[np.maximum(opening - 1, 0)]
    regular = (opening == 0) | np.isin(before, [delimiter, quote, _LF, _CR])
    if regular.all():
        # Each even quote begins a field or doubles the one before it: parity decides.
        return (np.searchsorted(quotes, at) & 1).astype(np.bool_), bool(len(quotes) & 1)
    q, d = re.escape(quoting.quote_char), re.escape(quoting.delimiter)
    field = rf"(?:\A|(?<=[{d}\r\n])){q}[^{q}]*(?:{q}{q}[^{q}]*)*({q}|\Z)"
    matches = re.finditer(field.encode(), block)
    spans = [(match.start(), match.end(), match[1]) for match in matches]
    begins = np.array([span[0] for span in spans], np.int64)
    stops = np.array([0, *(span[1] for span in spans)], np.int64)
    inside = at < stops[np.searchsorted(begins, at)]
    return inside, bool(spans) and not spans[-1][2]


def read_blocks(
    path: str, start: int, stop: int | None, block_bytes: int, quoting: Quoting | None
) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a part of a file in blocks, cut where a row ends.

    Args:
        path: The file, plain or compressed.
        start: The byte to begin at, where a row begins.
        stop: The byte to stop before, where a row begins; None for the end.
        block_bytes: About how long a block is; a longer row makes a longer block.
        quoting: The CSV dialect, if newlines may be quoted.

    Yields:
        The byte offset of a block in the (decompressed) file, and the block.
    """
    with open_file(path) as file:
        file.seek(start)
        offset, rest, want = start, b"", block_bytes
        at_end = False
        while not at_end:
            left = want if stop is None else min(want, stop - offset - len(rest))
            data = _read(file, left)
            at_end = len(data) < want
            rest += data
            cut = len(rest) if at_end else _complete(rest, quoting)
            if cut:
                yield offset, rest[:cut]
                offset, rest, want = offset + cut, rest[cut:], block_bytes
            else:
                want *= 2  # a row longer than the block: look at it log times, not linearly


def _complete(block: bytes, quoting: Quoting | None) -> int:
    if quoting and quoting.quote_char.encode() in block:
        return row_bounds(block, quoting).complete
    return block.rfind(b"\n") + 1


def row_starts_after(path: str, targets: Iterator[int]) -> Iterator[int]:
    """Yield for each byte position the start of the first line at or after it.

    Past the last line that is the end of the file. Newlines must not be quoted.
    """
    with open_file(path) as file:
        for target in targets:
            file.seek(target - 1)
            at = target - 1
            while data := file.read(_PROBE):
                found = data.find(b"\n")
                if found >= 0:
                    at += found + 1
                    break
                at += len(data)
            yield at


def skip_bom(path: str) -> int:
    """Return the length of the byte order mark that the file begins with, 0 or 3.

    Raises:
        DataError: If the file is empty, or not UTF-8.
    """
    with open_file(path) as file:
        first = _read(file, len(BOM))
    if not first:
        raise DataError(f"{path}: file is empty; expected at least one line")
    if first[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path}: file is UTF-16; convert it: iconv -f UTF-16 -t UTF-8")
    return len(BOM) if first == BOM else 0


def _read(file: BinaryIO, count: int) -> bytes:
    """Read `count` bytes, fewer only at the end of the file."""
    parts = []
    while count > 0 and (part := file.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
