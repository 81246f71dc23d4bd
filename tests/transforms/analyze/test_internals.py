"""The contract with tf.Transform: each of its internals that the fused analysis leans on."""

import inspect
import pickle
from unittest import mock

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from tensorflow_transform import (
    analyzer_nodes,
    analyzers,
    annotators,
    graph_tools,
    impl_helper,
    nodes,
    schema_inference,
    tf_utils,
)
from tensorflow_transform.beam import analyzer_impls
from tensorflow_transform.saved import saved_transform_io_v2

from skewless.errors import RecipeError
from skewless.schema import make_feature, make_schema
from skewless.transforms.analyze.analyze import Analyze
from skewless.transforms.analyze.exportable import trace
from skewless.transforms.analyze.internals import phases as translated
from skewless.transforms.analyze.internals import traced as tracing
from skewless.transforms.analyze.internals.phases import phases
from skewless.transforms.analyze.internals.traced import Unsupported, check_version

SCHEMA = make_schema(
    [
        make_feature("x", pa.float32(), required=True),
        make_feature("o", pa.float32(), required=False),
        make_feature("s", pa.string(), required=True),
    ]
)


def parameters(function):
    return list(inspect.signature(function).parameters)


def test_functions_are_called_as_they_were_written():
    assert parameters(impl_helper.trace_preprocessing_function) == [
        "preprocessing_fn",
        "input_specs",
        "use_tf_compat_v1",
        "base_temp_dir",
    ]
    assert parameters(impl_helper.trace_and_write_v2_saved_model) == [
        "saved_model_dir",
        "preprocessing_fn",
        "input_signature",
        "base_temp_dir",
        "baseline_analyzers_fingerprint",
        "tensor_replacement_map",
        "output_keys_to_name_map",
        "save_options",
    ]
    assert parameters(impl_helper.get_traced_transform_fn) == [
        "preprocessing_fn",
        "input_signature",
        "tf_graph_context",
        "output_keys_to_name_map",
    ]
    assert parameters(impl_helper._validate_analyzers_fingerprint) == [
        "baseline_analyzers_fingerprint",
        "graph",
        "structured_inputs",
    ]
    assert parameters(impl_helper._trace_and_get_metadata) == [
        "concrete_transform_fn",
        "structured_inputs",
        "preprocessing_fn",
        "base_temp_dir",
        "tensor_replacement_map",
    ]
    assert parameters(saved_transform_io_v2.write_v2_saved_model)[:4] == [
        "module",
        "tf_function",
        "name",
        "saved_model_dir",
    ]
    assert parameters(schema_inference.infer_feature_schema_v2) == [
        "features",
        "concrete_metadata_fn",
        "evaluate_schema_overrides",
    ]
    assert parameters(graph_tools.InitializableGraphAnalyzer)[:3] == [
        "graph",
        "input_signature",
        "replaced_tensors_ready",
    ]
    assert parameters(graph_tools.get_analyzers_fingerprint) == ["graph", "structured_inputs"]
    assert parameters(annotators.get_asset_annotations) == ["graph"]
    assert parameters(tf_utils.fetch_vocabulary_reserved_tokens) == ["graph", "name"]
    assert parameters(tf_utils.reduce_batch_count_mean_and_var)[:2] == ["x", "reduce_instance_dims"]
    assert parameters(tf_utils.reduce_batch_count_l_moments)[:2] == ["x", "reduce_instance_dims"]
    assert parameters(tf_utils.reduce_batch_count_mean_and_var_per_key)[:2] == ["x", "key"]
    assert parameters(tf_utils._validate_and_get_dense_value_key_inputs) == ["x", "key"]
    assert parameters(analyzer_impls._join_boundary_rows) == ["boundary_matrix"]
    assert {"apply_transform_model", "finalize"} <= set(dir(saved_transform_io_v2.SavedModelLoader))


