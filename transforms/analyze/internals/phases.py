"""The phases of folds and steps that compute what a traced function's analyzers ask for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_transform import (
    analyzer_nodes,
    analyzers,
    graph_tools,
    nodes,
    tf_utils,
)
from tensorflow_transform.beam import analyzer_impls

from skewless.transforms.analyze.combiner import Array, Combiner, PerKey, Wrapped
from skewless.transforms.analyze.feed import Derived, GraphFeed
from skewless.transforms.analyze.internals import results
from skewless.transforms.analyze.internals.arrays import (
    LABELLED,
    dense_key,
    dense_nans,
    dense_x,
    dense_zeros,
    token_weights,
    unique_counts,
    unique_tokens,
    unpacked,
    weighed_tokens,
)
from skewless.transforms.analyze.internals.table_feed import TableFeed
from skewless.transforms.analyze.internals.traced import Traced, Unsupported
from skewless.transforms.analyze.l_moments import LMoments
from skewless.transforms.analyze.moments import Covariance, MeanAndVariance, Pca, Sum
from skewless.transforms.analyze.plan import Binding, Feed, Fold, Phase, Reference, Step
from skewless.transforms.analyze.quantiles import Quantiles
from skewless.transforms.analyze.vocabulary import MutualInformation, TokenCounts, TokenWeights
from skewless.transforms.analyze.vocabulary_file import Arm

__all__ = ["phases"]


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
                array = self._array(dense_zeros, *total.op.inputs[:3])
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
            arrays = [self._packed(function, values, keys) for function in (dense_key, dense_x)]
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
            return self._array(dense_nans, values.indices, values.values, values.dense_shape)
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
            arrays = [self._array(of, *tensors) for of in (unique_tokens, unique_counts)]
            return self._fold(operation, TokenCounts(), arrays)
        if ordering == orderings.WEIGHTED_FREQUENCY:
            values = self._traced.reduced[tensors[0].name]
            arrays = [self._reduced(of, values) for of in (weighed_tokens, token_weights)]
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
            arrays = [self._reduced(of, values) for of in LABELLED]
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
            results.pruned,
            arm=arm,
            of_text=operation.input_dtype == tf.string.name,
            key_fn=operation.key_fn,
            coverage=coverage,
        )
        return self._step(operation, pruned, vocabulary)

    def _count_tokens(self, operation: Any, vocabulary: Reference) -> tuple[Any, ...]:
        return self._step(operation, results.sized, vocabulary)

    def _write(
        self, operation: Any, vocabulary: Reference, *reserved: Reference
    ) -> tuple[Any, ...]:
        written = functools.partial(
            results.written,
            path=f"{self._traced.temp_dir}/vocabularies/{operation.vocab_filename}",
            file_format=operation.file_format,
            of_text=operation.input_dtype == tf.string.name,
            store_frequency=operation.store_frequency,
            shuffle=operation.fingerprint_shuffle,
        )
        return self._step(operation, written, vocabulary, *reserved)

    def _format_keys(self, operation: Any, folded: Reference) -> tuple[Any, ...]:
        dtypes = [info.dtype.as_numpy_dtype for info in operation.output_tensor_infos]
        return self._step(operation, functools.partial(results.keys_and_outputs, dtypes), folded)

    def _format_large(self, operation: Any, folded: Reference) -> tuple[Any, ...]:
        return self._step(operation, results.keyed_lines, folded)

    def _join_boundaries(self, operation: Any, boundaries: Reference) -> tuple[Any, ...]:
        return self._step(operation, analyzer_impls._join_boundary_rows, boundaries)

    def _reserved(self, operation: Any) -> tuple[Any, ...]:
        tokens = tf_utils.fetch_vocabulary_reserved_tokens(self._traced.graph, operation.name)
        return self._step(operation, functools.partial(results.given, [list(tokens)]))

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
        return self._array(functools.partial(unpacked, function, specs), *flat)

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
            return TableFeed(
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


def _function_name(function: Callable[..., Any] | None) -> str:
    """Return a name for what is done with tensors, the same in every process."""
    if isinstance(function, functools.partial):
        given = (_function_name(a) if callable(a) else repr(a) for a in function.args)
        return f"{_function_name(function.func)}({', '.join(given)})"
    return function.__name__ if function is not None else ""


def _wrapped(combiner: Any) -> Wrapped:
    return Wrapped(combiner, one_zero=isinstance(combiner, analyzers.NumPyCombiner))


def _adds_floats(combiner: Any) -> bool:
    function = getattr(combiner._fn, "func", combiner._fn)
    return function is np.sum and np.issubdtype(combiner._output_dtypes[0], np.floating)


def _tukey_parameters(combiner: Any, moments: Sequence[Array]) -> Sequence[Array]:
    outputs: Sequence[Array] = combiner.extract_output(analyzers._LMomentsAccumulator(*moments))
    return outputs
