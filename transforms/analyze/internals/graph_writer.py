"""The transform graph, written by tf.Transform once every constant is known."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft
from tensorflow.python.eager import lift_to_graph, wrap_function
from tensorflow_transform import (
    annotators,
    graph_context,
    impl_helper,
    schema_inference,
    tf2_utils,
)
from tensorflow_transform.saved import saved_transform_io_v2
from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io

from skewless.storage import local_output, local_scratch, path_of
from skewless.transforms.analyze.internals.table_feed import constants, on_this_machine
from skewless.transforms.analyze.internals.traced import Traced, watched_reductions
from skewless.transforms.analyze.plan import Known

__all__ = ["GraphWriter"]


@dataclasses.dataclass(frozen=True)
class GraphWriter:
    """What it takes to write a transform graph once every constant is known; picklable."""

    preprocessing_fn: Callable[..., Any]
    specs: Mapping[str, tf.TypeSpec]
    fingerprint: Any
    asset_map: Mapping[str, str]
    temp_dir: str

    @classmethod
    def of(cls, traced: Traced) -> GraphWriter:
        """Return the writer of a traced function."""
        return cls(
            traced.preprocessing_fn,
            dict(traced.specs),
            traced.fingerprint,
            dict(annotators.get_asset_annotations(traced.graph)),
            traced.temp_dir,
        )

    def write(self, known: Mapping[str, Known], output_dir: str) -> None:
        """Write `transform_fn/` and `transformed_metadata/` as `WriteTransformFn` does."""
        with local_scratch(self.temp_dir) as scratch, local_output(path_of(output_dir)) as local:
            here = on_this_machine(known, self.temp_dir, scratch)
            dataclasses.replace(self, temp_dir=scratch)._write(here, str(local))

    def _write(self, known: Mapping[str, Known], output_dir: str) -> None:
        # In the same place as the result, where renaming is what publishes it.
        scratch = f"{output_dir}/transform_tmp-{uuid.uuid4().hex}"
        graph, metadata = f"{scratch}/graph", f"{scratch}/metadata"
        with watched_reductions():
            schema = self._write_graph(constants(known), graph)
        metadata_io.write_metadata(dataset_metadata.DatasetMetadata(schema), metadata)
        if self.asset_map:
            with tf.io.gfile.GFile(f"{metadata}/{tft.TFTransformOutput.ASSET_MAP}", "w") as file:
                file.write(json.dumps(self.asset_map))
        for made, name in (
            (metadata, tft.TFTransformOutput.TRANSFORMED_METADATA_DIR),
            (graph, tft.TFTransformOutput.TRANSFORM_FN_DIR),
        ):
            target = f"{output_dir}/{name}"
            if tf.io.gfile.exists(target):
                tf.io.gfile.rmtree(target)
            tf.io.gfile.rename(made, target)
        tf.io.gfile.rmtree(scratch)

    def _write_graph(self, constants: Mapping[str, tf.Tensor], path: str) -> Any:
        """Write the graph and return its features' schema.

        As `impl_helper.trace_and_write_v2_saved_model` does it, which traces the function once
        more for what is said of features: the range of a vocabulary, say.
        """
        features: dict[str, Any] = {}

        def remembering(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
            features.update(self.preprocessing_fn(inputs))
            return dict(features)

        # The tables of the graph live as long as the module does.
        module = tf.Module()
        context = graph_context.TFGraphContext(module, self.temp_dir, constants)
        function = impl_helper.get_traced_transform_fn(remembering, self.specs, context, {})
        written = saved_transform_io_v2.write_v2_saved_model(module, function, "transform_fn", path)
        inputs = tf2_utils.get_structured_inputs_from_func_graph(written.graph)
        impl_helper._validate_analyzers_fingerprint(self.fingerprint, written.graph, inputs)
        try:
            said = _annotations(written.graph, features)
        except lift_to_graph.UnliftableError:
            # Something is said of a feature that depends on the rows: tf.Transform gives it one.
            function, again = self.preprocessing_fn, (self.temp_dir, constants)
            return impl_helper._trace_and_get_metadata(written, inputs, function, *again).schema
        return schema_inference.infer_feature_schema_v2(
            written.structured_outputs, lambda: said, evaluate_schema_overrides=True
        )


def _annotations(graph: tf.Graph, features: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what `schema_inference.get_traced_metadata_fn` finds out, from the graph itself.

    Raises:
        UnliftableError: If any of it depends on the inputs.
    """
    names = schema_inference._get_tensor_value_to_key_map(features)
    collections = (
        (
            schema_inference._TF_METADATA_TENSOR_COLLECTION,
            [
                schema_inference._TF_METADATA_TENSOR_MIN_COLLECTION,
                schema_inference._TF_METADATA_TENSOR_MAX_COLLECTION,
            ],
        ),
        (
            schema_inference._TF_METADATA_EXTRA_ANNOTATION,
            [
                schema_inference._TF_METADATA_EXTRA_ANNOTATION_TYPE_URL,
                schema_inference._TF_METADATA_EXTRA_ANNOTATION_PROTO,
            ],
            schema_inference._TF_METADATA_EXTRA_ANNOTATION_GLOBAL,
        ),
    )
    found: dict[str, Any] = {}
    with graph.as_default():
        for collection in collections:
            found |= schema_inference._get_schema_overrides(graph, names, *collection)
        sparse = schema_inference._get_sparse_output_annotations_v2(graph, names)
        found[schema_inference._METADATA_SPARSE_OUTPUT_OVERRIDES_FIELD] = [sparse]
        found = tf.nest.map_structure(tf.convert_to_tensor, found)
    if not tf.nest.flatten(found):
        return found
    wrapped = wrap_function.WrappedFunction(
        graph, wrap_function.VariableHolder(share_variables=True)
    )
    return wrapped.prune([], found)()  # type: ignore[no-any-return]
