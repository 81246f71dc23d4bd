"""What Dockerfile.worker and Dockerfile.flex-template do, step by step, without Docker."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import apache_beam as beam
import pyarrow.parquet as pq
import pytest
import yaml

import skewless
from skewless.launch.command_line import make_parser
from skewless.launch.runners.choose import execution_on
from skewless.pipeline import probing
from skewless.pipeline.artifacts import SPLITS
from skewless.pipeline.batch import WriteRows, typed_recipe
from skewless.pipeline.execution import Execution
from skewless.pipeline.journey import Result
from skewless.pipeline.recipe import load_recipe
from skewless.pipeline.rows import ReadRows
from skewless.storage import path_of
from tests.containers import DEPLOY, instructions
from tests.servers import boot, flink, prism
from tests.servers.process import free_port, install_debian, listens, missing, running
from tests.wheel import OURS, fresh_environment

pytestmark = pytest.mark.integration

IMAGE = instructions("Dockerfile.worker")


class Image(NamedTuple):
    """A directory that stands for the image's file system, and its environment."""

    python: pathlib.Path
    env: dict[str, str]


@pytest.fixture(scope="module")
def image(context: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The stage of the Dockerfile that installs; the packages of this environment are there."""
    (wheel,) = context.glob("skewless-*.whl")
    programs = fresh_environment(tmp_path_factory.mktemp("image") / "python", wheel)
    variables = dict(word.split("=", 1) for word in shlex.split(IMAGE["ENV"]))
    path = f"{programs}:{os.environ['PATH']}"
    return Image(programs / "python", {**variables, "PATH": path, "PYTHONPATH": str(OURS)})


def step(beginning: str) -> str:
    (found,) = [line for line in IMAGE["RUN"].splitlines() if line.startswith(beginning)]
    return found


def test_what_it_installs_fits_together(context: pathlib.Path) -> None:
    """Its `pip install`, where all is installed already: nothing is to be got, nothing clashes."""
    install, check = step("pip install").split(" && ")
    extras = re.search(r"^ARG EXTRAS=(.*)$", (DEPLOY / "Dockerfile.worker").read_text(), re.M)
    assert extras is not None
    words = install.replace("${EXTRAS}", extras[1]).replace("/install/", f"{context}/")
    offline = "--dry-run --no-index --no-build-isolation"
    command = f'"{sys.executable}" -m {words} {offline}'
    shell = json.loads(IMAGE["SHELL"])
    done = subprocess.run([*shell, command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = re.search(r"^Would install (.*)$", done.stdout, re.MULTILINE)
    missing = said[1].split() if said else []
    assert [name for name in missing if not name.startswith("skewless-")] == []
    done = subprocess.run(
        [sys.executable, "-m", *check.split()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_its_libraries_are_imported_once_while_it_is_built(image: Image) -> None:
    done = subprocess.run(
        step("python -c"),
        shell=True,
        env={**os.environ, **image.env},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def workers(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image's entry point, ready to be started."""
    assert json.loads(IMAGE["ENTRYPOINT"]) == ["/opt/apache/beam/boot"]
    assert "--from=beam /opt/apache/beam /opt/apache/beam" in IMAGE["COPY"].splitlines()
    with boot.pool(image.python, tmp_path_factory.mktemp("pool"), image.env) as address:
        yield address


def test_its_entry_point_runs_a_recipe(
    workers: str, image: Image, recipe_file: pathlib.Path, result: Result, tmp_path: pathlib.Path
) -> None:
    options = (
        f"--prism_location={prism.install()}",
        "--environment_type=EXTERNAL",
        f"--environment_config={workers}",
    )
    execution = Execution("PrismRunner", options)
    typed, schema = typed_recipe(load_recipe(recipe_file), result.paths)
    made = tmp_path / "made"
    (made / "rejected" / "rows").mkdir(parents=True)
    write = WriteRows(ReadRows(typed, schema, (), str(tmp_path / "work")), str(made))
    execution.run(write, within=120)
    for split in SPLITS:
        parts = [path for *_, path, _ in json.loads((made / f"{split}.json").read_text())]
        rows = sum(pq.read_metadata(str(path_of(part))).num_rows for part in parts)
        assert rows == sum(pq.read_metadata(one).num_rows for one in result.paths.row_parts(split))
    execution.run(_Where(str(tmp_path / "where")), within=120)
    said = (tmp_path / "where").read_text().strip()
    # The wheel's, not that of the repository.
    assert pathlib.Path(said).is_relative_to(image.python.parents[1])


def test_a_stream_on_flink_starts_as_its_manifests_say(
    workers: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Job's server and its arguments, with a pool of workers: they answer."""
    # Before it starts Python, the entry point has pip list all packages.
    monkeypatch.setattr(probing, "_ANSWER_SECONDS", 90.0)
    objects = {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "flink.yaml").read_text())}
    pod = objects["Job"]["spec"]["template"]["spec"]
    (server,), (stream,) = pod["initContainers"], pod["containers"]
    port = free_port()
    with flink.session_cluster(tmp_path) as cluster:
        here = ("skewless-flink-rest:8081", cluster.master), ("8099", str(port))
        served, given = (
            [_moved(word, *here, ("/data", str(tmp_path))) for word in one["args"]]
            for one in (server, stream)
        )
        java = [install_debian("java", "openjdk-17-jre-headless"), "-jar"]
        # Several of them may run on one machine.
        ports = ["--artifact-port=0", "--expansion-port=0"]
        command = [*java, str(flink.job_server_jar()), *served, *ports]
        with running(command, tmp_path / "job_server.log", lambda: listens(port)):
            _, given = make_parser().parse_known_args(given)
            # The cluster is of this machine, for which workers would be in this process.
            pool = ["--environment_type=EXTERNAL", f"--environment_config={workers}"]
            execution = execution_on("flink", [*given, *pool], streaming=True)
            assert execution.further >= {"externalized_checkpoints_enabled"}
            assert "--streaming" in execution.options


