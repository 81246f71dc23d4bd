import base64
import contextlib
import json
import math

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import TensorInfo

from skewless.models.serving.json_tensors import dumps, read_tensor, shown, writable
from skewless.models.serving.limits import Limits
from skewless.models.serving.requests import Answer, Code, ServingError
from skewless.models.serving.rest_json import (
    Interface,
    Target,
    is_columnar,
    read_document,
    read_examples,
    read_predict,
    write_classes,
    write_predictions,
    write_values,
)

LIMITS = Limits(instances=100)
FLOAT, INT, STRING = (TensorInfo(dtype=d) for d in (1, 9, 7))
COLUMNS = {"x": FLOAT, "n": INT, "a_b": STRING, "tags": STRING}
INTERFACE = Interface(
    {
        "serving_default": {"examples": STRING},
        "predict_rows": COLUMNS,
        "transform": COLUMNS,
        "sensors": {"tag": STRING, "signal": FLOAT, "sensor": INT},
        "__saved_model_init_op": {},
    },
    {"x": False, "n": False, "a b": False, "a_b": False, "tags": True},
    "binary",
    ("on time", "late"),
)
ROW = {"x": 0.5, "n": 3, "a b": "text", "tags": ["red"]}


def predict(interface=INTERFACE, **document):
    return read_predict(read_document(orjson.dumps(document), LIMITS), interface, LIMITS)


def refusal(call, *arguments, **keywords):
    with pytest.raises(ServingError) as caught:
        call(*arguments, **keywords)
    assert "\n" not in caught.value.message
    assert caught.value.code is Code.INVALID_ARGUMENT
    return caught.value.message


def b64(value):
    return {"b64": base64.b64encode(value).decode()}


def b64_less(value):
    return {"b64": b64(value)["b64"].rstrip("=")}


# Bodies


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b"null",
        b'"text"',
        b"{} {}",
        b"{'a': 1}",
        b'{"a": \xff}',
        b'{"a": "\xff"}',
        b'{"a": "\\ud800"}',
        b"\xef\xbb\xbf{}",
        b'{"a": 1e999}',
        b'{"a": 1e999, "b": NaN}',
        b'{"a": -' + b"9" * 400 + b', "b": NaN}',
        b'{"a": "\\ud800", "b": NaN}',
        b'{"a": "\xff", "b": NaN}',
        b'{"a": "\n", "b": NaN}',
        b'{"a": nan}',
        b'{"a": +Infinity}',
        b'{"a": "NaN"',
        b"NaN",
        '{"a": 1}'.encode("utf-16"),
    ],
)
def test_what_is_no_json_object_is_refused(body):
    assert refusal(read_document, body, LIMITS).startswith("the body is ")


def test_words_that_json_has_not_are_read():
    body = b'{"a": [NaN, Infinity, -Infinity, "NaN", 1.5, 3, 18446744073709551615]}'
    nan, *others = read_document(body, LIMITS)["a"]
    assert math.isnan(nan)
    assert others == [math.inf, -math.inf, "NaN", 1.5, 3, 2**64 - 1]
    assert type(others[-2]) is int


@pytest.mark.parametrize("digits", ["18446744073709551616", "-9223372036854775809", "9" * 300])
def test_numbers_beyond_64_bits_are_read_alike_with_nan_and_without(digits):
    one, other = (
        read_document(b'{"a": %b, "b": %b}' % (digits.encode(), b), LIMITS)["a"]
        for b in (b"1", b"NaN")
    )
    assert (one, type(one)) == (other, float)


def test_the_last_of_fields_of_one_name_counts():
    for other in (b"1", b"NaN"):
        body = b'{"a": 1, "a": 2, "b": %b}' % other
        assert read_document(body, LIMITS)["a"] == 2


# Rows


def test_objects_of_raw_fields_are_rows():
    deadline = 12.5
    asked = read_predict({"instances": [ROW, {}]}, INTERFACE, LIMITS, Target(7, "new", deadline))
    assert (asked.rows, asked.arrays, asked.signature) == ([ROW, {}], None, "predict_rows")
    assert (asked.version, asked.label, asked.deadline) == (7, "new", deadline)
    assert (asked.protocol, asked.method) == ("rest", "predict")
    for name in ("predict_rows", "transform"):
        assert predict(instances=[ROW], signature_name=name).signature == name
    assert predict(instances=[ROW], signature_name="").signature == "predict_rows"


