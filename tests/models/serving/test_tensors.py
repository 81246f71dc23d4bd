import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorflow.core.framework import tensor_pb2, types_pb2

from skewless.models.serving.requests import Code, ServingError
from skewless.models.serving.tensors import array_of, arrays_of, tensor_of

shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6)
DTYPES = ["bool", "float32", "float64"] + [
    f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)
]
numbers = st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, shapes))
texts = hnp.arrays(object, shapes, elements=st.binary(max_size=5))


def same(one, two):
    assert one.dtype == two.dtype
    assert one.shape == two.shape
    if one.dtype == object:
        assert one.tolist() == two.tolist()
    else:
        assert one.tobytes() == two.tobytes()


@given(st.one_of(numbers, texts))
def test_to_the_last_bit_as_tensorflow_reads_and_writes_them(array):
    made = tf.make_tensor_proto(array, tf.string if array.dtype == object else None, array.shape)
    if array.size:  # of no values at all TensorFlow makes tensors of other types
        same(array_of("x", made), array)
    same(array_of("x", tensor_of(array)), array)
    same(np.asarray(tf.make_ndarray(tensor_of(array))), array)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_last_value_stands_for_those_that_follow(dtype):
    listed = tensor_of(np.array([1, 0, 1], dtype))
    listed.tensor_shape.dim[0].size = 2
    listed.tensor_shape.dim.add(size=3)
    same(array_of("x", listed), np.array([[1, 0, 1], [1, 1, 1]], dtype))
    same(array_of("x", listed), tf.make_ndarray(listed))
    text = tf.make_tensor_proto([b"a", b"b\0"])
    text.tensor_shape.dim[0].size = 4
    assert array_of("x", text).tolist() == [b"a", b"b\0", b"b\0", b"b\0"]


def test_a_scalar_and_nothing():
    same(array_of("x", tensor_of(np.array(2.5, np.float32))), np.array(2.5, np.float32))
    same(array_of("x", tensor_of(np.empty((3, 0), np.int64))), np.empty((3, 0), np.int64))


def test_what_a_request_may_hold_is_for_all_its_tensors():
    tensors = {name: tensor_of(np.zeros(100, np.int64)) for name in "abc"}
    assert arrays_of(tensors, 2400).keys() == set("abc")
    with pytest.raises(ServingError, match='input "c" is of shape \\[100\\], of 8 bytes a value'):
        arrays_of(tensors, 2399)


def made(dtype=types_pb2.DT_FLOAT, shape=(2,), content=b"", values=(), unknown=False):
    tensor = tensor_pb2.TensorProto(dtype=dtype, tensor_content=content, float_val=values)
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_shape.unknown_rank = unknown
    return tensor


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (made(dtype=types_pb2.DT_COMPLEX64), "DT_COMPLEX64; expected one of DT_FLOAT"),
        (made(dtype=9999), "is of type 9999"),
        (made(shape=(-1,)), r"is of shape \[-1\]"),
        (made(shape=(2, -(2**63))), r"is of shape \[2, -9223372036854775808\]"),
        (made(unknown=True), "is of unknown rank"),
        (made(shape=(2**40, 2**40)), "expected all inputs of a request to have fewer values"),
        (made(shape=(2**62, 0)), "expected all inputs of a request to have fewer values"),
        (made(shape=(2**23,), values=[1]), "expected all inputs of a request to have fewer"),
        (made(dtype=types_pb2.DT_STRING, shape=(2**22,)), "of 8 bytes a value"),
        (made(shape=(1,) * 9, values=[1]), "has 9 dimensions; expected at most 8"),
        (made(shape=(2**63 - 1,) * 100_000), "has 100000 dimensions"),
        (made(shape=(2**21,), values=[]), "lists 0 values"),
        (made(content=b"abc"), r"has 3 bytes, which do not fill the shape \[2\]"),
        (made(values=[1, 2, 3]), "lists 3 values, but its shape"),
        (made(dtype=types_pb2.DT_STRING, content=b"abc"), "has 3 bytes"),
    ],
)
def test_what_does_not_fill_its_shape_is_refused(tensor, message):
    with pytest.raises(ServingError, match=message) as error:
        array_of("x", tensor)
    assert error.value.code is Code.INVALID_ARGUMENT
    assert 'input "x"' in str(error.value)
