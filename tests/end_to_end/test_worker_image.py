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

import skewless
from skewless.launch.deploy import write_files
from skewless.pipeline.artifacts import SPLITS
from skewless.pipeline.batch import WriteRows, typed_recipe
from skewless.pipeline.execution import Execution
from skewless.pipeline.journey import Result
from skewless.pipeline.recipe import load_recipe
from skewless.pipeline.rows import ReadRows
from skewless.storage import path_of
from tests.containers import DEPLOY, instructions
from tests.servers import boot, prism
from tests.wheel import OURS, build, copy_tree, fresh_environment

pytestmark = pytest.mark.integration

IMAGE = instructions("Dockerfile.worker")


class Image(NamedTuple):
    """A directory that stands for the image's file system, and its environment."""

    python: pathlib.Path
    env: dict[str, str]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("context")
    write_files(folder)
    (wheel,) = build(copy_tree(tmp_path_factory.mktemp("tree")), "wheel").glob("*.whl")
    wheel.rename(folder / wheel.name)
    return folder


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
