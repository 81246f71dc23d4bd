import math

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from skewless.arrays import raw_arrays
from skewless.models.serving.logged import LoggedModel
from skewless.models.serving.logged_rows import logged_rows
from skewless.models.serving.requests import Answer, Code, Request
from skewless.schema import make_feature, make_schema
from tests.models.serving.answered import (
    COLUMNS,
    SCHEMA,
    TYPES,
    Model,
    entry,
    of_examples,
    of_rows,
    rows,
)

MODEL = LoggedModel.of(Model())


def raw(batches):
    return pa.Table.from_batches(batches).select(COLUMNS.names).to_pylist()


def test_a_row_is_what_the_graph_was_fed_and_what_it_answered():
    batch = rows(3)
    request, answer = of_rows(batch)
    (found,) = logged_rows([entry(request, answer)], MODEL)
    assert found.select(COLUMNS.names).to_pylist() == batch.to_pylist()
    about = found.drop_columns(COLUMNS.names).to_pylist()
    (request_id,) = {one.pop("serving_request") for one in about}
    assert len(request_id) == 32
    assert about[1].pop("serving_time").isoformat() == "2013-01-01T12:00:00+00:00"
    assert about[1] == {
        "serving_version": 3,
        "serving_signature": "predict_rows",
        "serving_protocol": "rest",
        "serving_method": "predict",
        "serving_code": "OK",
        "serving_seconds": 0.25,
        "serving_row": 1,
        "prediction": 0.5,
    }


def test_requests_of_different_kinds_are_rows_of_the_same_columns():
    batches = [rows(count, count) for count in (2, 5, 1, 3)]
    entries = [entry(*of(batch)) for of in (of_rows, of_examples) for batch in batches]
    refused = entry(Request(rows=[{}], protocol="rest"), None, Code.INVALID_ARGUMENT)
    found = logged_rows([*entries, refused], MODEL)
    assert {batch.schema for batch in found} == {MODEL.columns}
    expected = [row for batch in batches for row in batch.to_pylist()]
    assert raw(found[:1]) == raw(found[1:2]) == expected
    assert len(set(found[0]["serving_request"].to_pylist())) == 4
    assert found[0]["serving_row"].to_pylist() == [0, 1, 0, 1, 2, 3, 4, 0, 0, 1, 2]
    (row,) = found[2].to_pylist()
    assert (row["serving_code"], row["serving_version"]) == ("INVALID_ARGUMENT", None)
    assert {row[name] for name in (*COLUMNS.names, "prediction")} == {None}


def single(name):
    values = {
        "o": st.floats(width=32, allow_nan=False),
        "n": st.integers(-(2**63) + 1, 2**63 - 1),
        "carrier": st.text(st.characters(codec="utf-8"), min_size=1),
        "at": st.integers(-62_135_596_800, 253_402_300_799),
        "tags": st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1),
        "codes": st.lists(st.integers(-(2**63) + 1, 2**63 - 1), min_size=1),
    }
    return st.lists(st.none() | values[name], min_size=1, max_size=5)


@given(st.data(), st.sampled_from(["o", "n", "carrier", "at", "tags", "codes"]))
def test_missing_is_null_again_and_every_value_is_itself(data, name):
    schema = make_schema([make_feature(name, TYPES[name][0], required=False)])
    model = LoggedModel.of(Model(schema=schema))
    cells = [data.draw(single(name)) for _ in range(2)]
    entries = []
    for values in cells:
        array = pa.array(values, pa.int64() if name == "at" else TYPES[name][0])
        batch = pa.RecordBatch.from_arrays([array.cast(TYPES[name][0])], [name])
        entries.append(entry(*of_rows(batch, schema=schema)))
    (found,) = logged_rows(entries, model)
    column = found[name].cast(pa.int64()) if name == "at" else found[name]
    assert column.to_pylist() == cells[0] + cells[1]


def test_what_no_column_can_hold_does_not_spoil_the_others():
    batch = rows(2)
    request, answer = of_rows(batch)
    # Bytes that are no text, a time beyond the calendar, an empty list item.
    answer.fed["carrier"] = np.array([b"\xff", b"AA"], object)
    answer.fed["at"] = np.array([2**62, 1])
    answer.fed["tags"] = np.array([[b"", b"red"], [b"", b""]], object)
    (found,) = logged_rows([entry(request, answer)], MODEL)
    assert found["carrier"].to_pylist() == ["\ufffd", "AA"]
    assert found["at"].cast(pa.int64()).to_pylist() == [None, 1]
    assert found["tags"].to_pylist() == [["red"], None]
    assert found["shares"].null_count == 0


def test_columns_may_be_left_out():
    model = LoggedModel.of(Model(), exclude=("carrier", "tags"))
    for of in (of_rows, of_examples):
        (found,) = logged_rows([entry(*of(rows(2)))], model)
        assert not {"carrier", "tags"} & set(found.schema.names)
        assert found["x"].null_count == 0
    nothing = LoggedModel.of(Model(), exclude=tuple(COLUMNS.names))
    for of in (of_rows, of_examples):
        (found,) = logged_rows([entry(*of(rows(2)))], nothing)
        assert len(found) == 2


def test_several_classes_are_lists():
    model = LoggedModel.of(Model(task="multiclass"))
    batch = rows(2)
    request, _ = of_rows(batch)
    shares = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)
    names = np.array([[b"low", b"high"]] * 2, object)
    answer = Answer({"prediction": shares, "classes": names}, 2, 3, "predict_rows")
    fed = Answer(answer.outputs, 2, 3, "predict_rows", raw_arrays(batch, SCHEMA))
    (found,) = logged_rows([entry(request, fed)], model)
    assert found["prediction"].to_pylist() == shares.tolist()
    assert found["classes"].to_pylist() == [["low", "high"]] * 2


def test_features_are_no_predictions():
    batch = rows(2)
    request, _ = of_rows(batch)
    features = {"x_scaled": np.zeros(2, np.float32)}
    answer = Answer(features, 2, 3, "transform", raw_arrays(batch, SCHEMA))
    (found,) = logged_rows([entry(request, answer)], MODEL)
    assert found["prediction"].null_count == 2
    assert found["serving_signature"].to_pylist() == ["transform"] * 2


def test_a_raw_column_keeps_its_name():
    names = ("prediction", "serving_time", "serving_time_")
    schema = make_schema(make_feature(n, pa.float32(), required=True) for n in names)
    model = LoggedModel.of(Model(schema=schema))
    batch = pa.RecordBatch.from_pydict({name: [4.0] for name in names})
    (found,) = logged_rows([entry(*of_rows(batch, schema=schema))], model)
    (row,) = found.to_pylist()
    assert [row[name] for name in names] == [4.0, 4.0, 4.0]
    assert (row["prediction_"], row["serving_time__"].year) == (0.0, 2013)


def test_examples_are_read_as_leniently_as_they_are_fed():
    example = tf.train.Example()
    example.features.feature["x"].float_list.value.append(math.nan)
    example.features.feature["carrier"].bytes_list.value.append(b"")
    request = Request(arrays={"examples": np.array([example.SerializeToString()], object)})
    answer = Answer({"prediction": np.zeros(1, np.float32)}, 1, 3, "serving_default")
    (found,) = logged_rows([entry(request, answer)], MODEL)
    (row,) = found.to_pylist()
    assert (row["x"], row["carrier"], row["n"], row["shares"]) == (None, None, None, [])
    bad = Request(arrays={"examples": np.array([b"no example"], object)})
    with pytest.raises(tf.errors.InvalidArgumentError):
        logged_rows([entry(bad, answer)], MODEL)
