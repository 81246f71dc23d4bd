"""Fit a transform graph on the training rows with tf.Transform, and write it."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf
import tensorflow_transform.beam as tft_beam
from tensorflow_transform import impl_helper
from tfx_bsl.tfxio import tensor_adapter, tensor_representation_util

from skewless.errors import DataError, RecipeError, SkewlessError, no_such_column
from skewless.schema import Schema, arrow_type, format_schema, is_required

__all__ = ["Analyze", "as_tensor_columns", "check_exportable"]

PreprocessingFn = Callable[[dict[str, Any]], Mapping[str, Any]]

_NOT_EXPORTABLE = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc", "NumpyFunction"})
_FEATURE_DTYPES = (tf.float32, tf.int64, tf.string)


@dataclasses.dataclass(eq=False)
class Analyze(beam.PTransform):  # type: ignore[misc]
    """Fit `preprocessing_fn` on batches of training rows and write the transform graph.

    What it writes is tf.Transform's own layout: `transform_fn/`, `transformed_metadata/`
    and `metadata/` (the raw schema). The result is a PCollection with `output_dir` in it,
    once all is written.

    Args:
        raw_schema: The schema of the raw rows, label included.
        preprocessing_fn: Any function that tf.Transform takes.
        output_dir: Where to write; on any file system TensorFlow knows.
        temp_dir: Where tf.Transform may leave temporary files.

    Raises:
        RecipeError: When applied, if the function cannot be traced or exported.
    """

    raw_schema: Schema
    preprocessing_fn: PreprocessingFn
    output_dir: str
    temp_dir: str

    def __post_init__(self) -> None:
        super().__init__()
        if not self.raw_schema.feature:
            raise RecipeError("Analyze(raw_schema): it has no columns")

    def expand(self, rows: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[str]:
        """Return the PCollection of `output_dir`, written."""
        check_exportable(self.preprocessing_fn, self.raw_schema)
        columns = rows | "ToTensorColumns" >> beam.ParDo(_ToTensorColumns(self.raw_schema))
        with tft_beam.Context(temp_dir=self.temp_dir):
            graph = (columns, _adapter(self.raw_schema)) | "FitGraph" >> tft_beam.AnalyzeDataset(
                self.preprocessing_fn
            )
            written = graph | "WriteGraph" >> tft_beam.WriteTransformFn(self.output_dir)
        return written | "WriteRawSchema" >> beam.ParDo(
            _WriteRawSchema(self.raw_schema, self.output_dir)
        )


def as_tensor_columns(batch: pa.RecordBatch, schema: Schema) -> pa.RecordBatch:
    """Return raw rows as tf.Transform's TensorAdapter takes them.

    Args:
        batch: Raw rows; columns that are not in `schema` are dropped.
        schema: The raw schema.

    Returns:
        A batch in which each column is large_list<int64 | float | large_binary>, and a
        missing value is an empty list.

    Raises:
        RecipeError: If the batch lacks a column.
        DataError: If a row lacks a required value.

    >>> from skewless.schema import make_feature, make_schema
    >>> schema = make_schema([make_feature("n", pa.float32(), required=False)])
    >>> batch = pa.RecordBatch.from_pydict({"n": pa.array([1, None], pa.float32())})
    >>> as_tensor_columns(batch, schema).column("n").to_pylist()
    [[1.0], []]
    """
    arrays = []
    for feature in schema.feature:
        if feature.name not in batch.schema.names:
            raise no_such_column(feature.name, batch.schema.names, "rows")
        column = batch.column(feature.name)
        if is_required(feature) and column.null_count:
            raise DataError(
                f'rows: column "{feature.name}" is required by the schema, but '
                f"{column.null_count} of {len(column)} rows have no value; reject them before "
                "(Validate), or make the column optional"
            )
        arrays.append(_as_lists(column, _value_type(arrow_type(feature))))
    return pa.RecordBatch.from_arrays(arrays, names=[f.name for f in schema.feature])


def _as_lists(column: pa.Array, value_type: pa.DataType) -> pa.Array:
    """Return a column as lists of its values, a missing value being no element."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        values = pc.list_flatten(column)
        parents = pc.list_parent_indices(column).filter(values.is_valid())
        sizes = np.bincount(parents.to_numpy(), minlength=len(column))
    else:
        values = column
        sizes = column.is_valid().to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    return pa.LargeListArray.from_arrays(pa.array(offsets), values.drop_null().cast(value_type))