def test_columns_of_raw_fields_are_rows_too():
    asked = predict(inputs={"x": [0.5, None], "a_b": ["text", b64(b"\0")], "tags": [["red"], []]})
    assert asked.signature == "predict_rows"
    assert asked.rows == [
        {"x": 0.5, "a_b": "text", "tags": ["red"]},
        {"x": None, "a_b": b64(b"\0"), "tags": []},
    ]
    assert predict(inputs={"x": [1]}, signature_name="transform").signature == "transform"


def test_a_signature_of_one_column_needs_no_names():
    one = Interface({"predict_rows": {"x": FLOAT}}, {"x": False}, "regression")
    for document in ({"instances": [1.5, 2]}, {"inputs": [1.5, 2]}, {"inputs": {"x": [1.5, 2]}}):
        asked = predict(one, signature_name="predict_rows", **document)
        assert asked.rows == [{"x": 1.5}, {"x": 2}]


def test_text_and_bytes_are_serialized_examples():
    for given_ in (b64(b"\xff\0"), b64_less(b"\xff\0")):
        for document in (
            {"instances": [given_, "text"]},
            {"instances": [{"examples": given_}, {"examples": "text"}]},
            {"inputs": [given_, "text"]},
            {"inputs": {"examples": [given_, "text"]}},
        ):
            for named in ({}, {"signature_name": "serving_default"}):
                asked = predict(**document, **named)
                assert asked.rows is None
                assert asked.signature == "serving_default"
                assert asked.arrays["examples"].tolist() == [b"\xff\0", b"text"]


def test_a_column_may_be_called_examples():
    columns = {"examples": STRING}
    signatures = {"serving_default": columns, "predict_rows": columns}
    interface = Interface(signatures, {"examples": False}, "binary")
    row = {"examples": "text"}
    assert predict(interface, instances=[row]).rows == [row]
    asked = predict(interface, instances=[row], signature_name="serving_default")
    assert asked.arrays["examples"].tolist() == [b"text"]


SENSORS = [  # the example of TensorFlow Serving's documentation
    {"tag": "foo", "signal": [1, 2, 3, 4, 5], "sensor": [[1, 2], [3, 4]]},
    {"tag": "bar", "signal": [3, 4, 1, 2, 5], "sensor": [[4, 5], [6, 8]]},
]


def test_named_tensors_have_the_types_of_their_signature():
    columns = {name: [one[name] for one in SENSORS] for name in SENSORS[0]}
    for document in ({"instances": SENSORS}, {"inputs": columns}):
        arrays = predict(signature_name="sensors", **document).arrays
        assert arrays["tag"].tolist() == [b"foo", b"bar"]
        assert (arrays["signal"].dtype, arrays["signal"].shape) == (np.float32, (2, 5))
        assert (arrays["sensor"].dtype, arrays["sensor"].shape) == (np.int64, (2, 2, 2))
        assert arrays["sensor"].tolist() == columns["sensor"]


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ({}, 'has neither of "instances" and "inputs"'),
        ({"instances": [1], "inputs": [1]}, 'has both of "instances" and "inputs"'),
        ({"instances": []}, "instances is a list of 0; expected a list of at least one"),
        ({"instances": None}, "instances is null; expected a list"),
        ({"instances": {"x": 1}}, "instances is an object of 1 fields; expected a list"),
        ({"instances": [ROW, 5]}, "instances[1] is 5; expected an object of raw fields"),
        ({"instances": [ROW] * 101}, "has 101 instances; expected at most 100"),
        ({"inputs": ["text"] * 101}, "has 101 instances; expected at most 100"),
        ({"inputs": {"x": [1] * 101}}, "has 101 instances; expected at most 100"),
        ({"instances": [ROW], "signature_name": 5}, "signature_name is 5; expected text"),
        (
            {"instances": [ROW], "signature_name": "sensor\n"},
            'signature_name is "sensor\\n"; the signatures are predict_rows, sensors, serving_',
        ),
        ({"instances": [ROW], "signature_name": "__saved_model_init_op"}, "the signatures are"),
        ({"instances": [5]}, 'input "examples" is 5; expected text, or {"b64": ...} (string)'),
        ({"instances": ["a", ROW]}, 'input "examples" is an object of 4 fields; expected text'),
        ({"instances": ["a", ["b"]]}, 'input "examples" is a list of 1; expected text'),
        ({"instances": [["b"], "a"]}, '"a" stands where others are lists of 1'),
        ({"instances": [b64(b"")], "signature_name": "transform"}, None),
        ({"instances": [5], "signature_name": "transform"}, "instances[0] is 5; expected an obj"),
        ({"instances": [{"b64": "a"}]}, 'input "examples" is an object of 1 fields; expected'),
        ({"instances": [{"b64": "é==="}]}, 'input "examples" is an object of 1 fields; expected'),
        ({"instances": [5], "signature_name": "sensors"}, "instances[0] is 5; expected an object"),
        (
            {"instances": [SENSORS[0], {"tag": "foo"}], "signature_name": "sensors"},
            "instances[1] is an object of 1 fields; expected an object of tag, signal, sensor",
        ),
        ({"inputs": [1], "signature_name": "sensors"}, "inputs is a list of 1; expected an obj"),
        (
            {"inputs": {"tag": ["a"]}, "signature_name": "sensors"},
            "inputs is an object of 1 fields; expected an object of tag, signal, sensor",
        ),
        ({"inputs": {}}, "inputs is an empty object; expected at least one column"),
        ({"inputs": {"x": 1}}, 'inputs["x"] is 1; expected a list, one a row'),
        ({"inputs": {"x": []}}, "inputs has no rows"),
        ({"inputs": {"x": [1], "n": [1, 2]}}, 'inputs["x"] has 1 rows, but inputs["n"] has 2'),
        ({"inputs": 5, "signature_name": "predict_rows"}, "inputs is 5; expected an object of x,"),
    ],
)
def test_what_cannot_be_asked_is_refused(document, line):
    if line is None:
        assert predict(**document).rows == [b64(b"")]
    else:
        assert line in refusal(predict, **document)


