"""Run a case through one of the engines, and look at everything that it wrote."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from skewless.arrays import raw_arrays
from skewless.parity import TransformGraph
from skewless.transforms.analyze import Analyze
from tests.transforms.analyze.cases_rows import SCHEMA, Tensors, ordinary


@dataclasses.dataclass(frozen=True)
class Written:
    """What an analysis wrote.

    Attributes:
        features: What the graph makes of some ordinary rows: by feature the dense array, or
            the indices and values of a sparse one.
        assets: The files of vocabularies.
        operations: How many operations of each type there are in the graph.
        constants: All constants of the graph, sorted.
        metadata: The text files beside the graph.
    """

    features: dict[str, Any]
    assets: dict[str, bytes]
    operations: Counter[str]
    constants: list[bytes]
    metadata: dict[str, bytes]


def in_parts(rows: pa.RecordBatch) -> list[pa.RecordBatch]:
    """Return the rows in another order, in batches of one row, of some, and of 100."""
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = rows.take(pa.array(order, pa.int64()))
    edges = sorted({min(edge, len(rows)) for edge in (0, 1, 2, 9, *range(30, 10_000, 100))})
    return [shuffled.slice(a, b - a) for a, b in itertools.pairwise(edges)]


def analyze(
    folder: pathlib.Path,
    function: Any,
    batches: Sequence[pa.RecordBatch],
    engine: str,
    runner: str = "FnApiRunner",
) -> pathlib.Path:
    """Return the directory of the graph that `function` becomes."""
    with beam.Pipeline(runner) as begin:
        rows = begin | beam.Create(batches, reshuffle=False)
        rows | Analyze(SCHEMA, function, str(folder / "graph"), str(folder / "tmp"), engine=engine)
    return folder / "graph"


def look(folder: pathlib.Path, seen: pa.RecordBatch | None = None) -> Written:
    """Return what is in a directory that `analyze` made."""
    seen = ordinary(64, seed=1) if seen is None else seen
    functions = _functions(folder)
    return Written(
        features=apply(folder, seen),
        assets=_files(folder / "transform_fn" / "assets"),
        operations=Counter(node.op for nodes in functions for node in nodes),
        constants=_constants(functions),
        metadata={
            name: content
            for part in ("transformed_metadata", "metadata")
            for name, content in _files(folder / part, part).items()
        },
    )


def apply(folder: pathlib.Path, rows: pa.RecordBatch) -> dict[str, Any]:
    """Return the features of rows as arrays."""
    graph = TransformGraph(str(folder))
    features: Tensors = graph.from_rows(raw_arrays(rows, graph.raw_schema))
    return {name: _as_arrays(value) for name, value in features.items()}


def _as_arrays(value: Any) -> Any:
    if isinstance(value, tf.SparseTensor):
        return value.indices.numpy(), value.values.numpy()
    return value.numpy()


def values(feature: Any) -> np.ndarray:
    """Return the values of a feature, whatever its kind."""
    return feature[1] if isinstance(feature, tuple) else feature


def _files(folder: pathlib.Path, prefix: str = "") -> dict[str, bytes]:
    return {
        f"{prefix}/{path.relative_to(folder)}".strip("/"): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _functions(folder: pathlib.Path) -> list[Any]:
    model = saved_model_pb2.SavedModel()
    model.ParseFromString((folder / "transform_fn" / "saved_model.pb").read_bytes())
    (graph,) = (meta.graph_def for meta in model.meta_graphs)
    return [graph.node, *(function.node_def for function in graph.library.function)]


def _constants(functions: list[Any]) -> list[bytes]:
    tensors = [node.attr["value"].tensor for f in functions for node in f if node.op == "Const"]
    return sorted(
        tensor.SerializeToString(deterministic=True)
        for tensor in tensors
        # A path of a temporary file stands for nothing that is used later.
        if not any(b"/" in text for text in tensor.string_val)
    )
