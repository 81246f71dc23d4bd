"""A run that was killed goes on to the same result; an unchanged one does nothing."""

from __future__ import annotations

import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import tensorflow as tf
import tensorflow_transform as tft

from skewless.launch.command_line import main
from skewless.pipeline.artifacts import SPLITS, RunPaths, latest_run
from skewless.pipeline.journey import Journey, Result, journey
from skewless.pipeline.stages import Quiet

GraphConstants = Callable[[RunPaths], dict[str, bytes]]


class Log(Quiet):
    def __init__(self) -> None:
        self.started: list[str] = []
        self.skipped: list[str] = []

    def start(self, stage: str) -> None:
        self.started.append(stage)

    def skip(self, stage: str) -> None:
        self.skipped.append(stage)


def contents(paths: RunPaths) -> dict[str, list[str]]:
    """Return the examples of every split as a sorted list: a multiset."""
    spec = tft.TFTransformOutput(str(paths.transform_graph)).transformed_feature_spec()
    found = {}
    for split in SPLITS:
        rows = []
        for part in paths.example_parts(split):
            for record in tf.data.TFRecordDataset(str(part), compression_type="GZIP"):
                features = tf.train.Example.FromString(record.numpy()).features.feature
                assert set(features) == set(spec)
                rows.append(repr(sorted((k, v.SerializeToString()) for k, v in features.items())))
        found[split] = sorted(rows)
    return found


def test_second_run_does_nothing(result: Result, recipe_file: pathlib.Path) -> None:
    log = Log()
    again = journey(Journey(recipe_file, result.paths.root.parents[1]), log)
    assert log.started == []
    assert len(log.skipped) == 7
    assert again.metrics == result.metrics
    assert again.ledger == result.ledger


@pytest.mark.integration
def test_same_seed_gives_the_same_graph_examples_and_metrics(
    result: Result,
    recipe_file: pathlib.Path,
    graph_constants: GraphConstants,
    tmp_path: pathlib.Path,
) -> None:
    again = journey(Journey(recipe_file, tmp_path), Quiet())
    assert graph_constants(again.paths) == graph_constants(result.paths)
    assert contents(again.paths) == contents(result.paths)
    assert again.metrics == result.metrics


@pytest.mark.integration
@pytest.mark.parametrize(
    "stage", ["schema", "rows", "analyze", "examples", "train", "export", "evaluate"]
)
def test_killed_run_goes_on_to_the_same_result(
    stage: str,
    result: Result,
    recipe_file: pathlib.Path,
    graph_constants: GraphConstants,
    tmp_path: pathlib.Path,
) -> None:
    command = [
        *(sys.executable, "-m", "skewless", "run", str(recipe_file)),
        *("--output", str(tmp_path)),
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob(f"*/*/.work/{stage}-*")):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert main(["run", str(recipe_file), "--output", str(tmp_path)]) == 0
    paths = RunPaths(latest_run(tmp_path))
    assert contents(paths) == contents(result.paths)
    assert graph_constants(paths) == graph_constants(result.paths)
    metrics = (paths.evaluation / "metrics.json").read_text()
    assert metrics == (result.paths.evaluation / "metrics.json").read_text()
    assert not list(paths.work.glob("*-*"))


@pytest.mark.parametrize("shards", [7])
def test_shards_do_not_change_the_graph(
    shards: int,
    result: Result,
    recipe_file: pathlib.Path,
    graph_constants: GraphConstants,
    flights_csv: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    """Quantiles alone may move, within the error of tf.Transform's sketch."""
    lines = flights_csv.read_bytes().splitlines(keepends=True)
    for shard in range(shards):
        file = tmp_path / f"flights-{shard}.csv"
        file.write_bytes(b"".join([lines[0], *lines[1 + shard :: shards]]))
    text = recipe_file.read_text().replace(str(flights_csv), str(tmp_path / "flights-*.csv"))
    text = text.replace(
        'event_time="time_hour", strings', 'name="flights", event_time="time_hour", strings'
    )
    sharded = tmp_path / "sharded_recipe.py"
    sharded.write_text(text)
    made = journey(Journey(sharded, tmp_path / "runs", until="transform"), Quiet())
    one, other = graph_constants(result.paths), graph_constants(made.paths)
    assert one == other
    assert contents(made.paths) == contents(result.paths)


def test_a_lost_output_is_made_again(
    result: Result, recipe_file: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    shutil.copytree(result.paths.root.parent, tmp_path / "small")
    copied = RunPaths(tmp_path / "small" / result.paths.root.name)
    shutil.rmtree(copied.examples)
    log = Log()
    journey(Journey(recipe_file, tmp_path, until="transform"), log)
    assert log.started == ["examples"]
    assert contents(copied) == contents(result.paths)
