import apache_beam as beam
import pyarrow as pa
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from apache_beam.testing.util import assert_that, equal_to

from skewless.errors import DataError, RecipeError
from skewless.schema import make_feature, make_schema
from skewless.transforms.analyze_and_transform import AnalyzeAndTransform
from skewless.transforms.rows import with_origin

SCHEMA = make_schema(
    [
        make_feature("x", pa.float32(), required=True),
        make_feature("s", pa.string(), required=False),
    ]
)


def features(inputs):
    with tf.control_dependencies([tf.debugging.assert_less(inputs["x"], 100.0)]):
        x = tf.identity(inputs["x"])
    return {
        "x": x - tft.min(x),
        "s": tft.compute_and_apply_vocabulary(inputs["s"], vocab_filename="s"),
    }


def rows(values, names):
    batch = pa.record_batch(
        {"unused": names, "s": names, "x": pa.array(values, pa.float32())},
    )
    return [with_origin(batch, "f.csv", pa.array(range(len(values))))]


def transform(folder, **more):
    return AnalyzeAndTransform(SCHEMA, features, str(folder / "g"), str(folder / "tmp"), **more)


@pytest.mark.parametrize("engine", ["fused", "tft"])
def test_all_splits_go_through_the_graph_of_the_training_rows(tmp_path, engine):
    with beam.Pipeline("FnApiRunner") as begin:
        train = begin | "Train" >> beam.Create(rows([3, 1, 2], ["b", "a", "b"]))
        held = begin | "Eval" >> beam.Create(rows([7, 101, 0], ["a", "b", "new"]))
        made = {"train": train, "eval": held} | transform(tmp_path, engine=engine)
        for split, expected in {
            "train": [{"x": [2.0], "s": [0]}, {"x": [0.0], "s": [1]}, {"x": [1.0], "s": [0]}],
            "eval": [{"x": [6.0], "s": [1]}, {"x": [-1.0], "s": [-1]}],
        }.items():
            found = made[split].rows | f"{split}Rows" >> beam.FlatMap(pa.RecordBatch.to_pylist)
            assert_that(found, equal_to(expected), label=split)
        rejected = made["eval"].rejected | beam.Flatten()
        origin = rejected | beam.Map(lambda row: (row.file, row.offset, row.step))
        assert_that(origin, equal_to([("f.csv", 1, "ApplyTransform")]), label="rejected")
    assert list((tmp_path / "tmp").iterdir()) == []
    written = tft.TFTransformOutput(str(tmp_path / "g"))
    assert written.vocabulary_by_name("s") == [b"b", b"a"]


def test_a_split_that_cannot_be_used_is_named(tmp_path):
    with pytest.raises(RecipeError, match="got the splits eval; expected train"):
        {"eval": beam.Pipeline() | beam.Create([])} | transform(tmp_path)
    with pytest.raises(RecipeError, match=r'engine="fast"\): expected one of auto, fused, tft'):
        transform(tmp_path, engine="fast")


def test_a_missing_value_that_is_required_is_named(tmp_path):
    with (
        pytest.raises(DataError, match='"x" is required by the schema, but 1 of 2 rows'),
        beam.Pipeline("FnApiRunner") as begin,
    ):
        _ = {"train": begin | beam.Create(rows([1, None], ["a", "b"]))} | transform(tmp_path)
