import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorflow.core.framework import tensor_pb2, types_pb2

from skewless.models.serving.requests import Code, ServingError
from skewless.models.serving.tensors import array_of, tensor_of

shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6)
numbers = st.sampled_from([np.float32, np.float64, np.int32, np.int64, np.bool_]).flatmap(
    lambda dtype: hnp.arrays(dtype, shapes)
)
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


def test_the_last_value_stands_for_those_that_follow():
    tensor = tf.make_tensor_proto([1.0])
    tensor.tensor_shape.dim[0].size = 4
    tensor.float_val[:] = [7.0, 8.0]
    assert array_of("x", tensor).tolist() == [7, 8, 8, 8]


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
        (made(unknown=True), "expected one that is known"),
        (made(shape=(2**40, 2**40)), "values; expected fewer"),
        (made(shape=(2**27,), values=[]), "lists 0 values"),
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
