"""The servers that are compared: how each is installed, started and asked."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from tests.benchmarks.measure import ROOT
from tests.benchmarks.serving_load import Target, one_client
from tests.servers.process import free_port, install_python, running

MODULES = "tests.benchmarks"


class Place(NamedTuple):
    """Where a server runs: its programs and its folder, its ports, and its model's version."""

    programs: pathlib.Path
    folder: pathlib.Path
    port: int
    grpc_port: int
    model: pathlib.Path


class Contender(NamedTuple):
    """A server to compare.

    Attributes:
        name: What it is called in the table.
        command: Returns the words that start it.
        path: The path of its URL.
        body: Returns the request for a row of JSON.
        read: What finds the prediction in an answer.
        requirement: What pip installs for it, in an environment of its own; "" for what is here.
        env: Further environment variables.
        settings: How it puts requests together, for a person.
    """

    name: str
    command: Callable[[Place], Sequence[str]]
    path: str
    body: Callable[[bytes], bytes]
    read: Callable[[Any], float]
    requirement: str = ""
    env: tuple[tuple[str, str], ...] = ()
    settings: str = ""


@contextlib.contextmanager
def started(
    contender: Contender, model: pathlib.Path, rows: Sequence[bytes], folder: pathlib.Path
) -> Iterator[tuple[Target, int]]:
    """Run a server until the end of the block; give what to ask, and its gRPC port if it has one.

    Args:
        contender: Which.
        model: The version of the model.
        rows: Rows of JSON.
        folder: Its folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = Place(programs(contender), folder, free_port(), free_port(), model)
    bodies = [contender.body(row) for row in rows]
    target = Target(place.port, contender.path, bodies, contender.read)
    env = {
        "SERVING_MODEL": str(model),
        "PYTHONPATH": str(ROOT),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **dict(contender.env),
    }
    command = contender.command(place)
    session = 0
    try:
        with running(command, folder / "log.txt", lambda: _answers(target), env, folder) as process:
            session = process.pid
            yield target, place.grpc_port
    finally:
        if session:
            _end(session)


def programs(contender: Contender) -> pathlib.Path:
    """Return the folder of programs of a contender's environment, made where it is missing.

    TensorFlow and all else that it lacks it takes from this environment.
    """
    if not contender.requirement:
        return pathlib.Path(sys.executable).parent
    name = contender.requirement.partition("=")[0].partition("[")[0]
    found = install_python(name, contender.requirement)
    (packages,) = (found.parent / "lib").glob("python*/site-packages")
    (packages / "of_the_project.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return found


def _end(session: int) -> None:
    """End what a server has started and left behind: Ray's HAProxy keeps its ports else."""
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # State, parent, group and session follow the name: proc(5).
            if int(stat.read_text().rpartition(")")[2].split()[3]) == session:
                os.kill(int(stat.parent.name), signal.SIGKILL)


def _answers(target: Target) -> bool:
    with contextlib.suppress(OSError, RuntimeError):
        return bool(one_client(target, 1))
    return False


# --- The servers ---------------------------------------------------------------------------


def _instances(row: bytes) -> bytes:
    return b'{"instances": [' + row + b"]}"


def _first_prediction(answer: Any) -> float:
    return float(answer["predictions"][0])


def _serve(place: Place) -> Sequence[str]:
    ports = ["--rest-port", str(place.port), "--grpc-port", str(place.grpc_port)]
    return [str(place.programs / "skewless"), "serve", str(place.model), *ports]


def _naive(place: Place) -> Sequence[str]:
    python = str(place.programs / "python")
    return [python, "-m", f"{MODULES}.serving_naive", str(place.port)]


def _mlserver(place: Place) -> Sequence[str]:
    server = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": place.port,
        "grpc_port": place.grpc_port,
        "metrics_endpoint": None,
        # Its worker process cost more than it gave here, one model on two cores.
        "parallel_workers": 0,
    }
    model = {
        "name": "flights",
        "implementation": f"{MODULES}.serving_mlserver.Flights",
        "max_batch_size": 32,
        "max_batch_time": 0.001,
    }
    (place.folder / "settings.json").write_text(json.dumps(server))
    (place.folder / "model-settings.json").write_text(json.dumps(model))
    return [str(place.programs / "mlserver"), "start", str(place.folder)]


def _mlserver_body(row: bytes) -> bytes:
    rows = {"name": "rows", "shape": [1], "datatype": "BYTES", "data": [row.decode()]}
    return json.dumps({"inputs": [rows]}).encode()


def _mlserver_prediction(answer: Any) -> float:
    return float(answer["outputs"][0]["data"][0])


def _bentoml(place: Place) -> Sequence[str]:
    where = ["--host", "127.0.0.1", "--port", str(place.port)]
    service = f"{MODULES}.serving_bentoml:Flights"
    return [str(place.programs / "bentoml"), "serve", service, *where]


def _bentoml_prediction(answer: Any) -> float:
    return float(answer[0])


def _ray(place: Place) -> Sequence[str]:
    return [str(place.programs / "python"), "-m", f"{MODULES}.serving_ray", str(place.port)]


_PREDICT = "/v1/models/flights:predict"
OURS = Contender("skewless", _serve, _PREDICT, _instances, _first_prediction)
NAIVE = Contender("naive", _naive, _PREDICT, _instances, _first_prediction)
# Each with its batching, and with the settings that of those tried were the fastest here.
PEERS = (
    Contender(
        "MLServer",
        _mlserver,
        "/v2/models/flights/infer",
        _mlserver_body,
        _mlserver_prediction,
        "mlserver==1.7.1",
        settings="a custom runtime, `max_batch_size` 32, `max_batch_time` 1 ms, in one process",
    ),
    Contender(
        "BentoML",
        _bentoml,
        "/predict",
        _instances,
        _bentoml_prediction,
        "bentoml==1.4.40",
        (("OTEL_SDK_DISABLED", "true"),),
        "`@bentoml.api(batchable=True, max_batch_size=32)`, two workers, its telemetry off",
    ),
    Contender(
        "Ray Serve",
        _ray,
        "/",
        _instances,
        _first_prediction,
        "ray[serve]==2.60.0",
        # What Ray calls its high throughput mode.
        (("RAY_SERVE_ENABLE_HA_PROXY", "1"), ("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")),
        "`@serve.batch(max_batch_size=32, batch_wait_timeout_s=0.002)`, one replica, its high "
        "throughput mode with HAProxy",
    ),
)
