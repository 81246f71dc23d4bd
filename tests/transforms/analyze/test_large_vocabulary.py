import dataclasses

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow_transform as tft

from skewless.schema import make_feature, make_schema
from skewless.transforms.analyze import Analyze
from skewless.transforms.apply import ApplyTransform
from tests.benchmarks.scaling_bytes import Counting

ROWS, BATCH = 200_000, 50_000
SCHEMA = make_schema(
    [
        make_feature("id", pa.string(), required=True),
        make_feature("x", pa.float32(), required=True),
    ]
)


def fn(inputs):
    # Quantiles of so many distinct values need a second pass, which no token is to join.
    return {
        "id": tft.compute_and_apply_vocabulary(inputs["id"], num_oov_buckets=1),
        "x": tft.bucketize(inputs["x"], 10),
    }


def batch(start, rows):
    ids = [f"{number:012d}" for number in range(start, start + rows)]
    x = np.random.default_rng(start).normal(size=rows).astype(np.float32)
    return pa.record_batch({"id": ids, "x": x})


@dataclasses.dataclass(eq=False)
class Fit(beam.PTransform):
    folder: str

    def expand(self, begin):
        starts = begin | beam.Create(range(0, ROWS, BATCH))
        rows = starts | beam.Map(batch, BATCH).with_output_types(pa.RecordBatch)
        return rows | "Analyze" >> Analyze(SCHEMA, fn, f"{self.folder}/graph", f"{self.folder}/tmp")


@dataclasses.dataclass(eq=False)
class Apply(beam.PTransform):
    folder: str

    def expand(self, begin):
        rows = begin | beam.Create([0]) | beam.Map(batch, 10).with_output_types(pa.RecordBatch)
        return (rows | ApplyTransform(f"{self.folder}/graph")).rows


def test_a_vocabulary_is_a_side_input_once_and_then_a_file(tmp_path):
    counting = Counting()
    counting.run(Fit(str(tmp_path)))
    counting.run(Apply(str(tmp_path)))
    fit, apply = counting.ran
    size = ROWS * len("000000000000")
    whole = [name for name, passed in fit.side_inputs.items() if passed.size > size / 100]
    assert whole == ["Fit/Analyze/Fit/RunPhases/Phase0Pass0/Advance"]
    assert size < fit.side_inputs[whole[0]].size < 3 * size
    assert fit.side_inputs["Fit/Analyze/Fit/RunPhases/Phase0Pass1/Accumulate"].size > 0
    assert not apply.side_inputs
    assert apply.shape.size < 100_000
    assert sum(passed.size for passed in apply.shuffled.values()) < size / 100
    lines = (tmp_path / "graph" / "transform_fn" / "assets").glob("*")
    assert [path.read_text().count("\n") for path in lines] == [ROWS]
