import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from skewless.transforms.join_rows import latest_at


def definition(left_rows, right_rows, tolerance):
    """What a join as of a time is: the last of the right rows that may be taken."""
    for key, at in left_rows:
        best = None
        for n, (other, time) in enumerate(right_rows):
            usable = None not in (key, at, other, time) and key == other and time <= at
            if usable and (tolerance is None or at - time <= tolerance):
                best = n if best is None or time >= right_rows[best][1] else best
        yield best


CELL = st.tuples(st.none() | st.sampled_from(["EWR", "JFK"]), st.none() | st.integers(-4, 4))


@settings(max_examples=50, deadline=None)
@given(
    left_rows=st.lists(CELL, max_size=30),
    right_rows=st.lists(CELL.filter(lambda row: None not in row), max_size=30),
    tolerance=st.none() | st.integers(0, 3),
)
def test_latest_is_what_its_definition_says(left_rows, right_rows, tolerance):
    found = latest_at(
        [pa.array([key for key, _ in left_rows], pa.string())],
        pa.array([at for _, at in left_rows], pa.int64()),
        [pa.array([key for key, _ in right_rows], pa.string())],
        pa.array([time for _, time in right_rows], pa.int64()),
        tolerance,
    )
    expected = definition(left_rows, right_rows, tolerance)
    assert found.tolist() == [-1 if n is None else n for n in expected]