# Tensors

WRONG = {
    types_pb2.DT_FLOAT: ["1.5", True, None, 1e39, -(2**200), {"b64": "AA=="}, [1.0]],
    types_pb2.DT_DOUBLE: ["1.5", False, None],
    types_pb2.DT_INT64: [1.5, 1.0, "1", True, None, 2**63, -(2**63) - 1, 1e30, math.nan],
    types_pb2.DT_INT32: [2**31, 1.0],
    types_pb2.DT_UINT8: [256, -1],
    types_pb2.DT_BOOL: [1, 0.0, "true", None],
    types_pb2.DT_STRING: [1, 1.5, True, None, {}, {"b64": 1}, {"b64": "AA", "c": ""}, {"b64": "?"}],
}


@pytest.mark.parametrize(("dtype", "value"), [(d, v) for d, vs in WRONG.items() for v in vs])
def test_a_value_of_another_type_is_refused(dtype, value):
    line = refusal(read_tensor, [0 if dtype != 7 else "", value], dtype, "signal")
    assert line.startswith(('input "signal" is ', 'input "signal": '))
    assert "expected" in line


def test_what_lies_at_the_edges_is_taken():
    largest = float(np.finfo(np.float32).max)
    assert read_tensor([largest, 2**24 + 1, 1, -0.0], 1, "x").tolist() == [largest, 2**24, 1, 0]
    assert np.isnan(read_tensor(math.nan, 1, "x"))
    assert read_tensor([2**63 - 1, -(2**63)], 9, "x").tolist() == [2**63 - 1, -(2**63)]
    assert read_tensor([2**64 - 1], types_pb2.DT_UINT64, "x").tolist() == [2**64 - 1]
    assert read_tensor([[], []], 1, "x").shape == (2, 0)
    assert read_tensor("é", 7, "x")[()] == "é".encode()


def test_lists_that_are_not_alike_are_refused():
    for uneven in ([[1], [1, 2]], [[1], 1], [1, [1]], [[[1]], [1]]):
        assert "expected" in refusal(read_tensor, uneven, 1, "signal")


def test_a_type_without_a_form_in_json_is_not_done():
    with pytest.raises(ServingError, match='input "x" is DT_COMPLEX64: JSON has no form') as caught:
        read_tensor([1], types_pb2.DT_COMPLEX64, "x")
    assert caught.value.code is Code.UNIMPLEMENTED
    with pytest.raises(ServingError, match='output "x" is complex64') as caught:
        writable("x", np.zeros(1, np.complex64))
    assert caught.value.code is Code.UNIMPLEMENTED


SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)
NUMBERS = {1: np.float32, 2: np.float64, 3: np.int32, 4: np.uint8, 9: np.int64, 10: np.bool_}


