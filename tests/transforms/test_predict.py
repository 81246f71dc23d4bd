import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that, equal_to

from skewless.errors import RecipeError
from skewless.transforms.predict import Predict, predict_batch


def load_doubler(column: str):
    def predict(batch: pa.RecordBatch):
        values = batch.column(column).to_numpy()
        return {"double": values * 2, "pair": np.stack([values, -values], axis=1)}

    return predict


def test_outputs_become_columns_beside_the_rows() -> None:
    rows = pa.RecordBatch.from_pydict({"a": [1, 2]})
    with beam.Pipeline("FnApiRunner") as begin:
        predicted = begin | beam.Create([rows]) | Predict(load_doubler, ("a",))
        expected = [{"a": 1, "double": 2, "pair": [1, -1]}, {"a": 2, "double": 4, "pair": [2, -2]}]
        assert_that(predicted | beam.FlatMap(lambda b: b.to_pylist()), equal_to(expected))


def test_a_column_of_the_name_of_an_output_is_not_covered_up() -> None:
    rows = pa.RecordBatch.from_pydict({"a": [1], "double": [0]})
    with pytest.raises(RecipeError, match="prefix="):
        predict_batch(rows, load_doubler, ("a",))
    named = predict_batch(rows, load_doubler, ("a",), prefix="model_")
    assert named.schema.names == ["a", "double", "model_double", "model_pair"]