def test_every_operation_of_tf_transform_is_known_or_left_to_it():
    left = {
        # What only tf.Transform's own cache and its packing of combiners make.
        analyzer_nodes.AddKey,
        analyzer_nodes.DecodeCache,
        analyzer_nodes.EncodeCache,
        analyzer_nodes.ExtractPackedCombineMergeOutputs,
        analyzer_nodes.FlattenLists,
        analyzer_nodes.InstrumentDatasetCache,
        analyzer_nodes.PackedCombineAccumulate,
        analyzer_nodes.PackedCombineMerge,
        # A Beam PTransform of the user's.
        analyzer_nodes.PTransform,
    }
    every = {
        kind
        for _, kind in inspect.getmembers(analyzer_nodes, inspect.isclass)
        if issubclass(kind, nodes.OperationDef)
        and kind not in (nodes.OperationDef, analyzer_nodes.AnalyzerDef)
    }
    assert every == left | set(translated._OPERATIONS)


def test_every_combiner_of_tf_transform_is_known():
    every = {
        name
        for name, kind in inspect.getmembers(analyzers, inspect.isclass)
        if issubclass(kind, analyzer_nodes.Combiner)
    }
    assert every == {
        "CovarianceCombiner",
        "NumPyCombiner",
        "PCACombiner",
        "QuantilesCombiner",
        "WeightedMeanAndVarCombiner",
        "_LMomentsCombiner",
    }


def test_attributes_of_its_combiners_are_what_they_were():
    sketch = analyzers.QuantilesCombiner(4, 0.1, np.float32, output_shape=[1, 3])
    assert (sketch._num_quantiles, sketch._num_features) == (4, 1)
    assert (sketch._has_weights, sketch._include_max_and_min) == (False, False)
    total = analyzers.NumPyCombiner(np.sum, 0, [np.float32], [()])
    assert (total._fn, total._output_dtypes, total._output_shapes) == (np.sum, [np.float32], [()])
    mean = analyzers.WeightedMeanAndVarCombiner(np.float32, (2,))
    assert (mean._output_numpy_dtype, mean._output_shape) == (np.float32, (2,))
    components = analyzers.PCACombiner((3, 2), 2, np.float64)
    assert (components._output_dim, components._numpy_dtype) == (2, np.float64)


def all_kinds(inputs):
    x, o = inputs["x"], inputs["o"]
    wide = tf.stack([x, x * 2], axis=1)
    return {
        "mean": x - tft.mean(x),
        "sparse": x - tft.mean(o),
        "wide": wide - tft.mean(wide, reduce_instance_dims=False),
        "sum": x - tft.sum(x),
        "tukey": tft.scale_to_gaussian(x),
        "by_key": tft.scale_to_z_score_per_key(x, inputs["s"]),
        "again": tft.scale_to_0_1(x - tft.min(x)),
    }


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    traced = trace(all_kinds, SCHEMA, str(tmp_path_factory.mktemp("trace")))
    return phases(traced, SCHEMA.SerializeToString())


def test_reductions_in_the_graph_are_replaced_by_exact_ones(planned):
    assert len(planned) == 2
    kinds = [type(fold.combiner).__name__ for fold in planned[0].folds]
    assert sorted(kinds) == ["LMoments", *["MeanAndVariance"] * 4, "PerKey", "Sum", "Wrapped"]
    assert [type(fold.combiner).__name__ for fold in planned[1].folds] == ["Wrapped"]
    assert planned[1].columns == {"x"}


def test_a_plan_can_be_sent_to_workers(planned):
    again = pickle.loads(pickle.dumps(planned[0].feed))
    batch = pa.record_batch({"x": pa.array([1.0, 2.0], pa.float32()), "s": ["a", "b"]})
    fold = next(fold for fold in planned[0].folds if type(fold.combiner).__name__ == "Sum")
    arrays = again.load({}, frozenset(fold.arrays))(batch)
    assert arrays[fold.arrays[0]].tolist() == [1.0, 2.0]