def check_exportable(preprocessing_fn: PreprocessingFn, schema: Schema) -> None:
    """Raise a `RecipeError` if `preprocessing_fn` cannot become a transform graph.

    Args:
        preprocessing_fn: A function of tf.Transform.
        schema: The schema of the raw rows, label included.

    Raises:
        RecipeError: Naming the function, if it asks for a column that does not exist,
            fails, leaves TensorFlow (`tf.py_function`), or returns what is no feature.
    """
    name = _name_of(preprocessing_fn)
    specs = tensor_adapter.TensorAdapter(_adapter(schema)).OriginalTypeSpecs()

    def guarded(inputs: dict[str, Any]) -> Mapping[str, Any]:
        return preprocessing_fn(_Inputs(inputs, name))

    with tempfile.TemporaryDirectory() as scratch:
        try:
            graph, _, outputs = impl_helper.trace_preprocessing_function(
                guarded, specs, use_tf_compat_v1=False, base_temp_dir=scratch
            )
        except SkewlessError:
            raise
        except Exception as error:
            line = str(error).strip().splitlines()
            raise RecipeError(
                f"{name}: it cannot be traced as a TensorFlow graph: "
                f"{type(error).__name__}: {line[-1] if line else ''}"
            ) from error
    if ops := _operations(graph) & _NOT_EXPORTABLE:
        raise RecipeError(
            f"{name}: it calls Python from the graph ({', '.join(sorted(ops))}), which is lost "
            "when the model is exported; write it with TensorFlow operations"
        )
    _check_outputs(outputs, name)


class _Inputs(dict[str, Any]):
    """Raw tensors by column; asking for another one names the nearest."""

    def __init__(self, inputs: Mapping[str, Any], function: str) -> None:
        super().__init__(inputs)
        self._function = function

    def __missing__(self, name: str) -> Any:
        raise no_such_column(name, self, self._function)


def _name_of(function: Any) -> str:
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"preprocessing_fn {function.__module__}.{name}"


def _operations(graph: Any) -> set[str]:
    """Return the types of all operations, those inside of functions included."""
    definition = graph.as_graph_def()
    nodes = list(definition.node)
    for function in definition.library.function:
        nodes.extend(function.node_def)
    return {node.op for node in nodes}


def _check_outputs(outputs: Any, name: str) -> None:
    if not isinstance(outputs, Mapping) or not outputs:
        raise RecipeError(f"{name}: it returns no features; return a dict of tensors by name")
    for key, value in outputs.items():
        if getattr(value, "dtype", None) not in _FEATURE_DTYPES:
            found = getattr(getattr(value, "dtype", type(value)), "name", type(value).__name__)
            raise RecipeError(
                f'{name}: feature "{key}" is {found}; a feature is float32, int64 or string '
                "(use tf.cast)"
            )
        if value.shape.rank == 0:
            raise RecipeError(f'{name}: feature "{key}" is one value, not one for each row')


def _value_type(type_: pa.DataType) -> pa.DataType:
    value = type_.value_type if pa.types.is_list(type_) else type_
    if pa.types.is_timestamp(value):
        return pa.int64()
    return pa.large_binary() if pa.types.is_string(value) else value


def _adapter(schema: Schema) -> tensor_adapter.TensorAdapterConfig:
    types = [pa.field(f.name, pa.large_list(_value_type(arrow_type(f)))) for f in schema.feature]
    return tensor_adapter.TensorAdapterConfig(
        pa.schema(types),
        tensor_representation_util.InferTensorRepresentationsFromMixedSchema(schema),
    )


@beam.typehints.with_input_types(pa.RecordBatch)
@beam.typehints.with_output_types(pa.RecordBatch)
class _ToTensorColumns(beam.DoFn):  # type: ignore[misc]
    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def process(self, batch: pa.RecordBatch) -> Any:
        yield as_tensor_columns(batch, self._schema)


@beam.typehints.with_output_types(str)
class _WriteRawSchema(beam.DoFn):  # type: ignore[misc]
    def __init__(self, schema: Schema, output_dir: str) -> None:
        self._text = format_schema(schema)
        self._output_dir = output_dir

    def process(self, _: Any) -> Any:
        folder = f"{self._output_dir}/metadata"
        tf.io.gfile.makedirs(folder)
        with tf.io.gfile.GFile(f"{folder}/schema.pbtxt", "w") as file:
            file.write(self._text)
        yield self._output_dir