@given(
    st.sampled_from(list(NUMBERS)).flatmap(
        lambda d: st.tuples(st.just(d), hnp.arrays(NUMBERS[d], SHAPES))
    )
)
def test_numbers_come_back_as_they_went(case):
    dtype, array = case
    # By Python's own json, as a client reads it.
    again = json.loads(dumps(writable("x", array)))
    back = read_tensor(again, dtype, "x")
    shape = array.shape[: array.shape.index(0) + 1] if 0 in array.shape else array.shape
    assert (back.dtype, back.shape) == (array.dtype, shape)
    np.testing.assert_array_equal(back, array.reshape(shape))
    assert np.signbit(back).tolist() == np.signbit(array.reshape(shape)).tolist() or (
        np.isnan(array).any() or array.dtype.kind != "f"
    )


@given(
    st.lists(
        st.lists(
            st.binary(max_size=4) | st.text(max_size=3).map(str.encode), min_size=2, max_size=2
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(["image", "image_bytes"]),
)
def test_text_and_bytes_come_back_as_they_went(values, name):
    array = np.array(values, object)
    again = json.loads(dumps(writable(name, array)))
    assert read_tensor(again, 7, name).tolist() == values
    for row in again:
        assert all(type(v) is dict for v in row) or name == "image"


VALUES = (
    st.none()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(max_size=5)
    | st.booleans()
)
FIELDS = st.dictionaries(st.text(max_size=4), VALUES | st.lists(VALUES, max_size=3), min_size=1)


@given(st.lists(FIELDS.filter(lambda row: set(row) != {"b64"}), min_size=1, max_size=5))
def test_rows_come_as_they_are_written(rows):
    assert predict(instances=rows, signature_name="predict_rows").rows == rows


@given(st.lists(st.fixed_dictionaries({"x": VALUES, "n": VALUES}), min_size=1, max_size=5))
def test_columns_are_the_same_rows(rows):
    columns = {name: [row[name] for row in rows] for name in ("x", "n")}
    assert predict(inputs=columns).rows == predict(instances=rows).rows


@given(
    st.recursive(
        VALUES,
        lambda v: (
            st.lists(v, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["instances", "inputs", "signature_name", "examples", "context", "b64", "x"]
                ),
                v,
                max_size=4,
            )
        ),
        max_leaves=20,
    )
)
def test_whatever_is_asked_is_read_or_refused(document):
    body = orjson.dumps(document)
    with contextlib.suppress(ServingError):
        read_predict(read_document(body, LIMITS), INTERFACE, LIMITS)
    with contextlib.suppress(ServingError):
        read_examples(read_document(body, LIMITS), INTERFACE, LIMITS, "classify")


def test_a_refusal_shows_little_of_a_large_value():
    assert shown("x" * 1000) == '"' + "x" * 59 + "..."
    assert shown([1] * 1000) == "a list of 1000"
    assert len(shown(float("1" * 300))) < 70


# Classify and regress


def test_examples_are_rows():
    document = {
        "signature_name": "serving_default",
        "context": {"n": 3},
        "examples": [
            {"x": [0.5], "a b": ["text"], "tags": "red", "other": [1, 2]},
            {"x": 0.5, "a_b": [], "tags": ["red", "blue"]},
            {"tags": None},
        ],
    }
    asked = read_examples(document, INTERFACE, LIMITS, "classify", Target(deadline=1.0))
    assert asked.rows == [
        {"n": 3, "x": 0.5, "a b": "text", "tags": ["red"], "other": [1, 2]},
        {"n": 3, "x": 0.5, "a_b": None, "tags": ["red", "blue"]},
        {"n": 3, "tags": None},
    ]
    assert (asked.signature, asked.method, asked.deadline) == ("predict_rows", "classify", 1.0)
    assert document["context"] == {"n": 3}


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ({}, "examples is null; expected a list of at least one"),
        ({"examples": []}, "examples is a list of 0"),
        ({"examples": {"x": 1}}, "examples is an object of 1 fields; expected a list"),
        ({"examples": [{}, [1]]}, "examples[1] is a list of 1; expected an object of features"),
        ({"examples": [{}], "context": [1]}, "context is a list of 1; expected an object"),
        (
            {"examples": [{"x": 1}], "context": {"x": 1}},
            'examples[0] has "x", and so has the context',
        ),
        ({"examples": [{"x": [1, 2]}]}, 'examples[0]["x"] is a list of 2; expected one value'),
        ({"examples": [{}] * 101}, "has 101 instances; expected at most 100"),
        (
            {"examples": [{}], "signature_name": "transform"},
            'signature_name is "transform"; leave it out for :regress',
        ),
    ],
)
def test_examples_that_are_none_are_refused(document, line):
    assert line in refusal(read_examples, document, INTERFACE, LIMITS, "regress")