def said_of_vocabularies(inputs):
    number = tft.compute_and_apply_vocabulary(inputs["s"], num_oov_buckets=2)
    return {"number": number, "again": number + 0, "x": inputs["x"]}


def said_of_shapes(inputs):
    sparse = tf.sparse.from_dense(tf.expand_dims(inputs["x"], 1))
    tft.experimental.annotate_sparse_output_shape(sparse, tf.constant([1], tf.int64))
    true = tf.sparse.from_dense(tf.expand_dims(inputs["x"], 1))
    tft.experimental.annotate_true_sparse_output(true)
    schema_inference.annotate("of/all", tf.constant("all"))
    x = inputs["x"] * 2
    schema_inference.annotate("of/x", tf.constant("x"), x)
    return {"sparse": sparse, "true": true, "x": x}


def said_of_rows(inputs):
    sparse = tf.sparse.from_dense(tf.stack([inputs["x"]] * 2, axis=1))
    tft.experimental.annotate_sparse_output_shape(sparse, tf.shape(sparse, tf.int64)[1:])
    return {"sparse": sparse}


@pytest.mark.parametrize(
    ("fn", "traces_again"),
    [(said_of_vocabularies, False), (said_of_shapes, False), (said_of_rows, True)],
)
def test_what_is_said_of_features_is_what_tf_transform_says(
    fn, traces_again, tmp_path, monkeypatch
):
    rows = pa.record_batch(
        {"x": pa.array([1.0, 2.0], pa.float32()), "o": pa.nulls(2, pa.float32()), "s": ["a", "b"]}
    )
    if fn is said_of_shapes:
        monkeypatch.setattr(schema_inference.common, "IS_ANNOTATIONS_PB_AVAILABLE", True)
    watched = mock.Mock(side_effect=impl_helper._trace_and_get_metadata)
    monkeypatch.setattr(impl_helper, "_trace_and_get_metadata", watched)
    found = {}
    for engine in ("fused", "tft"):
        graph = str(tmp_path / engine)
        with beam.Pipeline("FnApiRunner") as begin:
            analyze = Analyze(SCHEMA, fn, graph, str(tmp_path / "tmp"), engine=engine)
            _ = begin | beam.Create([rows], reshuffle=False) | analyze
        if engine == "fused":
            assert watched.called == traces_again
        found[engine] = tft.TFTransformOutput(graph).transformed_metadata.schema
    assert found["fused"] == found["tft"]


@beam.ptransform_fn
def _count(batches):
    return batches | beam.combiners.Count.Globally() | beam.Map(np.int64)


def of_its_own(inputs):
    (rows,) = tft.experimental.ptransform_analyzer([inputs["x"]], _count(), [tf.int64], [[]])
    return {"x": inputs["x"] + tf.cast(rows, tf.float32)}


def test_what_is_not_known_is_said_in_one_line(tmp_path):
    assert "PTransform" in _why(of_its_own, tmp_path)
    with pytest.raises(RecipeError, match=r"not for this function: .*PTransform"):
        _apply(of_its_own, tmp_path, "fused")


def test_an_unknown_version_is_left_to_tf_transform(tmp_path, monkeypatch):
    check_version()
    with pytest.raises(Unsupported, match=r"2\.0\.0"):
        check_version("2.0.0")
    monkeypatch.setattr(tracing, "_VERSION", "0.1.")
    assert "is not known to it" in _why(all_kinds, tmp_path)


def _why(fn, folder):
    """Return why `auto` became `tft`."""
    return _apply(fn, folder, "auto").fallback


def _apply(fn, folder, engine):
    analyze = Analyze(SCHEMA, fn, str(folder / "graph"), str(folder / "tmp"), engine=engine)
    beam.Pipeline("FnApiRunner") | beam.Create([]) | analyze
    return analyze
