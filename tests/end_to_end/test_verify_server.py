"""`skewless verify --server` agrees with a server that serves the run, and finds a skew."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
from collections.abc import Iterator

import keras
import pytest
import tensorflow as tf

from skewless.errors import RunError
from skewless.launch.command_line import main
from skewless.models.export import export
from skewless.models.serving.model import ServedModel
from skewless.models.serving.server import Listening, Server
from skewless.pipeline.artifacts import RunPaths, read_manifest
from skewless.pipeline.journey import Journey, Result, journey
from skewless.pipeline.server_clients import RunningServer
from skewless.pipeline.stages import Quiet
from skewless.pipeline.verifying_server import verify_server
from tests.end_to_end.test_verify import FLOAT32
from tests.models.serving.certificates import certificate

pytestmark = pytest.mark.integration


@contextlib.contextmanager
def serving(paths: RunPaths, **listening: str) -> Iterator[tuple[int, int]]:
    server = Server(
        ServedModel(pathlib.Path(str(paths.model))),
        Listening(rest_port=0, grpc_port=0, **listening),  # type: ignore[arg-type]
    )
    server.start()
    try:
        assert server.rest_port is not None
        assert server.grpc_port is not None
        yield server.rest_port, server.grpc_port
    finally:
        server.stop()


@pytest.fixture(scope="module")
def server(result: Result) -> Iterator[RunningServer]:
    with serving(result.paths) as (rest, grpc):
        yield RunningServer(f"http://127.0.0.1:{rest}", f"127.0.0.1:{grpc}")


def options(server: RunningServer) -> list[str]:
    assert server.grpc is not None
    return [
        *("--server", server.url, "--server-grpc", server.grpc),
        *("--batch-sizes", "all", "--rows-only-from-run", "--limit", "70"),
    ]


@pytest.fixture
def copied(result: Result, tmp_path: pathlib.Path) -> RunPaths:
    shutil.copytree(result.paths.root, tmp_path / "run")
    return RunPaths(tmp_path / "run")


def test_a_server_of_the_run_differs_in_no_bit(
    copied: RunPaths, server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(copied.root), *options(server)]) == 0
    shown = capsys.readouterr().err
    assert "no bit differs" in shown
    for protocol in ("REST", "gRPC"):
        for way in ("batches of 1 ", "batches of 7 ", "batches of 64 ", "predictions within 1e-05"):
            assert f"{protocol}, {way}" in shown
    assert "batches of 64" in copied.verify_report.read_text()


def test_one_bit_is_found(
    copied: RunPaths, server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of a server whose graph gives another last bit."""
    (part,) = copied.example_parts("test")
    records = [r.numpy() for r in tf.data.TFRecordDataset(str(part), compression_type="GZIP")]
    example = tf.train.Example.FromString(records[2])
    value = example.features.feature["distance"].float_list.value
    value[0] = tf.bitcast(tf.bitcast(value[0], tf.int32) ^ 1, tf.float32).numpy()
    records[2] = example.SerializeToString()
    with tf.io.TFRecordWriter(str(part), "GZIP") as writer:
        for record in records:
            writer.write(record)
    found = verify_server(copied, "label", server, [1, 64], limit=3)
    assert [(c.differing, c.bits) for c in found] == [(1, 1), (1, 1), (0, 0)] * 2
    (first,) = found[0].first
    assert first.feature == "distance"
    assert first.written != first.served
    assert main(["verify", str(copied.root), *options(server)]) == 1
    assert "REST, batches of 1: " in capsys.readouterr().err


def test_another_model_behind_the_version_is_found(copied: RunPaths, server: RunningServer) -> None:
    """The server has other weights than the run, and the same graph."""
    version = copied.newest_model()
    trained = read_manifest(copied.root)["stages"]["train"]["result"]
    other = str(copied.training / "model.keras")
    network = keras.saving.load_model(other, compile=False)
    network.set_weights([2 * weights for weights in network.get_weights()])
    network.save(other)
    shutil.rmtree(version)
    export(
        model_path=other,
        transform_graph=str(copied.transform_graph),
        label="label",
        task=trained["task"],
        classes=trained["classes"],
        directory=str(copied.model),
        name="small",
        version=int(version.name),
    )
    rest = RunningServer(server.url, None)
    features, predictions = verify_server(copied, "label", rest, [64], limit=20)
    assert features.differing == 0
    assert predictions.differing > 20
    assert predictions.first[0].feature == "prediction"


def test_a_version_that_is_not_served_is_one_line(
    copied: RunPaths, server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    copied.newest_model().rename(copied.model / "1999999999")
    assert main(["verify", str(copied.root), *options(server)]) == 1
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("skewless:")]
    assert line.startswith(f"skewless: server {server.url}: it does not serve version 1999999999")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--server-grpc", "none"], "--server-grpc: is for --server; give both"),
        (["--server", "http://h:1", "--stream"], "--server: does not go with --stream"),
        (["--server", "http://h:1", "--token-file", "no"], "--token-file no: there is no such"),
        (["--server", "h:8501"], 'server "h:8501": expected http://HOST:PORT'),
    ],
)
def test_wrong_options_are_one_line(
    result: Result, given: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(result.paths.root), *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_a_server_with_a_token_and_a_certificate(result: Result, tmp_path: pathlib.Path) -> None:
    chain, key = certificate(tmp_path)
    with serving(result.paths, token="secret", certificate=chain, key=key) as (rest, grpc):
        url, address = f"https://127.0.0.1:{rest}", f"127.0.0.1:{grpc}"
        authority = pathlib.Path(chain)
        known = RunningServer(url, address, "secret", authority)
        found = verify_server(result.paths, "label", known, [7], limit=10)
        assert [c.differing for c in found] == [0] * 4
        for wrong, words in [
            (RunningServer(url, address, "other", authority), "it answers 401: "),
            (RunningServer(url, address, "secret"), "its certificate is not trusted here"),
        ]:
            with pytest.raises(RunError, match=words):
                verify_server(result.paths, "label", wrong, [7], limit=1)


@pytest.mark.integration
def test_ragged_features_differ_in_no_bit(
    flights_csv: pathlib.Path, weather_csv: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    recipe = tmp_path / "float32_recipe.py"
    recipe.write_text(FLOAT32.format(flights=str(flights_csv), weather=str(weather_csv)))
    made = journey(Journey(recipe, tmp_path / "runs", until="export"), Quiet())
    with serving(made.paths) as (rest, grpc):
        server = RunningServer(f"http://127.0.0.1:{rest}", f"127.0.0.1:{grpc}")
        for comparison in verify_server(made.paths, "late", server, limit=500):
            assert (comparison.differing, comparison.first) == (0, [])
            assert comparison.rows > 1000
