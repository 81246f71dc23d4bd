"""The proof of parity for a server that runs: asked over REST and gRPC, as its clients ask it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import importlib.util
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from skewless import progress
from skewless.arrays import argument_names, raw_arrays
from skewless.errors import RecipeError, RunError
from skewless.models.predict import Predictor
from skewless.models.raw_examples import raw_examples
from skewless.pipeline.artifacts import RunPaths
from skewless.pipeline.json_answers import Arrays
from skewless.pipeline.json_rows import json_rows
from skewless.pipeline.server_clients import (
    Client,
    Rows,
    RunningServer,
    Target,
    make_rest_client,
)
from skewless.pipeline.verifying import (
    Comparison,
    WrittenPart,
    compare,
    written_parts,
    written_spec,
)
from skewless.schema import Schema
from skewless.storage import local_copy
from skewless.transforms.aggregate.plans_json import AGGREGATES_FILE, plans_from_json

__all__ = ["BATCH_SIZES", "TOLERANCE", "verify_server"]

BATCH_SIZES = (1, 7, 64)
# How far a prediction may be from the exported model's own, absolute up to 1 and relative above.
TOLERANCE = 1e-5
_THREADS = 8


def verify_server(
    paths: RunPaths,
    label: str,
    server: RunningServer,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    limit: int | None = None,
) -> list[Comparison]:
    """Compare the features in a run's TFRecords with those that a server answers with.

    The raw rows are sent as clients send them: over REST as JSON objects, over gRPC as named
    tensors, several requests at a time, each for the version of the run's newest model. The
    predictions, over gRPC for serialized Examples, are compared with those of the exported
    model called here, within `TOLERANCE`.

    Args:
        paths: A run with an exported model.
        label: The label's name; it is written, but not served.
        server: The server.
        batch_sizes: Rows in one request. Predictions are asked for in the largest.
        limit: Compare no more than this many rows of each part.

    Returns:
        For each protocol a comparison for each batch size, and one of the predictions.

    Raises:
        RecipeError: If a package is missing, or there is no such file of certificates.
        RunError: If the server does not answer, or does not serve the version.
    """
    with local_copy(paths.newest_model()) as model:
        predictor = Predictor(str(model))
        aggregates = model / "assets.extra" / AGGREGATES_FILE
        # A server reads an aggregate that a row leaves out from its store, as of now.
        nulls = _columns(aggregates.read_text("utf-8")) if aggregates.exists() else frozenset()
    target = Target(predictor.name, int(paths.newest_model().name))
    spec = written_spec(paths, label)
    with _clients(server, target) as clients:
        ways = [_Way(client, len(spec), batch_sizes) for client in clients]
        for part in written_parts(paths, spec, limit):
            if part.batch.num_rows:
                rows = _rows(part.batch, predictor.schema, nulls)
                predictions = predictor.predict(part.batch)
                for way in ways:
                    way.compare(part, rows, predictions)
    return [comparison for way in ways for comparison in way.found]


@contextlib.contextmanager
def _clients(server: RunningServer, target: Target) -> Iterator[list[Client]]:
    """Give a client for each protocol, which the server has answered."""
    with contextlib.ExitStack() as stack:
        made = [make_rest_client(server, target, _THREADS)]
        if server.grpc_address is not None:
            for package in ("grpc", "tensorflow_serving"):
                if importlib.util.find_spec(package) is None:
                    raise RecipeError(
                        f"--server: for gRPC the package {package} is missing; "
                        "pip install 'skewless[serve]', or give --server-grpc none"
                    )
            from skewless.pipeline.grpc_client import make_grpc_client

            made.append(make_grpc_client(server, target))
        for client in made:
            stack.callback(client.close)
            client.greet()
        yield made


def _columns(aggregates: str) -> frozenset[str]:
    """Return the columns of aggregates."""
    plans, _ = plans_from_json(aggregates)
    return frozenset(column.name for plan in plans for column in plan.columns)


def _rows(batch: pa.RecordBatch, schema: Schema, nulls: Collection[str]) -> Rows:
    names = argument_names(schema)
    return Rows(
        json_rows(batch, schema, nulls),
        {names[name]: values for name, values in raw_arrays(batch, schema).items()},
        raw_examples(batch, schema, nulls),
    )


class _Way:
    """One protocol: who asks, and what came of it."""

    def __init__(self, client: Client, features: int, batch_sizes: Sequence[int]) -> None:
        self._client = client
        self._sizes = batch_sizes
        self._features = [
            Comparison(f"{client.protocol}, batches of {size:,}", features=features)
            for size in batch_sizes
        ]
        self._predictions = Comparison(f"{client.protocol}, predictions within {TOLERANCE:g}")
        self.found = [*self._features, self._predictions]

    def compare(self, part: WrittenPart, rows: Rows, predictions: Arrays) -> None:
        """Ask for all rows of a part, and compare the answers."""
        for size, comparison in zip(self._sizes, self._features, strict=True):
            served = self._ask(self._client.transform, rows, size, part.features)
            compare(comparison, part, served)
        served = self._ask(self._client.predict, rows, max(self._sizes), predictions)
        self._predictions.features = len(predictions)
        near = {name: _near(predictions[name], served[name]) for name in predictions}
        compare(self._predictions, WrittenPart(part.batch, tuple(near), predictions), near)

    def _ask(self, method: Callable[..., Any], rows: Rows, size: int, like: Arrays) -> Arrays:
        total = len(rows.lines)
        batches = [slice(at, min(at + size, total)) for at in range(0, total, size)]
        pool = concurrent.futures.ThreadPoolExecutor(_THREADS)
        try:
            answers = list(pool.map(functools.partial(_counted, method, rows), batches))
        finally:
            # Once one has failed, the others need not be asked.
            pool.shutdown(cancel_futures=True)
        served = self._client.gather(answers, like)
        for name, values in served.items():
            if not name.endswith("/values") and len(values) != total:
                raise RunError(
                    f"{self._client.protocol}: the server answered {total:,} rows with "
                    f'{len(values):,} values of "{name}"'
                )
        return served


def _counted(method: Callable[..., Any], rows: Rows, at: slice) -> Any:
    answer = method(rows, at)
    progress.add("rows_compared", at.stop - at.start)
    return answer


def _near(expected: npt.NDArray[Any], served: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return what is served, but what is expected where it is near enough."""
    if expected.dtype == object or expected.shape != served.shape:
        return served
    far = np.abs(served - expected.astype(np.float64))
    # Written so that NaN is near to nothing.
    near = far <= TOLERANCE * np.maximum(1, np.abs(expected))
    return np.where(near, expected, served).astype(served.dtype)
