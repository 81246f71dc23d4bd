"""The whole pipeline: stages, shards, and what is left to tf.Transform."""

from __future__ import annotations

import logging

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
import tensorflow_transform as tft
from apache_beam.pipeline import PipelineVisitor

from skewless.errors import RecipeError
from skewless.schema import make_feature, make_schema
from skewless.transforms.analyze import Analyze
from tests.transforms.analyze.cases_fallback import approximate, own_analyzer
from tests.transforms.analyze.cases_rows import SCHEMA, ordinary
from tests.transforms.analyze.cases_run import analyze, in_parts, look, values


def scale_all(inputs):
    return {name: tft.scale_to_z_score(value) for name, value in inputs.items()}


class _Counter(PipelineVisitor):
    def __init__(self):
        self.steps = 0

    def visit_transform(self, transform_node):
        self.steps += 1


def steps_with(columns, folder):
    """Return how many steps the pipeline for so many columns has; it is not run."""
    names = [f"x{number}" for number in range(columns)]
    schema = make_schema([make_feature(name, pa.float32(), required=True) for name in names])
    pipeline = beam.Pipeline("FnApiRunner")
    rows = pipeline | beam.Create([pa.RecordBatch.from_pydict({name: [1.0] for name in names})])
    rows | Analyze(schema, scale_all, str(folder / "graph"), str(folder), engine="fused")
    counter = _Counter()
    pipeline.visit(counter)
    return counter.steps


def test_features_do_not_add_steps(tmp_path):
    assert steps_with(100, tmp_path) == steps_with(5, tmp_path)


@pytest.mark.integration
def test_two_thousand_features_do_not_add_steps(tmp_path):
    assert steps_with(2_000, tmp_path) == steps_with(5, tmp_path)


def one_of_each(inputs):
    """What needs a second pass, a table of an earlier phase, keys, and files."""
    x, s = inputs["x"], inputs["s"]
    ids = tft.compute_and_apply_vocabulary(s, vocab_filename="ids", weights=inputs["w"])
    return {
        "z": tft.scale_to_z_score(x),
        "bucket": tft.bucketize(x, 100),
        "share": tft.scale_to_0_1(ids),
        "by_key": tft.bucketize_per_key(x, inputs["key"], 3),
    }


def test_shards_do_not_change_a_bit_of_the_graph(tmp_path):
    rows = ordinary()
    one = look(analyze(tmp_path / "one", one_of_each, [rows], "fused"))
    many = look(analyze(tmp_path / "many", one_of_each, in_parts(rows), "fused"))
    assert one.assets == many.assets
    assert one.metadata == many.metadata
    assert one.operations == many.operations
    assert one.constants == many.constants
    for name, feature in one.features.items():
        assert values(feature).tobytes() == values(many.features[name]).tobytes(), name


@pytest.mark.parametrize(
    ("function", "says"),
    [(own_analyzer, "it does not know PTransform"), (approximate, "it does not know ")],
)
def test_what_the_fused_engine_does_not_know_it_refuses(function, says, tmp_path):
    with pytest.raises(RecipeError, match=says) as error:
        analyze(tmp_path, function, [], "fused")
    assert 'Analyze(engine="fused")' in str(error.value)
    assert "\n" not in str(error.value)


def test_what_the_fused_engine_does_not_know_tf_transform_does(tmp_path, caplog):
    fit = Analyze(SCHEMA, own_analyzer, str(tmp_path / "graph"), str(tmp_path / "tmp"))
    with caplog.at_level(logging.WARNING, "skewless"), beam.Pipeline("FnApiRunner") as begin:
        begin | beam.Create([ordinary(50)]) | fit
    (line,) = [r.getMessage() for r in caplog.records if r.name.startswith("skewless")]
    assert line == fit.fallback
    assert line.startswith("analysis by tft_beam.AnalyzeDataset: it does not know PTransform")
    assert "\n" not in line
    # The longest text has 3 bytes, and there are some of 1.
    share = look(tmp_path / "graph").features["share"]
    assert set(np.unique(share)) == {np.float32(n / 3) for n in (1, 2, 3)}


@pytest.mark.integration
def test_approximate_vocabularies_are_tf_transforms(tmp_path):
    ours = look(analyze(tmp_path / "auto", approximate, [ordinary()], "auto"))
    theirs = look(analyze(tmp_path / "tft", approximate, [ordinary()], "tft"))
    assert ours.assets == theirs.assets
    assert ours.features["s"].tolist() == theirs.features["s"].tolist()
