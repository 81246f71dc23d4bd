"""Run the part of a traced graph that analyzers need, on whole batches of raw rows."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import pyarrow as pa
import tensorflow as tf

from skewless.arrays import raw_arrays
from skewless.parity import as_inputs, row_signature
from skewless.schema import Schema, column_names, drop_columns
from skewless.transforms.analyze.combiner import Array
from skewless.transforms.analyze.plan import Known

__all__ = ["Derived", "GraphFeed"]


class Derived(NamedTuple):
    """An array of a batch: a function of tensors in the graph.

    Attributes:
        tensors: The names of the tensors.
        columns: The raw columns that they depend on.
        function: A module-level function of them; None for the tensor itself.
    """

    tensors: tuple[str, ...]
    columns: frozenset[str]
    function: Callable[..., tf.Tensor] | None = None


@dataclasses.dataclass(frozen=True)
class GraphFeed:
    """A graph cut down to some of its tensors, and the raw columns that it needs.

    Args:
        schema: The raw columns.
        graph: The serialized GraphDef.
        components: For each column the names of its tensors in the graph, as
            `tf.nest.flatten(..., expand_composites=True)` orders them; an empty name for
            one that the graph does not need.
        constants: The tensors that are constants found in earlier phases.
        arrays: The arrays by name.
    """

    schema: bytes
    graph: bytes
    components: Mapping[str, tuple[str, ...]]
    constants: tuple[str, ...]
    arrays: Mapping[str, Derived]

    def load(
        self, known: Mapping[str, Known], arrays: frozenset[str]
    ) -> Callable[[pa.RecordBatch], dict[str, Array]]:
        """Return the function to the named arrays, with the constants of earlier phases."""
        wanted = {name: self.arrays[name] for name in sorted(arrays)}
        tensors = sorted({tensor for array in wanted.values() for tensor in array.tensors})
        schema = needed_columns(self.schema, wanted.values())
        columns = column_names(schema)
        fed = [name for column in columns for name in self.components[column] if name]
        imported = _import(self.graph)
        cut = imported.prune(
            [imported.graph.get_tensor_by_name(name) for name in [*fed, *self.constants]],
            [imported.graph.get_tensor_by_name(name) for name in tensors],
        )
        constants = [tf.constant(known[name].value, known[name].dtype) for name in self.constants]

        def values(inputs: Mapping[str, Any]) -> dict[str, tf.Tensor]:
            flat: list[tf.Tensor] = []
            for column in columns:
                components = tf.nest.flatten(inputs[column], expand_composites=True)
                named = zip(components, self.components[column], strict=True)
                flat.extend(component for component, name in named if name)
            return dict(zip(tensors, cut(*flat, *constants), strict=True))

        return on_batches(values, wanted, schema)


def needed_columns(schema: bytes, arrays: Iterable[Derived]) -> Schema:
    """Return the columns of a serialized schema that any of `arrays` depends on."""
    whole = Schema.FromString(schema)
    needed = frozenset[str]().union(*(array.columns for array in arrays))
    return drop_columns(whole, set(column_names(whole)) - needed)


def on_batches(
    values: Callable[[Mapping[str, Any]], Mapping[str, tf.Tensor]],
    wanted: Mapping[str, Derived],
    schema: Schema,
) -> Callable[[pa.RecordBatch], dict[str, Array]]:
    """Return the function from batches of raw rows to arrays.

    Args:
        values: From raw tensors, as a `preprocessing_fn` takes them, to tensors by name.
        wanted: What to make of the tensors.
        schema: The raw columns.
    """

    @tf.function(input_signature=[row_signature(schema)], autograph=False)  # type: ignore[untyped-decorator]
    def arrays_of(rows: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        tensors = values(as_inputs(rows, schema))
        return {
            name: (array.function or _itself)(*(tensors[tensor] for tensor in array.tensors))
            for name, array in wanted.items()
        }

    def arrays(batch: pa.RecordBatch) -> dict[str, Array]:
        rows = {name: tf.constant(value) for name, value in raw_arrays(batch, schema).items()}
        return {name: tensor.numpy() for name, tensor in arrays_of(rows).items()}

    return arrays


def _itself(tensor: tf.Tensor) -> tf.Tensor:
    return tensor


@functools.lru_cache(maxsize=4)
def _import(graph: bytes) -> Any:
    """Return a GraphDef as a function to prune, imported once a process."""
    definition = tf.compat.v1.GraphDef.FromString(graph)
    return tf.compat.v1.wrap_function(
        functools.partial(tf.import_graph_def, definition, name=""), []
    )
