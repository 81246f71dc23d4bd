import json
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skewless.arrays import raw_arrays
from skewless.models.serving.json_rows import RowReader
from skewless.models.serving.requests import Code, ServingError
from skewless.schema import make_feature, make_schema
from skewless.transforms.parse import parse_json_rows

SCHEMA = make_schema(
    make_feature(name, type_, required=False)
    for name, type_ in {
        "f": pa.float32(),
        "n": pa.int64(),
        "s": pa.string(),
        "t": pa.timestamp("us", tz="UTC"),
        "whole": pa.timestamp("s", tz="UTC"),
        "fs": pa.list_(pa.float32()),
        "ns": pa.list_(pa.int64()),
        "ss": pa.list_(pa.string()),
    }.items()
)
READER = RowReader(SCHEMA)
REQUIRED = RowReader(make_schema([make_feature("trip miles", pa.float32(), required=True)]))

numbers = st.one_of(
    st.integers(-(2**65), 2**65), st.floats(), st.booleans(), st.sampled_from([3.4028235e38, 1e39])
)
times = st.one_of(
    st.datetimes().map(str),
    st.datetimes().map(lambda t: t.isoformat() + "Z"),
    st.datetimes().map(lambda t: t.isoformat(timespec="seconds") + "+02:00"),
    st.dates().map(str),
    st.from_regex(r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}:[0-9]{2})?Z?\Z"),
    st.text(max_size=12),
)
anything = st.one_of(numbers, times, st.none(), st.lists(st.one_of(numbers, st.text(max_size=3))))
fitting = st.fixed_dictionaries(
    {},
    optional={
        "f": st.one_of(st.none(), st.floats(width=32, allow_infinity=False), st.integers(-9, 9)),
        "n": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.booleans()),
        "s": st.one_of(st.none(), st.text(st.characters(codec="utf-8"), max_size=5)),
        "t": st.one_of(times, st.integers(-(2**40), 2**40)),
        "whole": st.one_of(times, st.integers(-(2**40), 2**40)),
        "fs": st.lists(st.one_of(st.none(), st.floats(width=32, allow_infinity=False))),
        "ns": st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))),
        "ss": st.lists(st.one_of(st.none(), st.text(st.characters(codec="utf-8"), max_size=3))),
    },
)
free = st.dictionaries(st.sampled_from([f.name for f in SCHEMA.feature]), anything)


@given(st.one_of(fitting, free))
def test_rows_are_read_as_predict_reads_them(row):
    parsed = parse_json_rows([json.dumps(row).encode()], SCHEMA)
    if parsed.rejected:
        with pytest.raises(ServingError) as error:
            READER.read([row])
        assert error.value.code is Code.INVALID_ARGUMENT
        return
    packed = READER.read([row])
    found, wanted = READER.layout.unpack(packed), raw_arrays(parsed.kept, SCHEMA)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        assert found[name].tobytes() == array.tobytes() or found[name].tolist() == array.tolist()


def test_a_value_of_another_kind_is_named():
    with pytest.raises(ServingError, match=r'instance 1: "n" is 1.5; expected a whole number'):
        READER.read([{"n": 1}, {"n": 1.5}])
    with pytest.raises(ServingError, match='"ss" is red; expected a list, each item text'):
        READER.read([{"ss": "red"}])


@pytest.mark.parametrize("row", [{}, {"trip miles": None}, {"trip miles": math.nan}])
def test_a_required_value_is_missing(row):
    with pytest.raises(ServingError, match='instance 0: "trip miles" is missing'):
        REQUIRED.read([row])


def test_a_column_goes_by_its_argument_too():
    assert REQUIRED.read([{"trip_miles": 2}]).floats.tolist() == [[2.0]]


def test_bytes_may_be_base64():
    assert READER.read([{"s": {"b64": "w6k="}}]).texts[0, 0] == "é".encode()
    with pytest.raises(ServingError, match='"s" is'):
        READER.read([{"s": {"b64": "/w=="}}])  # no UTF-8


def test_rows_of_any_number_of_values():
    packed = READER.read([{"ns": [1, 2]}, {}, {"ns": [3]}])
    missing = np.iinfo(np.int64).min
    assert READER.layout.unpack(packed)["ns"].tolist() == [
        [1, 2],
        [missing, missing],
        [3, missing],
    ]
