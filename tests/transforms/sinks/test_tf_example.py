import struct

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from tfx_bsl.coders import example_coder

from skewless.errors import RecipeError
from skewless.transforms.sinks import tf_example
from skewless.transforms.sinks.tf_example import each_example_chunk, encode_examples

EDGES = [0, 1, -1, 127, 128, 16_383, 16_384, 2**31, 2**62, 2**63 - 1, -(2**63)]
INTS = st.one_of(st.sampled_from(EDGES), st.integers(0, 300), st.integers(-(2**63), 2**63 - 1))
BITS = st.one_of(
    st.sampled_from([0x7FC00000, 0x7F800001, 0xFFC12345, 0x80000000, 1, 0x7F800000]),
    st.integers(0, 2**32 - 1),
)
BYTES = st.one_of(st.binary(max_size=4), st.binary(min_size=126, max_size=130))


def floats_of(bits: list[int]) -> pa.Array:
    return pa.Array.from_buffers(
        pa.float32(), len(bits), [None, pa.py_buffer(np.array(bits, np.uint32))]
    )


KINDS = {
    "float_list": (BITS, floats_of),
    "int64_list": (INTS, lambda values: pa.array(values, pa.int64())),
    "bytes_list": (BYTES, lambda values: pa.array(values, pa.large_binary())),
}


@st.composite
def columns(draw: st.DrawFn, rows: int) -> tuple[str, list[list | None], pa.Array]:
    """Return the kind of a column, what each row holds (None for null), and the column."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    values, array_of = KINDS[kind]
    width = draw(st.integers(0, 3))
    # All rows alike is the common case, and its code is another one.
    row = st.lists(values, min_size=width, max_size=draw(st.sampled_from([width, 5])))
    held = draw(st.lists(st.none() | row if draw(st.booleans()) else row, min_size=rows,
                         max_size=rows))  # fmt: skip
    flat = array_of([value for row in held for value in row or ()])
    plain = draw(st.booleans()) and all(row is None or len(row) == 1 for row in held)
    if plain:
        indices = np.cumsum([row is not None for row in held]) - 1
        taken = pa.array(indices, pa.int64(), mask=np.array([row is None for row in held], bool))
        return kind, held, flat.take(taken)
    edges = np.cumsum([0, *(len(row or ()) for row in held)])
    mask = pa.array([row is None for row in held], pa.bool_())
    if draw(st.booleans()):
        lists = pa.LargeListArray.from_arrays(pa.array(edges, pa.int64()), flat, mask=mask)
    else:
        lists = pa.ListArray.from_arrays(pa.array(edges, pa.int32()), flat, mask=mask)
    return kind, held, lists


def content(feature: tf.train.Feature) -> tuple[str | None, list]:
    """Return the kind of a feature and its values, floats as their bits."""
    kind = feature.WhichOneof("kind")
    values = list(getattr(feature, kind).value) if kind else []
    if kind == "float_list":
        # Not what Python makes of them: it may change the bits of a NaN.
        packed = feature.float_list.SerializeToString()[-4 * len(values) :] if values else b""
        values = list(struct.unpack(f"<{len(values)}I", packed))
    return kind, values


@given(st.data())
def test_protobuf_reads_what_was_there(data: st.DataObject) -> None:
    rows = data.draw(st.integers(0, 8))
    names = data.draw(st.lists(st.text(max_size=3), unique=True, max_size=4))
    made = {name: data.draw(columns(rows)) for name in names}
    batch = pa.RecordBatch.from_arrays([column for *_, column in made.values()], names=names)
    start = data.draw(st.integers(0, rows)) if names else 0
    records = encode_examples(batch.slice(start))
    assert records.type == pa.large_binary()
    assert len(records) == (rows - start if names else 0)
    for row, record in enumerate(records.to_pylist(), start):
        example = tf.train.Example.FromString(record)
        found = {name: content(feature) for name, feature in example.features.feature.items()}
        assert found == {
            name: (None, []) if held[row] is None else (kind, held[row])
            for name, (kind, held, _) in made.items()
        }
        assert len(record) == example.ByteSize()


@pytest.mark.parametrize("length", [127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_lengths_of_every_size(length: int) -> None:
    values = [b"x" * length, b"y" * (length // 2), b""]
    batch = pa.record_batch({"a": pa.array([[0.5]] * 3, pa.list_(pa.float32())), "b": values})
    for record, value in zip(encode_examples(batch), values, strict=True):
        example = tf.train.Example.FromString(record.as_py())
        assert example.features.feature["b"].bytes_list.value == [value]
        assert example.SerializeToString(deterministic=True) == record.as_py()


def test_the_same_content_as_tfx_bsl() -> None:
    batch = pa.record_batch(
        {
            "f": pa.array([[1.0], None, [], [2.0, 3.0]], pa.large_list(pa.float32())),
            "i": pa.array([[-1], None, [], [2, 1 << 62]], pa.large_list(pa.int64())),
            "b": pa.array([[b"a"], None, [], [b"", b"x"]], pa.large_list(pa.large_binary())),
        }
    )
    theirs = example_coder.RecordBatchToExamplesEncoder().encode(batch)
    ours = encode_examples(batch).to_pylist()
    assert [*map(tf.train.Example.FromString, ours)] == [*map(tf.train.Example.FromString, theirs)]


def test_the_order_of_columns_is_of_no_matter() -> None:
    batch = pa.record_batch({name: pa.array([1, 300]) for name in ("b", "a", "é", "c" * 200)})
    turned = batch.select(batch.schema.names[::-1])
    assert encode_examples(turned).equals(encode_examples(batch))
    assert encode_examples(batch)[1].as_py().index(b"\x01a") < 20


def test_nulls_hide_what_lies_under_them() -> None:
    lists = pa.ListArray.from_arrays(
        pa.array([0, 2, 3], pa.int32()),
        pa.array([7, 8, 9]),
        mask=pa.array([True, False]),
    )
    batch = pa.record_batch({"a": lists})
    assert encode_examples(batch).equals(encode_examples(pa.record_batch({"a": [None, [9]]})))


def test_chunks_are_the_whole_cut_by_rows_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    batch = pa.record_batch({"a": rng.integers(-5, 500, 100), "b": [b"x" * 50] * 100})
    monkeypatch.setattr(tf_example, "_CHUNK_ROWS", 30)
    chunks = list(each_example_chunk(batch))
    assert [len(chunk) for chunk in chunks] == [30, 30, 30, 10]
    monkeypatch.setattr(tf_example, "_CHUNK_BYTES", 1_000)
    small = list(each_example_chunk(batch))
    assert max(map(len, small)) < 10
    assert pa.chunked_array(chunks).equals(pa.chunked_array(small))
    assert list(each_example_chunk(batch.slice(0, 0))) == []


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (pa.array([1.5]), "type double; expected float32"),
        (pa.array([[1]], pa.list_(pa.int32())), "type int32"),
        (pa.array([[[1]]]), "type list<"),
        (pa.array([None]), "type null"),
        (pa.array([[1, None]]), "a null in it"),
    ],
)
def test_what_cannot_be_a_feature_is_named(column: pa.Array, said: str) -> None:
    with pytest.raises(RecipeError, match=f'column "some".*{said}'):
        encode_examples(pa.record_batch({"some": column}))


def test_two_columns_of_one_name() -> None:
    one = pa.array([1])
    with pytest.raises(RecipeError, match="the same name"):
        encode_examples(pa.RecordBatch.from_arrays([one, one], names=["a", "a"]))