def _moved(word: str, *places: tuple[str, str]) -> str:
    for there, here in places:
        word = word.replace(there, here)
    return word


def test_as_a_pool_its_entry_point_listens(image: Image, tmp_path: pathlib.Path) -> None:
    objects = {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "flink.yaml").read_text())}
    template = objects["FlinkDeployment"]["spec"]["taskManager"]["podTemplate"]
    (pool,) = [one for one in template["spec"]["containers"] if one["name"] == "workers"]
    (port,) = [one["containerPort"] for one in pool["ports"]]
    if listens(port):
        missing(f"somebody listens at {port}, which is the port of the entry point")
    command = [str(boot.install()), *pool["args"]]
    log = tmp_path / "pool.log"
    with running(command, log, lambda: listens(port), image.env, cwd=tmp_path):
        pass
    assert "Starting worker pool" in log.read_text()


class _Where(beam.PTransform):  # type: ignore[misc]
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[str]:
        begin = begin | beam.Create([None]) | beam.Map(lambda _: skewless.__file__)
        return begin | beam.io.WriteToText(self._path, shard_name_template="")


def test_the_launcher_s_program_answers(image: Image, tmp_path: pathlib.Path) -> None:
    launcher = instructions("Dockerfile.flex-template")
    assert json.loads(launcher["ENTRYPOINT"]) == ["/opt/google/dataflow/python_template_launcher"]
    steps = launcher["RUN"].replace("/template", str(tmp_path / "template"))
    subprocess.run(steps, shell=True, check=True)
    variables = dict(word.split("=", 1) for word in shlex.split(launcher["ENV"]))
    program = variables["FLEX_TEMPLATE_PYTHON_PY_FILE"].replace("/template", f"{tmp_path}/template")
    assert set(variables) == {"FLEX_TEMPLATE_PYTHON_PY_FILE", "SKEWLESS_WORKER_IMAGE"}
    done = subprocess.run(
        [image.python, program, "--command=stream"],
        env={**os.environ, **image.env},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "there is no --recipe; stream needs it" in done.stderr.splitlines()[-1]
