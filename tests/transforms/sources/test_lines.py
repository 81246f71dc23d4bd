from __future__ import annotations

import pathlib
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skewless.errors import DataError
from skewless.transforms.sources.lines import (
    Quoting,
    read_blocks,
    row_bounds,
    row_starts_after,
    skip_bom,
)

CSV = Quoting(",", '"')


def rows_by_hand(text: str) -> tuple[list[str], bool]:
    """Rows by a state machine, one character after the other; whether a quote is open."""
    rows, row, quoted, field_start, i = [], "", False, True, 0
    while i < len(text):
        c = text[i]
        row += c
        i += 1
        if quoted:
            if c == '"':
                if text[i : i + 1] == '"':
                    row += '"'
                    i += 1
                else:
                    quoted = False
        elif c == '"' and field_start:
            quoted = True
        elif c in "\r\n":
            if c == "\r" and text[i : i + 1] == "\n":
                row += "\n"
                i += 1
            rows.append(row)
            row, field_start = "", True
            continue
        field_start = c == "," and not quoted
    if row and not quoted:
        rows.append(row)
    return [r for r in rows if r.strip("\r\n")], quoted


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='a,"\r\n', max_size=25))
def test_bounds_are_those_of_the_state_machine(text: str) -> None:
    block = text.encode()
    bounds = row_bounds(block, CSV)
    edges = zip(bounds.starts.tolist(), bounds.ends.tolist(), strict=True)
    rows, quoted = rows_by_hand(text)
    assert [text[a:b] for a, b in edges] == rows
    assert (bounds.unclosed is not None) == quoted


def test_without_quoting_a_quote_is_a_character() -> None:
    assert row_bounds(b'"a\nb"\n', None).starts.tolist() == [0, 3]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(alphabet='a"', max_size=9), max_size=9), st.integers(1, 12))
def test_blocks_are_the_file_and_end_with_lines(lines: list[str], size: int) -> None:
    text = "\n".join(lines).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "f"
        path.write_bytes(text)
        blocks = list(read_blocks(str(path), 0, None, size, None))
    assert b"".join(block for _, block in blocks) == text
    assert all(block.endswith(b"\n") for _, block in blocks[:-1])
    assert [offset for offset, _ in blocks] == [
        sum(len(b) for _, b in blocks[:i]) for i in range(len(blocks))
    ]


def test_starts_after_targets(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"aa\nbb\ncc")
    starts = list(row_starts_after(str(path), iter([1, 3, 4, 6, 7])))
    assert starts == [3, 3, 6, 6, 8]


def test_byte_order_marks(tmp_path: pathlib.Path) -> None:
    for text, length in ((b"\xef\xbb\xbfa", 3), (b"a", 0)):
        (tmp_path / "f").write_bytes(text)
        assert skip_bom(str(tmp_path / "f")) == length
    (tmp_path / "f").write_bytes("a,b".encode("utf-16"))
    with pytest.raises(DataError, match="UTF-16; convert it"):
        skip_bom(str(tmp_path / "f"))
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(DataError, match="file is empty"):
        skip_bom(str(tmp_path / "f"))
