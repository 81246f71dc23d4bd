from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skewless.transforms.sources.database_sql import KeyRange, cut_points, ranges


@given(
    keys=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=30),
    parts=st.integers(1, 9),
)
def test_ranges_have_each_key_once(keys: list[int], parts: int) -> None:
    found = ranges(cut_points(min(keys), max(keys), parts, "number"))
    assert len(found) <= parts + 1

    def contains(part: KeyRange, key: int) -> bool:
        low = part.low is None or int(part.low) <= key
        return low and (part.high is None or key < int(part.high)) and not part.nulls

    for key in keys:
        assert sum(contains(part, key) for part in found) == 1
