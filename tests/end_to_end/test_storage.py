"""Whole runs on object stores and on HDFS: inputs there, artifacts there, the same as here."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import tensorflow as tf
from apache_beam.io.filesystems import FileSystems

from skewless.errors import RunError
from skewless.launch.command_line import main
from skewless.pipeline import pushing
from skewless.pipeline.artifacts import SPLITS, RunPaths, digest_tree, latest_run, read_manifest
from skewless.pipeline.execution import Execution
from skewless.pipeline.journey import Journey, Result, journey
from skewless.pipeline.labels import labels_of
from skewless.pipeline.predicting import predict_lines
from skewless.pipeline.pushing import Push, push
from skewless.pipeline.stages import Quiet
from skewless.pipeline.verify_report import digest_compared, write_verify_report
from skewless.pipeline.verifying import verify_features
from skewless.storage import RemotePath, local_copy, local_output, send_file
from tests.end_to_end.conftest import RECIPE
from tests.servers import gcs, hdfs, s3

pytestmark = pytest.mark.integration


class Storage(NamedTuple):
    """A file system: how its paths begin, and the options by which Beam reaches it."""

    root: str
    options: tuple[str, ...]


@contextlib.contextmanager
def _running(kind: str, folder: pathlib.Path) -> Iterator[Storage]:
    if kind == "gs":
        with gcs.gcs(folder):
            yield Storage(f"gs://{gcs.BUCKET}", ("--no_auth",))
    elif kind == "s3":
        with s3.s3(folder) as url:
            yield Storage(f"s3://{s3.BUCKET}", (f"--s3_endpoint_url={url}",))
    else:
        with hdfs.hdfs() as server:
            yield Storage("hdfs://data", tuple(server.options))


@pytest.fixture(scope="module", params=["gs", "s3", "hdfs"])
def storage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Storage]:
    with _running(request.param, tmp_path_factory.mktemp(request.param)) as found:
        Execution(options=found.options).reach_files()
        yield found
        # Whoever is next has a file system of its own.
        FileSystems.set_options(None)


@pytest.fixture(scope="module")
def remote_recipe(
    storage: Storage,
    flights_csv: pathlib.Path,
    weather_csv: pathlib.Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> pathlib.Path:
    inputs = RemotePath(storage.root) / "inputs"
    for path in (flights_csv, weather_csv):
        with local_output(inputs / path.name) as local:
            local.write_bytes(path.read_bytes())
    recipe = tmp_path_factory.mktemp("recipe") / "remote_recipe.py"
    text = RECIPE.format(flights=f"{inputs}/flights.csv", weather=f"{inputs}/weather.csv")
    recipe.write_text(text)
    return recipe


@pytest.fixture(scope="module")
def remote(storage: Storage, remote_recipe: pathlib.Path) -> Result:
    output = RemotePath(storage.root) / "runs"
    return journey(Journey(remote_recipe, output, execution=_execution(storage)), Quiet())


def _execution(storage: Storage) -> Execution:
    return Execution(options=storage.options)


def _examples(paths: RunPaths, split: str) -> Counter[bytes]:
    found: Counter[bytes] = Counter()
    for part in paths.example_parts(split):
        with local_copy(part) as file:
            records = tf.data.TFRecordDataset(str(file), compression_type="GZIP")
            found.update(records.as_numpy_iterator())
    return found


def test_a_run_is_the_same_as_on_this_machine(
    remote: Result, result: Result, graph_constants: Callable[[RunPaths], dict[str, bytes]]
) -> None:
    assert isinstance(remote.paths.root, RemotePath)
    assert remote.ledger.entries() == result.ledger.entries()
    assert remote.metrics == result.metrics
    for split in SPLITS:
        assert _examples(remote.paths, split) == _examples(result.paths, split)
    with local_copy(remote.paths.root) as root:
        assert graph_constants(RunPaths(root)) == graph_constants(result.paths)


def test_nothing_is_left_of_unfinished_work(remote: Result) -> None:
    files = [str(path.relative_to(remote.paths.root)) for path in remote.paths.root.files()]
    assert [name for name in files if name.startswith(".work/")] == [".work/lock"]
    assert not [name for name in files if name.endswith(".tmp")]
    assert {"manifest.json", "schema.pbtxt", "evaluation/metrics.json"} <= set(files)
    # The keys of the environment are nowhere else.
    with local_copy(remote.paths.root) as root:
        written = [path.read_bytes() for path in root.rglob("*") if path.is_file()]
    assert not [content for content in written if s3.SECRET.encode() in content]


def test_verify_and_predict_read_it_there(remote: Result) -> None:
    found = verify_features(remote.paths, "label", (7, None), limit=50)
    assert [(one.differing, one.rows > 0) for one in found] == [(0, True)] * 3
    lines = remote.paths.sample.read_bytes().splitlines()
    answers = [json.loads(line) for line in predict_lines(remote.paths.root, lines, "sample")]
    assert len(answers) == len(lines)
    assert all("prediction" in answer for answer in answers)


def test_a_model_is_pushed_from_there_to_there(
    storage: Storage, remote: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = digest_compared(remote.paths)
    found = verify_features(remote.paths, "label", [None])
    assert write_verify_report(remote.paths, found, compared).verdict == "identical"
    wanted = Push(remote.paths.root, RemotePath(storage.root) / "models" / "small", label="stable")
    model = remote.paths.newest_model()
    target = wanted.to / model.name

    def stop(source: pathlib.Path, path: RemotePath) -> None:
        if source.name == "saved_model.pb":
            raise KeyboardInterrupt
        send_file(source, path)

    with monkeypatch.context() as patched:
        patched.setattr(pushing, "send_file", stop)
        with pytest.raises(KeyboardInterrupt):
            push(wanted)
    assert not (target / "saved_model.pb").exists()
    done = push(wanted)
    assert (done.path, done.already, done.check.error) == (target, False, "")
    assert digest_tree(target, without=[pushing.PUSHED]) == compared.model_digest
    assert json.loads((target / pushing.PUSHED).read_text())["verify"]["verdict"] == "identical"
    assert push(wanted).already
    assert labels_of(wanted.to) == {"stable": int(model.name)}
    assert len(read_manifest(remote.paths.root)["pushes"]) == 1
    assert {path.name for path in wanted.to.iterdir()} == {"labels.json", model.name}
    (target / "saved_model.pb").write_bytes(b"another")
    with pytest.raises(RunError, match="another model is there already"):
        push(wanted)


def test_a_second_run_skips_every_stage(
    storage: Storage, remote: Result, remote_recipe: pathlib.Path
) -> None:
    class Watching(Quiet):
        skipped: list[str]

        def skip(self, stage: str) -> None:
            self.skipped.append(stage)

    watching = Watching()
    watching.skipped = []
    wanted = Journey(
        remote_recipe, RemotePath(storage.root) / "runs", execution=_execution(storage)
    )
    again = journey(wanted, watching)
    assert again.paths.root == remote.paths.root
    assert len(watching.skipped) == 7


def test_the_manifest_is_written_last(
    storage: Storage, remote_recipe: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that dies between moving files and saying so is done anew, and ends the same."""
    from skewless.pipeline import stages

    output = RemotePath(storage.root) / "killed"
    wanted = Journey(remote_recipe, output, until="transform", execution=_execution(storage))
    written = stages.write_json

    def die(path: object, value: dict[str, object]) -> None:
        if "rows" in value["stages"]:  # type: ignore[operator]
            raise KeyboardInterrupt
        written(path, value)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(stages, "write_json", die)
        with pytest.raises(KeyboardInterrupt):
            journey(wanted, Quiet())
    died = latest_run(output)
    assert list(read_manifest(died)["stages"]) == ["schema"]
    assert RunPaths(died).rows.exists()
    whole = journey(wanted, Quiet())
    assert whole.paths.root == died
    assert set(read_manifest(died)["stages"]) == {"schema", "rows", "analyze", "examples"}


def test_who_lost_the_run_publishes_nothing_more(
    storage: Storage, remote_recipe: pathlib.Path
) -> None:
    output = RemotePath(storage.root) / "contested"

    class Intruder(Quiet):
        def start(self, stage: str) -> None:
            if stage == "rows":
                latest = next(iter(output.rglob("lock")))
                latest.write_text("another process")

    wanted = Journey(remote_recipe, output, until="transform", execution=_execution(storage))
    with pytest.raises(RunError, match="another process has begun to write to this run"):
        journey(wanted, Intruder())
    assert list(read_manifest(latest_run(output))["stages"]) == ["schema"]


def test_the_command_takes_such_paths(
    storage: Storage, remote: Result, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["verify", str(remote.paths.root), "--limit", "20", *storage.options])
    assert code == 0
    assert "no bit differs" in capsys.readouterr().err


def test_a_missing_bucket_or_file_is_one_line(
    storage: Storage, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    recipe = tmp_path / "missing_recipe.py"
    recipe.write_text(RECIPE.format(flights=f"{storage.root}/no/such.csv", weather="w.csv"))
    assert main(["run", str(recipe), "--output", str(tmp_path / "out"), *storage.options]) != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "no/such.csv" in line