def test_a_task_has_its_method():
    document = {"examples": [ROW]}
    for task, method, other in (
        ("regression", "classify", "regress"),
        ("multiclass", "regress", "classify"),
    ):
        interface = Interface(INTERFACE.inputs, INTERFACE.lists, task)
        line = refusal(read_examples, document, interface, LIMITS, method)
        assert line == f"the model's task is {task}, so there is no :{method}; use :{other}"
        assert read_examples(document, interface, LIMITS, other).rows == [ROW]


# Answers


def answer(rows, **outputs):
    return Answer({k: np.asarray(v) for k, v in outputs.items()}, rows, 1, "predict_rows")


def test_a_single_output_has_no_name():
    one = answer(3, prediction=np.array([0.2, 1, 9e6], np.float32))
    assert write_predictions(one, columnar=False) == b'{"predictions":[0.2,1.0,9000000.0]}'
    assert write_predictions(one, columnar=True) == b'{"outputs":[0.2,1.0,9000000.0]}'


def test_several_outputs_are_objects():
    several = answer(
        2,
        prediction=np.array([[0.2, 0.8], [0.5, np.nan]], np.float32),
        classes=np.array([[b"low", b"high"]] * 2, object),
    )
    assert write_predictions(several, columnar=False) == (
        b'{"predictions":[{"prediction":[0.2,0.8],"classes":["low","high"]},'
        b'{"prediction":[0.5,NaN],"classes":["low","high"]}]}'
    )
    assert json.loads(write_predictions(several, columnar=True))["outputs"]["classes"] == [
        ["low", "high"],
        ["low", "high"],
    ]


def test_numbers_that_json_has_not_are_words():
    values = np.array([np.nan, np.inf, -np.inf, 0.1], np.float32)
    body = write_predictions(answer(4, p=values), columnar=False)
    assert body == b'{"predictions":[NaN,Infinity,-Infinity,0.1]}'
    assert write_values(answer(4, prediction=values)) == body.replace(b"predictions", b"results")


def test_a_ragged_feature_is_one_list_a_row():
    ragged = answer(
        3,
        **{
            "x": np.array([1, 2, 3]),
            "tags/values": np.array([5, 6, 7]),
            "tags/row_lengths": np.array([2, 0, 1]),
            "near/values": np.array([0.5]),
        }
        | {"near/row_lengths": np.array([0, 1, 0])},
    )
    assert json.loads(write_predictions(ragged, columnar=False))["predictions"] == [
        {"x": 1, "tags": [5, 6], "near": []},
        {"x": 2, "tags": [], "near": [0.5]},
        {"x": 3, "tags": [7], "near": []},
    ]
    assert json.loads(write_predictions(ragged, columnar=True))["outputs"] == {
        "x": [1, 2, 3],
        "tags/values": [5, 6, 7],
        "tags/row_lengths": [2, 0, 1],
        "near/values": [0.5],
        "near/row_lengths": [0, 1, 0],
    }


def test_an_output_that_is_not_one_value_a_row_wants_columns():
    for name, value in (("mean", 0.5), ("two", [1, 2]), ("a/values", [1, 2])):
        odd = answer(3, x=[1, 2, 3], **{name: value})
        assert f'output "{name}" is not one value a row' in refusal(write_predictions, odd, False)
        assert json.loads(write_predictions(odd, columnar=True))["outputs"][name] == value


def test_each_class_has_its_score():
    body = write_classes(answer(2, prediction=np.array([0.75, np.nan], np.float32)), ("no", "yes"))
    assert body == b'{"results":[[["no",0.25],["yes",0.75]],[["no",NaN],["yes",NaN]]]}'
    many = answer(
        1, prediction=np.array([[0.5, 0.25, 0.25]], np.float32), classes=[[b"", b"", b""]]
    )
    assert json.loads(write_classes(many, ("a", "b", "c"))) == {
        "results": [[["a", 0.5], ["b", 0.25], ["c", 0.25]]]
    }


def test_columns_are_asked_for_by_columns():
    assert is_columnar({"inputs": None})
    assert not is_columnar({"instances": []})
