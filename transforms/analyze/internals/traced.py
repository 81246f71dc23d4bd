"""A `preprocessing_fn` as tf.Transform traces it, with its batch reductions watched.

Its batch reductions (mean and variance of a batch, say) add in float32, which makes results
depend on how rows fall into batches. While the function is traced they are watched, so
that the exact combiners can be given what went into them.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import tensorflow as tf
import tensorflow_transform as tft
from tensorflow_transform import (
    analyzer_nodes,
    graph_tools,
    impl_helper,
    tf_utils,
)

from skewless.storage import local_scratch

__all__ = ["Traced", "Unsupported", "check_version", "watched_reductions"]

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
        with watched_reductions() as self.reduced, local_scratch(temp_dir) as scratch:
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
        with watched_reductions():
            return graph_tools.get_analyzers_fingerprint(self.graph, self.inputs)


# Functions of another module are replaced for the while, for every thread.
_tracing = threading.RLock()


@contextlib.contextmanager
def watched_reductions() -> Iterator[dict[str, tuple[Any, ...]]]:
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
