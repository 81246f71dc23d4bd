import pyarrow as pa
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from skewless.transforms.apply import apply_transform
from skewless.transforms.rows import with_origin


def picky(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Fail, as a graph does, if any row of the batch is negative."""
    values = batch.column("a").to_pylist()
    if any(value < 0 for value in values):
        raise tf.errors.InvalidArgumentError(None, None, "a is negative\n[[{{node x}}]]")
    return pa.RecordBatch.from_pydict({"f": pa.array([v * 2 for v in values], pa.int64())})


@given(st.lists(st.integers(-3, 10), max_size=40))
def test_exactly_the_bad_rows_are_rejected_and_order_is_kept(values: list[int]) -> None:
    rows = pa.RecordBatch.from_pydict({"a": pa.array(values, pa.int64())})
    batch = with_origin(rows, "f.csv", pa.array(range(len(values)), pa.int64()))
    (kept, features), rejected = apply_transform(picky, batch)
    good = [value for value in values if value >= 0]
    assert kept.column("a").to_pylist() == good
    assert features.column("f").to_pylist() == [value * 2 for value in good]
    assert [row.offset for row in rejected] == [i for i, v in enumerate(values) if v < 0]
    assert all(row.reason.endswith("this row: a is negative") for row in rejected)
