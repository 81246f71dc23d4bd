"""All that the fused analysis knows of tf.Transform's internals.

tf.Transform traces a `preprocessing_fn` into a graph in which each analyzer's result is a
placeholder, and keeps beside it a small graph of operations that says how each result is
computed. Here that becomes phases of folds and steps, and the constants found become a
transform graph, written by tf.Transform itself. What is not known here is `Unsupported`, and
then `tft_beam.AnalyzeDataset` does the whole analysis instead.

Its batch reductions (mean and variance of a batch, say) add in float32, which makes results
depend on how rows fall into batches. While the function is traced they are watched, so
that the exact combiners can be given what went into them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import pathlib
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import tensorflow as tf
import tensorflow_transform as tft
from tensorflow.python.eager import lift_to_graph, wrap_function
from tensorflow_transform import (
    analyzer_nodes,
    analyzers,
    annotators,
    graph_context,
    graph_tools,
    impl_helper,
    nodes,
    schema_inference,
    tf2_utils,
    tf_utils,
)
from tensorflow_transform.beam import analyzer_impls
from tensorflow_transform.saved import saved_transform_io_v2
from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io

from skewless.storage import is_remote, local_output, local_scratch, path_of
from skewless.transforms.analyze.combiner import Array, Combiner, PerKey, Wrapped
from skewless.transforms.analyze.feed import Derived, GraphFeed, needed_columns, on_batches
from skewless.transforms.analyze.l_moments import LMoments
from skewless.transforms.analyze.moments import Covariance, MeanAndVariance, Pca, Sum
from skewless.transforms.analyze.plan import Binding, Feed, Fold, Known, Phase, Reference, Step
from skewless.transforms.analyze.quantiles import Quantiles
from skewless.transforms.analyze.vocabulary import MutualInformation, TokenCounts, TokenWeights
from skewless.transforms.analyze.vocabulary_file import (
    Arm,
    Vocabulary,
    lines,
    order,
    prune,
    size,
    write_vocabulary,
)

__all__ = ["GraphWriter", "Traced", "Unsupported", "check_version", "phases"]

_VERSION = "1.21."

# What adds up a batch inside of the graph, where the exact combiners want the values.
_WATCHED = (
    "reduce_batch_count_mean_and_var",
    "reduce_batch_count_mean_and_var_per_key",
    "reduce_batch_count_l_moments",
    "reduce_batch_weighted_counts",
    "reduce_batch_weighted_cooccurrences",
)


class Unsupported(Exception):  # noqa: N818 - it is an answer, not an error
    """The fused analysis cannot do this; the message says why, in a few words."""


def check_version(version: str = tft.__version__) -> None:
    """Raise `Unsupported` if this is not the tf.Transform whose internals are known."""
    if not version.startswith(_VERSION):
        raise Unsupported(f"tf.Transform {version} is not known to it, only {_VERSION}*")


class Traced:
    """A `preprocessing_fn` as tf.Transform traced it.

    Args:
        preprocessing_fn: The function.
        specs: The type of each raw tensor.
        temp_dir: Where tf.Transform may leave placeholders of vocabularies.
        called: What to call instead of the function, this time.

    Attributes:
        graph: The graph, with a placeholder for each analyzer's result.
        inputs: Its raw tensors by column.
        outputs: Its features.
        reduced: For the name of a tensor that a batch reduction made, what went into it.
    """

    def __init__(
        self,
        preprocessing_fn: Callable[..., Any],
        specs: Mapping[str, tf.TypeSpec],
        temp_dir: str,
        called: Callable[..., Any] | None = None,
    ) -> None:
        self.preprocessing_fn = preprocessing_fn
        self.specs = specs
        self.temp_dir = temp_dir
        with _watched_reductions() as self.reduced, local_scratch(temp_dir) as scratch:
            self.graph, self.inputs, self.outputs = impl_helper.trace_preprocessing_function(
                called or preprocessing_fn,
                specs,
                use_tf_compat_v1=False,
                base_temp_dir=scratch,
            )

    @property
    def has_analyzers(self) -> bool:
        """Whether anything has to be found in the rows."""
        return bool(self.graph.get_collection(analyzer_nodes.TENSOR_REPLACEMENTS))

    @functools.cached_property
    def fingerprint(self) -> Any:
        """By which tf.Transform knows that another trace has the same analyzers."""
        with _watched_reductions():
            return graph_tools.get_analyzers_fingerprint(self.graph, self.inputs)


# Functions of another module are replaced for the while, for every thread.
_tracing = threading.RLock()


@contextlib.contextmanager
def _watched_reductions() -> Iterator[dict[str, tuple[Any, ...]]]:
    """Trace with reductions watched, and without what makes tracing wide tables slow.

    Every trace of a function must be made under it, or its fingerprints differ.
    """
    reduced: dict[str, tuple[Any, ...]] = {}

    def watch(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            results = function(*args, **kwargs)
            for result in results:
                if isinstance(result, tf.Tensor):
                    reduced.setdefault(result.name, (*args, *kwargs.values()))
            return results

        return watched

    with _tracing, contextlib.ExitStack() as stack:
        for name in _WATCHED:
            original = getattr(tf_utils, name)
            if name == "reduce_batch_count_mean_and_var":
                original = functools.partial(_stand_in, original)
            stack.enter_context(mock.patch.object(tf_utils, name, watch(original)))
        keys = _SourceKeys()
        stack.enter_context(mock.patch.object(graph_tools, "_retrieve_source_keys", keys))
        yield reduced


def _stand_in(original: Callable[..., Any], x: Any, reduce_instance_dims: bool) -> Any:
    """Return tensors of the shape of count, mean and variance that depend on the same.

    Nobody runs them here, and in a wide table they are most of what there is to trace.
    """
    if reduce_instance_dims:
        return (tf.reduce_sum(tf_utils.get_values(x)),) * 3
    if isinstance(x, tf.Tensor):
        return (tf.reduce_sum(x, axis=0),) * 3
    return original(x, reduce_instance_dims)


class _SourceKeys:
    """`graph_tools._retrieve_source_keys`, but not comparing every column with every other."""

    def __init__(self) -> None:
        self._inputs: Any = None
        self._columns: dict[Any, str] = {}

    def __call__(self, tensors: Sequence[tf.Tensor], inputs: Mapping[str, Any]) -> set[str]:
        if self._inputs is not inputs:
            self._inputs = inputs
            self._columns = {
                tensor.ref(): column
                for column, value in inputs.items()
                for tensor in tf.nest.flatten(value, expand_composites=True)
            }
        sources = graph_tools.retrieve_sources(
            [tensor.op for tensor in tensors], ignore_control_dependencies=True
        )
        refs = (source.ref() for source in sources)
        return {self._columns[ref] for ref in refs if ref in self._columns}


def phases(traced: Traced, schema: bytes) -> tuple[Phase, ...]:
    """Return the phases that compute every analyzer of a traced function.

    Args:
        traced: The function.
        schema: The raw schema, serialized.

    Raises:
        Unsupported: If an analyzer is not known here.
    """
    sinks = list(traced.graph.get_collection(analyzer_nodes.TENSOR_REPLACEMENTS))
    ready = {tf_utils.hashable_tensor_or_op(sink.tensor): False for sink in sinks}
    found: list[Phase] = []
    while sinks:
        levels = graph_tools.InitializableGraphAnalyzer(
            traced.graph, traced.inputs, list(ready.items())
        )
        now: list[Any] = []
        later: list[Any] = []
        for sink in sinks:
            sources = graph_tools.SourcedTensorsVisitor()
            nodes.Traverser(sources).visit_value_node(sink.future)
            (now if all(map(levels.ready_to_run, sources.sourced_tensors)) else later).append(sink)
        if not now:
            raise Unsupported("its analyzers wait for each other")
        found.append(_Planner(traced, schema).phase(now))
        for sink in now:
            ready[tf_utils.hashable_tensor_or_op(sink.tensor)] = True
        sinks = later
    return tuple(found)


class _Planner(nodes.Visitor):  # type: ignore[misc]
    """Makes folds and steps of the operations from rows to results, for one phase."""

    def __init__(self, traced: Traced, schema: bytes) -> None:
        self._traced = traced
        self._schema = schema
        self._arrays: dict[str, Derived] = {}
        self._folds: list[Fold] = []
        self._steps: list[Step] = []
        self._components = {
            column: tf.nest.flatten(value, expand_composites=True)
            for column, value in traced.inputs.items()
        }
        self._columns = {
            tensor.op.name: column
            for column, tensors in self._components.items()
            for tensor in tensors
        }
        every = traced.graph.get_collection(analyzer_nodes.TENSOR_REPLACEMENTS)
        self._results = {sink.tensor.op.name for sink in every}

    def phase(self, sinks: Sequence[Any]) -> Phase:
        """Return the phase that computes what `sinks` stand for."""
        traverser = nodes.Traverser(self)
        bindings = tuple(
            Binding(
                str(sink.tensor.name),
                sink.tensor.dtype.as_datatype_enum,
                traverser.visit_value_node(sink.future),
            )
            for sink in sinks
        )
        columns = frozenset[str]().union(*(array.columns for array in self._arrays.values()))
        return Phase(columns, self._feed(), tuple(self._folds), tuple(self._steps), bindings)

    def validate_value(self, value: Any) -> None:
        """Accept every value: tf.Transform's traverser asks."""

    def visit(self, operation: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return what stands for each output of an operation of tf.Transform's."""
        translate = _OPERATIONS.get(type(operation))
        if translate is None:
            label = getattr(operation, "label", "")
            raise Unsupported(f"it does not know {type(operation).__name__} {label}".rstrip())
        return translate(self, operation, *inputs)

    # What follows answers for one kind of operation each: first for those whose outputs are
    # tensors, folds, or the same thing again.

    def _source(self, operation: Any) -> tuple[Any, ...]:
        return (tuple(operation.tensors),)

    def _same(self, _: Any, value: Any) -> tuple[Any, ...]:
        return (value,)

    def _split(self, operation: Any, folded: Reference) -> tuple[Any, ...]:
        return tuple(Reference(folded.name, at) for at in range(operation.num_outputs))

    def _combine(self, operation: Any, tensors: tuple[tf.Tensor, ...]) -> tuple[Any, ...]:
        combiner, arrays = self._exact(operation.combiner, tensors)
        return self._fold(operation, combiner, arrays)

    def _combine_per_key(self, operation: Any, tensors: tuple[tf.Tensor, ...]) -> tuple[Any, ...]:
        combiner, arrays, by_row = self._exact_per_key(operation.combiner, tensors)
        return self._fold(operation, PerKey(combiner, by_row=by_row), arrays)

    def _fold(self, operation: Any, combiner: Combiner, arrays: Sequence[str]) -> tuple[Any, ...]:
        self._folds.append(Fold(operation.label, combiner, tuple(arrays)))
        return (Reference(operation.label, 0),)

    def _exact(
        self, combiner: Any, tensors: tuple[tf.Tensor, ...]
    ) -> tuple[Combiner, Sequence[str]]:
        """Return the combiner to use instead of tf.Transform's, and the arrays it takes."""
        if isinstance(combiner, analyzers.QuantilesCombiner):
            return _quantiles(combiner), [self._array(None, tensor) for tensor in tensors]
        if isinstance(combiner, analyzers.PCACombiner):
            columns, dtype = combiner._output_shape[0], combiner._numpy_dtype
            pca = Pca(columns, combiner._output_dim, dtype)
            return pca, [self._array(None, *tensors)]
        if isinstance(combiner, analyzers.CovarianceCombiner):
            columns, dtype = combiner._output_shape[0], combiner._numpy_dtype
            return Covariance(columns, dtype), [self._array(None, *tensors)]
        if isinstance(combiner, analyzers._LMomentsCombiner):
            values = self._values(*self._traced.reduced[tensors[4].name])
            tukey = functools.partial(_tukey_parameters, combiner)
            shape = combiner._output_shape
            return LMoments(combiner._output_numpy_dtype, shape, tukey), [values]
        if isinstance(combiner, analyzers.WeightedMeanAndVarCombiner):
            values = self._values(*self._traced.reduced[tensors[1].name])
            dtype, shape = combiner._output_numpy_dtype, combiner._output_shape
            return MeanAndVariance(dtype, tuple(shape)), [values]
        if isinstance(combiner, analyzers.NumPyCombiner) and _adds_floats(combiner):
            # `tft.sum` adds up the batch in the graph, by one operation.
            (total,) = tensors
            if total.op.type == "SparseReduceSum":
                array = self._array(_dense_zeros, *total.op.inputs[:3])
            elif total.op.type == "Sum":
                array = self._array(None, total.op.inputs[0])
            else:
                raise Unsupported(f"a sum is made by {total.op.type}")
            return Sum(combiner._output_dtypes[0], combiner._output_shapes[0]), [array]
        return _wrapped(combiner), [self._array(None, tensor) for tensor in tensors]

    def _exact_per_key(
        self, combiner: Any, tensors: tuple[tf.Tensor, ...]
    ) -> tuple[Combiner, Sequence[str], bool]:
        """Return the same for the rows of one key, and whether it takes them one by one."""
        if isinstance(combiner, analyzers.QuantilesCombiner):
            return _quantiles(combiner), [self._array(None, tensor) for tensor in tensors], False
        if isinstance(combiner, analyzers.WeightedMeanAndVarCombiner):
            values, keys, *_ = self._traced.reduced[tensors[2].name]
            arrays = [self._packed(function, values, keys) for function in (_dense_key, _dense_x)]
            dtype, shape = combiner._output_numpy_dtype, combiner._output_shape
            return MeanAndVariance(dtype, tuple(shape)), arrays, False
        return _wrapped(combiner), [self._array(None, tensor) for tensor in tensors], True

    def _values(self, values: Any, reduce_instance_dims: bool) -> str:
        """Return the array of what went into a reduction, NaN where a sparse one has none."""
        if reduce_instance_dims:
            return self._array(None, tf_utils.get_values(values))
        if isinstance(values, tf.Tensor):
            return self._array(None, values)
        if isinstance(values, tf.SparseTensor):
            return self._array(_dense_nans, values.indices, values.values, values.dense_shape)
        raise Unsupported("it reduces ragged tensors element by element")

    # Then for those that are pure functions of what the folds gave.

    def _step(
        self, operation: Any, function: Callable[..., Any], *inputs: Reference
    ) -> tuple[Any, ...]:
        self._steps.append(Step(operation.label, function, inputs))
        return tuple(Reference(operation.label, at) for at in range(operation.num_outputs))

    def _tokens(self, operation: Any, tensors: tuple[tf.Tensor, ...]) -> tuple[Any, ...]:
        # What to accumulate is said where the accumulators are merged.
        return ((operation.vocab_ordering_type, tensors),)

    def _vocabulary(self, operation: Any, tokens: tuple[int, Any]) -> tuple[Any, ...]:
        ordering, tensors = tokens
        orderings = analyzers._VocabOrderingType
        if ordering == orderings.FREQUENCY:
            arrays = [self._array(of, *tensors) for of in (_unique_tokens, _unique_counts)]
            return self._fold(operation, TokenCounts(), arrays)
        if ordering == orderings.WEIGHTED_FREQUENCY:
            values = self._traced.reduced[tensors[0].name]
            arrays = [self._reduced(of, values) for of in (_weighed_tokens, _token_weights)]
            return self._fold(operation, TokenWeights(), arrays)
        weighted = ordering == orderings.WEIGHTED_MUTUAL_INFORMATION
        if not weighted and ordering != orderings.MUTUAL_INFORMATION:
            raise Unsupported(f"it does not know vocabularies of ordering {ordering}")
        is_text = tensors[0].dtype == tf.string
        information = MutualInformation(
            analyzer_impls._calculate_mutual_information_for_feature_value,
            analyzers.calculate_recommended_min_diff_from_avg,
            tf_utils.GLOBAL_Y_COUNT_SENTINEL_STRING
            if is_text
            else tf_utils.GLOBAL_Y_COUNT_SENTINEL_INT,
            weighted=weighted,
            adjusted=operation.use_adjusted_mutual_info,
            min_diff_from_avg=operation.min_diff_from_avg,
        )
        arrays = [self._array(None, tensor) for tensor in tensors]
        if weighted:
            values = self._traced.reduced[tensors[0].name]
            arrays = [self._reduced(of, values) for of in _LABELLED]
        return self._fold(operation, information, arrays)

    def _prune(self, operation: Any, vocabulary: Reference) -> tuple[Any, ...]:
        arm = Arm(
            operation.top_k, operation.frequency_threshold, operation.informativeness_threshold
        )
        coverage = Arm(
            operation.coverage_top_k,
            operation.coverage_frequency_threshold,
            operation.coverage_informativeness_threshold,
        )
        pruned = functools.partial(
            _pruned,
            arm=arm,
            of_text=operation.input_dtype == tf.string.name,
            key_fn=operation.key_fn,
            coverage=coverage,
        )
        return self._step(operation, pruned, vocabulary)

    def _count_tokens(self, operation: Any, vocabulary: Reference) -> tuple[Any, ...]:
        return self._step(operation, _sized, vocabulary)

    def _write(
        self, operation: Any, vocabulary: Reference, *reserved: Reference
    ) -> tuple[Any, ...]:
        written = functools.partial(
            _written,
            path=f"{self._traced.temp_dir}/vocabularies/{operation.vocab_filename}",
            file_format=operation.file_format,
            of_text=operation.input_dtype == tf.string.name,
            store_frequency=operation.store_frequency,
            shuffle=operation.fingerprint_shuffle,
        )
        return self._step(operation, written, vocabulary, *reserved)

    def _format_keys(self, operation: Any, folded: Reference) -> tuple[Any, ...]:
        dtypes = [info.dtype.as_numpy_dtype for info in operation.output_tensor_infos]
        return self._step(operation, functools.partial(_keys_and_outputs, dtypes), folded)

    def _format_large(self, operation: Any, folded: Reference) -> tuple[Any, ...]:
        return self._step(operation, _keyed_lines, folded)

    def _join_boundaries(self, operation: Any, boundaries: Reference) -> tuple[Any, ...]:
        return self._step(operation, analyzer_impls._join_boundary_rows, boundaries)

    def _reserved(self, operation: Any) -> tuple[Any, ...]:
        tokens = tf_utils.fetch_vocabulary_reserved_tokens(self._traced.graph, operation.name)
        return self._step(operation, functools.partial(_given, [list(tokens)]))

    # The arrays of a batch, and the graph that makes them.

    def _array(self, function: Callable[..., Any] | None, *tensors: tf.Tensor) -> str:
        """Return the name of the array that `function` makes of tensors of the graph."""
        names = tuple(tensor.name for tensor in tensors)
        name = " ".join([_function_name(function), *names])
        if name not in self._arrays:
            columns = {self._columns[at] for at in self._needs(tensors) if at in self._columns}
            self._arrays[name] = Derived(names, frozenset(columns), function)
        return name

    def _packed(self, function: Callable[..., Any], *values: Any) -> str:
        """Return the name of the array that `function` makes of tensors of any kind."""
        specs = tuple(tf.type_spec_from_value(value) for value in values)
        flat = tf.nest.flatten(values, expand_composites=True)
        return self._array(functools.partial(_unpacked, function, specs), *flat)

    def _reduced(self, function: Callable[..., Any], values: tuple[Any, ...]) -> str:
        """Return the array that `function` makes of what went into a reduction."""
        tensors = [value for value in values if not isinstance(value, str | None)]
        given = tuple(value for value in values if isinstance(value, str | None))
        return self._packed(functools.partial(function, given), *tensors)

    def _needs(self, tensors: Sequence[tf.Tensor]) -> dict[str, Any]:
        """Return the operations that tensors depend on, by name."""
        needed: dict[str, Any] = {}
        waiting = [tensor.op for tensor in tensors]
        while waiting:
            operation = waiting.pop()
            if operation.name not in needed:
                needed[operation.name] = operation
                waiting.extend(tensor.op for tensor in operation.inputs)
                waiting.extend(operation.control_inputs)
        return needed

    def _feed(self) -> Feed:
        """Return what makes the arrays of this phase."""
        graph = self._traced.graph
        names = {name for array in self._arrays.values() for name in array.tensors}
        needed = self._needs([graph.get_tensor_by_name(name) for name in sorted(names)])
        placeholders = {name for name, op in needed.items() if op.type == "Placeholder"}
        if placeholders - self._columns.keys():
            # A table, or another resource, which a graph by itself cannot carry.
            return _TableFeed(
                self._traced.preprocessing_fn,
                dict(self._traced.specs),
                self._traced.fingerprint,
                self._schema,
                dict(self._arrays),
                self._traced.temp_dir,
            )
        whole = graph.as_graph_def()
        definition = tf.compat.v1.GraphDef(versions=whole.versions, library=whole.library)
        definition.node.extend(node for node in whole.node if node.name in needed)
        return GraphFeed(
            schema=self._schema,
            graph=definition.SerializeToString(),
            components={
                column: tuple(t.name if t.op.name in needed else "" for t in tensors)
                for column, tensors in self._components.items()
            },
            constants=tuple(sorted(f"{name}:0" for name in needed.keys() & self._results)),
            arrays=dict(self._arrays),
        )


_OPERATIONS: dict[type, Callable[..., tuple[Any, ...]]] = {
    analyzer_nodes.TensorSource: _Planner._source,
    analyzer_nodes.CacheableCombineAccumulate: _Planner._combine,
    analyzer_nodes.CacheableCombineMerge: _Planner._same,
    analyzer_nodes.ExtractCombineMergeOutputs: _Planner._split,
    analyzer_nodes.CacheableCombinePerKeyAccumulate: _Planner._combine_per_key,
    analyzer_nodes.CacheableCombinePerKeyMerge: _Planner._same,
    analyzer_nodes.CacheableCombinePerKeyFormatKeys: _Planner._format_keys,
    analyzer_nodes.CacheableCombinePerKeyFormatLarge: _Planner._format_large,
    analyzer_nodes.ScaleAndFlattenPerKeyBucketBouandaries: _Planner._join_boundaries,
    analyzer_nodes.VocabularyAccumulate: _Planner._tokens,
    analyzer_nodes.VocabularyMerge: _Planner._vocabulary,
    analyzer_nodes.VocabularyPrune: _Planner._prune,
    analyzer_nodes.VocabularyCount: _Planner._count_tokens,
    analyzer_nodes.ExtractVocabularyReservedTokens: _Planner._reserved,
    analyzer_nodes.VocabularyOrderAndWrite: _Planner._write,
}


def _quantiles(combiner: Any) -> Quantiles:
    """Return the exact quantiles that stand for tf.Transform's sketch."""
    return Quantiles(
        combiner._num_quantiles,
        combiner._bucket_numpy_dtype,
        tuple(combiner._output_shape),
        num_features=combiner._num_features,
        has_weights=combiner._has_weights,
        include_max_and_min=combiner._include_max_and_min,
        error=getattr(combiner, "no_values", None),
    )


@dataclasses.dataclass(frozen=True)
class _TableFeed:
    """A phase whose graph looks up vocabularies of earlier ones: tf.Transform writes it."""

    preprocessing_fn: Callable[..., Any]
    specs: Mapping[str, tf.TypeSpec]
    fingerprint: Any
    schema: bytes
    arrays: Mapping[str, Derived]
    temp_dir: str

    def load(
        self, known: Mapping[str, Known], arrays: frozenset[str]
    ) -> Callable[[pa.RecordBatch], dict[str, Array]]:
        """Return the function to the named arrays, with the constants of earlier phases."""
        wanted = {name: self.arrays[name] for name in sorted(arrays)}
        names = sorted({tensor for array in wanted.values() for tensor in array.tensors})
        with local_scratch(self.temp_dir) as scratch, _watched_reductions():
            path = f"{scratch}/graph-{uuid.uuid4().hex}"
            impl_helper.trace_and_write_v2_saved_model(
                path,
                self.preprocessing_fn,
                self.specs,
                scratch,
                self.fingerprint,
                _constants(_on_this_machine(known, self.temp_dir, scratch)),
                {name: name for name in names},
                None,
            )
            # Its tables read their vocabularies here and now.
            loader = saved_transform_io_v2.SavedModelLoader(path)
        schema = needed_columns(self.schema, wanted.values())
        loader.finalize([feature.name for feature in schema.feature], names)
        return on_batches(loader.apply_transform_model, wanted, schema)


def _on_this_machine(
    known: Mapping[str, Known], temp_dir: str, scratch: str
) -> Mapping[str, Known]:
    """Return the constants, vocabularies having been fetched from `temp_dir`."""
    here = dict(known)
    for name, one in known.items():
        if isinstance(one.value, str) and is_remote(temp_dir) and one.value.startswith(temp_dir):
            vocabulary = path_of(one.value)
            local = pathlib.Path(scratch) / "vocabularies" / vocabulary.name
            local.parent.mkdir(exist_ok=True)
            local.write_bytes(vocabulary.read_bytes())
            here[name] = one._replace(value=str(local))
    return here


def _constants(known: Mapping[str, Known]) -> dict[str, tf.Tensor]:
    return {name: tf.constant(value, dtype) for name, (value, dtype) in known.items()}


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
            here = _on_this_machine(known, self.temp_dir, scratch)
            dataclasses.replace(self, temp_dir=scratch)._write(here, str(local))

    def _write(self, known: Mapping[str, Known], output_dir: str) -> None:
        # In the same place as the result, where renaming is what publishes it.
        scratch = f"{output_dir}/transform_tmp-{uuid.uuid4().hex}"
        graph, metadata = f"{scratch}/graph", f"{scratch}/metadata"
        with _watched_reductions():
            schema = self._write_graph(_constants(known), graph)
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


def _function_name(function: Callable[..., Any] | None) -> str:
    """Return a name for what is done with tensors, the same in every process."""
    if isinstance(function, functools.partial):
        given = (_function_name(a) if callable(a) else repr(a) for a in function.args)
        return f"{_function_name(function.func)}({', '.join(given)})"
    return function.__name__ if function is not None else ""


def _unpacked(
    function: Callable[..., Any], specs: Sequence[tf.TypeSpec], *flat: tf.Tensor
) -> tf.Tensor:
    """Call `function` with the tensors, sparse and ragged ones put together again."""
    return function(*tf.nest.pack_sequence_as(specs, flat, expand_composites=True))


def _unique_tokens(tokens: tf.Tensor) -> tf.Tensor:
    return tf.unique_with_counts(tokens, tf.int64).y


def _unique_counts(tokens: tf.Tensor) -> tf.Tensor:
    return tf.unique_with_counts(tokens, tf.int64).count


def _weighed_tokens(given: tuple[Any, ...], tokens: Any, weights: tf.Tensor) -> tf.Tensor:
    return _tokens_and_weights(given, tokens, weights)[0]


def _token_weights(given: tuple[Any, ...], tokens: Any, weights: tf.Tensor) -> tf.Tensor:
    return _tokens_and_weights(given, tokens, weights)[1]


def _tokens_and_weights(
    given: tuple[Any, ...], tokens: Any, weights: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return what `reduce_batch_weighted_counts` adds up."""
    (regex,) = given
    flat = tf.reshape(tf_utils.get_values(tokens), [-1])
    keep = tf_utils._make_regex_filter_fn(flat, regex)
    return keep(flat), keep(tf.reshape(weights, [-1]))


def _labelled_part(
    part: int, given: tuple[Any, ...], tokens: Any, labels: Any, weights: tf.Tensor
) -> tf.Tensor:
    """Return one of the five arrays of `MutualInformation`.

    They are what `reduce_batch_weighted_cooccurrences` adds up: first for each token, then
    for each row, as `extend_reduced_batch_with_y_counts` does.
    """
    (regex,) = given
    if isinstance(labels, tf.SparseTensor):
        labels = tf.sparse.to_dense(tf.cast(labels, tf.int64), default_value=-1)
    rows = tf.range(tf.shape(labels, tf.int64)[0])
    tokens, rows, of_tokens = tf_utils._preprocess_tensors_for_cooccurences(
        tokens, rows, weights, regex
    )
    of_rows = tf.reshape(weights, [-1])
    return (tokens, tf.gather(labels, rows), of_tokens, labels, of_rows)[part]


_LABELLED = tuple(functools.partial(_labelled_part, part) for part in range(5))


def _pruned(vocabulary: Vocabulary, **how: Any) -> Sequence[Vocabulary]:
    return [prune(vocabulary, **how)]


def _sized(vocabulary: Vocabulary) -> Sequence[Array]:
    return [size(vocabulary)]


def _written(
    vocabulary: Vocabulary,
    reserved: Sequence[bytes] | None = None,
    *,
    path: str,
    file_format: str,
    of_text: bool,
    store_frequency: bool,
    shuffle: bool,
) -> Sequence[str]:
    ordered = order(vocabulary, of_text=of_text, reserved=reserved, shuffle=shuffle)
    records = lines(ordered, store_frequency=store_frequency)
    return [write_vocabulary(path, records, file_format)]


def _dense_zeros(indices: tf.Tensor, values: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    return tf.sparse.to_dense(tf.SparseTensor(indices, values, shape))


def _dense_nans(indices: tf.Tensor, values: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    return tf.sparse.to_dense(tf.SparseTensor(indices, values, shape), default_value=math.nan)


def _dense_key(values: Any, keys: Any) -> tf.Tensor:
    return tf_utils._validate_and_get_dense_value_key_inputs(values, keys)[1]


def _dense_x(values: Any, keys: Any) -> tf.Tensor:
    return tf_utils._validate_and_get_dense_value_key_inputs(values, keys)[0]


def _wrapped(combiner: Any) -> Wrapped:
    return Wrapped(combiner, one_zero=isinstance(combiner, analyzers.NumPyCombiner))


def _adds_floats(combiner: Any) -> bool:
    function = getattr(combiner._fn, "func", combiner._fn)
    return function is np.sum and np.issubdtype(combiner._output_dtypes[0], np.floating)


def _tukey_parameters(combiner: Any, moments: Sequence[Array]) -> Sequence[Array]:
    outputs: Sequence[Array] = combiner.extract_output(analyzers._LMomentsAccumulator(*moments))
    return outputs


def _given(outputs: Sequence[Any]) -> Sequence[Any]:
    return outputs


def _keys_and_outputs(
    dtypes: Sequence[Any], of_keys: Sequence[tuple[Any, Sequence[Any]]]
) -> Sequence[Array]:
    """Return the keys, and each output stacked in their order (`_merge_outputs_by_key`)."""
    keys = np.array([key for key, _ in of_keys], dtype=object)
    columns = [[outputs[at] for _, outputs in of_keys] for at in range(len(dtypes) - 1)]
    return [keys, *(np.array(c, dtype=d) for c, d in zip(columns, dtypes[1:], strict=True))]


def _keyed_lines(of_keys: Sequence[tuple[Any, Sequence[Any]]]) -> Sequence[Vocabulary]:
    """Return the keys as a vocabulary, with their outputs as text for counts."""
    text = tf.compat.as_str_any
    outputs = [",".join(map(text, outputs)) for _, outputs in of_keys]
    return [Vocabulary([key for key, _ in of_keys], outputs)]
