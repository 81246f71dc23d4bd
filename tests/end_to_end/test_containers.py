"""What the Dockerfile does, step by step, as far as that goes without Docker."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from skewless.pipeline.artifacts import RunPaths
from skewless.pipeline.journey import Result
from skewless.pipeline.labels import set_label
from skewless.pipeline.predicting import predict_lines
from skewless.pipeline.pushing import Push, push
from tests.containers import instructions
from tests.servers.process import free_port, running
from tests.wheel import OURS, fresh_environment

pytestmark = pytest.mark.integration


def test_the_extras_fit_the_constraints(context: pathlib.Path) -> None:
    """Its `pip install`, where all is installed already: nothing is to be got, nothing clashes."""
    step = re.search(r"/pip (install .*?) && ", instructions("Dockerfile")["RUN"])
    assert step is not None
    words = f"{step[1]} --dry-run --no-index --no-build-isolation"
    command = f'"{sys.executable}" -m pip {words}'.replace("/install/", f"{context}/")
    shell = json.loads(instructions("Dockerfile")["SHELL"])
    done = subprocess.run([*shell, command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # Here it is installed from the tree; nothing else is missing.
    said = re.search(r"^Would install (.*)$", done.stdout, re.MULTILINE)
    missing = said[1].split() if said else []
    assert [name for name in missing if not name.startswith("skewless-")] == []


class Server(NamedTuple):
    """The image's command, as it stands there, on other ports."""

    url: str
    health: list[str]
    process: subprocess.Popen[bytes]
    models: pathlib.Path

    def version_of(self, label: str) -> str:
        """Return the version that a label stands for, or what is said instead."""
        try:
            with urllib.request.urlopen(f"{self.url}/v1/models/small/labels/{label}") as answer:
                return str(json.load(answer)["model_version_status"][0]["version"])
        except urllib.error.HTTPError as error:
            return error.read().decode()

    def wait_for(self, label: str, version: int) -> None:
        end = time.monotonic() + 30
        while self.version_of(label) != str(version):
            assert time.monotonic() < end, self.version_of(label)
            time.sleep(0.2)


@pytest.fixture(scope="module")
def server(
    result: Result, context: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("container")
    models = folder / "models" / "model"
    push(Push(result.paths.root, models, override="a test", label="stable"))
    (wheel,) = context.glob("*.whl")
    programs = fresh_environment(folder / "fresh", wheel)
    image = instructions("Dockerfile")
    command = [*json.loads(image["ENTRYPOINT"]), *json.loads(image["CMD"])]
    health = json.loads(re.search(r"CMD (\[.*\])", image["HEALTHCHECK"])[1])  # type: ignore[index]
    rest, grpc = free_port(), free_port()
    command = [word.replace("/models/model", str(models)) for word in command]
    command += ["--rest-port", str(rest), "--grpc-port", str(grpc)]
    health = [word.replace("8501", str(rest)) for word in health]
    (folder / "home").mkdir()
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "home"),
        "PYTHONPATH": str(OURS),
    }

    def healthy() -> bool:
        return subprocess.run(health, env=environment, capture_output=True).returncode == 0

    programs_first = [str(programs / command[0]), *command[1:]]
    health[0] = str(programs / health[0])
    log = folder / "server.log"
    with running(programs_first, log, healthy, environment, pathlib.Path("/")) as process:
        yield Server(f"http://127.0.0.1:{rest}", health, process, models)


def test_the_image_answers_as_the_model_does(server: Server, result: Result) -> None:
    lines = result.paths.sample.read_bytes().splitlines()
    body = {"signature_name": "predict_rows", "instances": [json.loads(line) for line in lines]}
    request = urllib.request.Request(
        f"{server.url}/v1/models/small/labels/stable:predict", json.dumps(body).encode()
    )
    with urllib.request.urlopen(request) as answer:
        found = json.load(answer)["predictions"]
    expected = predict_lines(result.paths.root, lines, "sample")
    assert found == pytest.approx([json.loads(line)["prediction"] for line in expected], abs=1e-6)


def test_a_push_and_labels_appear_while_it_serves(
    server: Server, result: Result, tmp_path: pathlib.Path
) -> None:
    old = int(result.paths.newest_model().name)
    server.wait_for("stable", old)
    shutil.copytree(result.paths.root, tmp_path / "newer")
    newer = RunPaths(tmp_path / "newer")
    newer.newest_model().rename(newer.model / str(old + 1))
    push(Push(newer.root, server.models, override="a test", label="canary"))
    server.wait_for("canary", old + 1)
    server.wait_for("stable", old)
    set_label(server.models, "stable", old + 1)
    server.wait_for("stable", old + 1)
    set_label(server.models, "stable", old)
    server.wait_for("stable", old)


def test_the_image_stops_when_it_is_told(server: Server) -> None:
    assert subprocess.run(server.health, capture_output=True).returncode == 0
    server.process.send_signal(getattr(signal, instructions("Dockerfile")["STOPSIGNAL"]))
    assert server.process.wait(30) == 0
    assert subprocess.run(server.health, capture_output=True).returncode != 0
