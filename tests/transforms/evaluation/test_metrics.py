import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from skewless.transforms.evaluation.metrics import on_grid


@given(hnp.arrays(np.float32, st.integers(0, 30), elements=st.floats(0, 1, width=32)))
def test_probabilities_on_the_grid_sum_alike_in_any_order(values):
    grid = on_grid(values)
    assert np.all(abs(grid - values) <= 2.0**-25)
    assert sum(grid.tolist()) == sum(sorted(grid.tolist())) == sum(grid[::-1].tolist())
