from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from skewless.errors import DataError
from skewless.schema import make_feature, make_schema
from skewless.transforms.outcomes import cast_rows, restore_origin
from skewless.transforms.parse import parse_json_rows
from skewless.transforms.rows import FILE, OFFSET, Rejected

SCHEMA = make_schema(
    [
        make_feature("i", pa.int64(), required=False),
        make_feature("s", pa.string(), required=False),
    ]
)


def test_rows_that_do_not_fit_are_rejected_whole() -> None:
    batch = pa.record_batch({"s": ["a", "b", "c"], "i": [1.0, 1.5, None], "x": [1, 2, 3]})
    outcome = cast_rows(batch, SCHEMA, "file", np.array([3, 5, 9]))
    assert outcome.kept.to_pylist() == [
        {"i": 1, "s": "a", "_file": "file", "_offset": 3},
        {"i": None, "s": "c", "_file": "file", "_offset": 9},
    ]
    (row,) = outcome.rejected
    assert row[:6] == ("Parse", "file", 5, "i", "1.5", "expected a whole number (int64)")
    assert json.loads(row.payload) == {"s": "b", "i": 1.5, "x": 2}
    assert outcome.counts == {"read": 3}


def test_a_type_that_can_never_fit_is_named() -> None:
    batch = pa.record_batch({"s": [1], "i": [1]})
    with pytest.raises(DataError, match='file: column "s" has type int64'):
        cast_rows(batch, SCHEMA, "file", np.array([0]))


def test_replayed_rows_keep_their_place() -> None:
    old = [
        Rejected("Parse", "a", 7, "i", "x", "?", b'{"i": 1}'),
        Rejected("Validate", "b", 9, "i", "y", "?", b'{"i": "y"}'),
        Rejected("Parse", "b", 3, "i", "z", "?", b'{"i": 3}'),
    ]
    outcome = restore_origin(parse_json_rows([r.payload for r in old], SCHEMA), old)
    assert outcome.kept.column(FILE).to_pylist() == ["a", "b"]
    assert outcome.kept.column(OFFSET).to_pylist() == [7, 3]
    assert outcome.kept.column(FILE).type == pa.dictionary(pa.int32(), pa.string())
    assert [(r.file, r.offset, r.payload) for r in outcome.rejected] == [("b", 9, b'{"i": "y"}')]
