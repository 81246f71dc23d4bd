"""Jobs for Dataflow, submitted for real to a recorder, with a real server for what is staged."""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest
from apache_beam.io.filesystems import FileSystems

from skewless import __version__
from skewless.errors import RunError
from skewless.launch import flex_template
from skewless.launch.command_line import main
from skewless.launch.runners import dataflow as runner
from skewless.launch.runners.choose import execution_on
from skewless.launch.runners.flags import Flags
from skewless.pipeline.artifacts import RunPaths
from skewless.pipeline.batch import WriteRows, typed_recipe
from skewless.pipeline.execution import Execution
from skewless.pipeline.journey import Result
from skewless.pipeline.recipe import load_recipe
from skewless.pipeline.rows import ReadRows
from tests.end_to_end.conftest import RECIPE
from tests.end_to_end.dataflow_jobs import (
    REQUEST_BYTES,
    ROOT,
    check_job,
    check_sdist,
    check_stream_job,
    fetch,
    names_of,
    options_of,
    pipeline_of,
    send,
    staged,
)
from tests.servers import gcs
from tests.servers.dataflow import Recorder, dataflow
from tests.servers.pubsub import Queue, pubsub_emulator
from tests.servers.redis import redis
from tests.what_works import works
from tests.wheel import ROOT as WORKTREE

pytestmark = pytest.mark.integration

NAMED = ("--project=skewless-tests", "--region=europe-west1", f"--temp_location={ROOT}/tmp")
SDIST = f"skewless-{__version__}.tar.gz"
IMAGE = "europe-docker.pkg.dev/skewless-tests/images/skewless:1"


class Cloud(NamedTuple):
    """The recorder, and Beam's options by which everything is reached."""

    recorder: Recorder
    words: tuple[str, ...]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with gcs.gcs(tmp_path_factory.mktemp("gcs")), dataflow() as recorder:
        words = (*NAMED, "--no_auth", f"--dataflow_endpoint={recorder.url}")
        Execution(options=words).reach_files()
        yield Cloud(recorder, words)
        FileSystems.set_options(None)


@pytest.fixture
def cloud(servers: Cloud) -> Cloud:
    servers.recorder.forget()
    return servers


@pytest.fixture(scope="module")
def recipe_there(
    servers: Cloud,
    flights_csv: pathlib.Path,
    weather_csv: pathlib.Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> pathlib.Path:
    """The small recipe, with what it reads in the bucket."""
    for path in (flights_csv, weather_csv):
        send(path.read_bytes(), f"inputs/{path.name}")
    text = RECIPE.format(flights=f"{ROOT}/inputs/flights.csv", weather=f"{ROOT}/inputs/weather.csv")
    recipe = tmp_path_factory.mktemp("there") / "small_recipe.py"
    recipe.write_text(text)
    return recipe


@pytest.fixture(scope="module")
def run_there(servers: Cloud, result: Result) -> str:
    """A finished run in the bucket."""
    for file in result.paths.root.rglob("*"):
        if file.is_file():
            send(file.read_bytes(), f"runs/small/{file.relative_to(result.paths.root)}")
    return f"{ROOT}/runs/small"


# --- Batch ----------------------------------------------------------------------------


def write_rows(recipe: pathlib.Path, run: RunPaths) -> WriteRows:
    typed, schema = typed_recipe(load_recipe(recipe), run)
    return WriteRows(ReadRows(typed, schema, (), f"{ROOT}/work/tmp"), f"{ROOT}/work")


@works("run, verify, predict, backfill", "Dataflow", says="a run's job checked")
def test_a_batch_job_has_all_that_a_worker_needs(
    cloud: Cloud, recipe_there: pathlib.Path, result: Result
) -> None:
    words = [*cloud.words, *runner.recipe_labels(recipe_there), "--labels=team=ml"]
    execution = execution_on("dataflow", words)
    execution.run(write_rows(recipe_there, result.paths))
    job = cloud.recorder.job
    check_job(job, "BATCH")
    assert job["labels"]["team"] == "ml"
    assert job["labels"]["skewless_recipe"] == "small"
    digest = load_recipe(recipe_there).digest()
    assert digest.startswith(job["labels"]["skewless_recipe_version"])
    files = staged(job)
    check_sdist(files.pop(SDIST))
    assert files.pop("extra_packages.txt") == f"{SDIST}\n".encode()
    assert set(files) <= {"submission_environment_dependencies.txt"}
    pipeline = pipeline_of(job)
    assert {"ReadRows", "WriteTrain", "WriteEval", "WriteTest"} <= names_of(pipeline)
    # No row, no table and no graph is inside.
    assert pipeline.ByteSize() < 1 << 20


def test_setup_file_brings_it_as_beam_has_it(
    cloud: Cloud, recipe_there: pathlib.Path, result: Result
) -> None:
    words = [*cloud.words, f"--setup_file={WORKTREE / 'setup.py'}"]
    execution_on("dataflow", words).run(write_rows(recipe_there, result.paths))
    files = staged(cloud.recorder.job)
    check_sdist(files.pop("workflow.tar.gz"))
    assert SDIST not in files


def test_an_image_is_taken_instead(
    cloud: Cloud, recipe_there: pathlib.Path, result: Result
) -> None:
    words = [*cloud.words, f"--sdk_container_image={IMAGE}"]
    execution_on("dataflow", words).run(write_rows(recipe_there, result.paths))
    job = cloud.recorder.job
    assert set(staged(job)) <= {"submission_environment_dependencies.txt"}
    (pool,) = job["environment"]["workerPools"]
    assert pool["workerHarnessContainerImage"] == IMAGE
    assert {one["containerImage"] for one in pool["sdkHarnessContainerImages"]} == {IMAGE}


def test_two_thousand_columns_are_far_from_the_limit(cloud: Cloud, tmp_path: pathlib.Path) -> None:
    names = [f"measurement_{i:04d}" for i in range(2000)]
    rows = [",".join([*names, "day", "label"])]
    rows += [
        ",".join(["1.5"] * 2000 + [f"2026-01-{day:02d}T00:00:00Z", "1"]) for day in range(1, 9)
    ]
    send("\n".join(rows).encode(), "inputs/wide.csv")
    wide = f"""
import skewless as sk
NAMES = [f"measurement_{{i:04d}}" for i in range(2000)]
recipe = sk.Recipe(
    name="wide",
    source=sk.ReadCsv("{ROOT}/inputs/wide.csv", event_time="day"),
    features={{name: sk.numeric(name).impute(0.0).zscore() for name in NAMES}},
    label=sk.label("label").greater_than(0),
    split=sk.SplitByTime(train_until="2026-01-05", eval_until="2026-01-07"),
    model=sk.Linear(),
)
"""
    (tmp_path / "wide.py").write_text(wide)
    local = tmp_path / "local.py"
    local.write_text(wide.replace(f"{ROOT}/inputs/", f"{tmp_path}/"))
    (tmp_path / "wide.csv").write_text("\n".join(rows))
    schemas = RunPaths(tmp_path / "run")
    from skewless.pipeline.batch import _infer

    _infer(schemas, load_recipe(local), Execution())
    execution_on("dataflow", cloud.words).run(write_rows(tmp_path / "wide.py", schemas))
    job = cloud.recorder.job
    check_job(job, "BATCH")
    assert pipeline_of(job).ByteSize() < REQUEST_BYTES / 4


def test_a_run_whose_job_fails_says_why_in_one_line(
    cloud: Cloud,
    recipe_there: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cloud.recorder.state = "JOB_STATE_FAILED"
    cloud.recorder.error = (
        "Traceback (most recent call last):\n  File ...\n"
        "skewless.errors.DataError: flights.csv: there is no such file [while running 'Read']\n"
    )
    words = ["transform", str(recipe_there), "--output", f"{ROOT}/failing", "--runner", "dataflow"]
    assert main([*words, *cloud.words]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1] == "skewless: flights.csv: there is no such file"
    assert cloud.recorder.job["labels"]["skewless_recipe"] == "small"


# --- Stream ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stream_options(run_there: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """What `skewless stream` is given besides a recipe; all of it is there."""
    with (
        redis(tmp_path_factory.mktemp("redis")) as store,
        pubsub_emulator(tmp_path_factory.mktemp("pubsub")),
    ):
        queue = Queue()
        yield [
            f"--run={run_there}",
            f"--store={store.url}",
            f"--source=pubsub:{queue.subscription}",
            f"--output={ROOT}/streamed",
            f"--to=pubsub:{queue.topic}",
        ]


@works("a stream of Pub/Sub", "Dataflow", says="job checked")
def test_a_stream_job_reads_with_dataflow_and_writes_alone(
    cloud: Cloud, recipe_there: pathlib.Path, stream_options: list[str]
) -> None:
    given = ["stream", str(recipe_there), *stream_options, "--predict", "--runner=dataflow"]
    # The recorder's job is done at once, and a stream that has ended is accounted for.
    assert main([*given, *cloud.words]) == 0
    job = cloud.recorder.job
    check_stream_job(job)
    check_sdist(staged(job)[SDIST])
    assert job["labels"]["skewless_recipe"] == "small"
    # The right side of the join lies where workers can read it.
    assert fetch(f"{ROOT}/streamed/.right/weather.arrow")[:6] == b"ARROW1"


# --- Flex Template --------------------------------------------------------------------


def launch(words: Sequence[str], cloud: Cloud, name: str) -> dict[str, Any]:
    """Do what Google's launcher does: run the program with parameters, then take its job."""
    location = f"{ROOT}/launches/{name}/job_object"
    given = [
        *words,
        *cloud.words,
        "--runner=DataflowRunner",
        f"--job_name={name}",
        f"--template_location={location}",
    ]
    assert flex_template.main(given) == 0
    assert not cloud.recorder.jobs, "Google submits the job, not the launcher"
    job: dict[str, Any] = json.loads(fetch(location))
    # As a request has it, for enumerations are numbers there.
    job["type"] = {"JOB_TYPE_BATCH": 1, "JOB_TYPE_STREAMING": 2}[job["type"]]
    assert job["name"] == name
    return job


def test_a_template_makes_the_job_of_a_stream(
    cloud: Cloud,
    recipe_there: pathlib.Path,
    stream_options: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SKEWLESS_WORKER_IMAGE", IMAGE)
    send(recipe_there.read_bytes(), "recipes/small_recipe.py")
    words = ["--command=stream", f"--recipe={ROOT}/recipes/small_recipe.py", "--predict=true"]
    job = launch([*words, *stream_options], cloud, "stream")
    check_stream_job(job)
    assert job["labels"]["skewless_recipe"] == "small"
    assert job["labels"]["skewless_command"] == "stream"
    (pool,) = job["environment"]["workerPools"]
    assert pool["workerHarnessContainerImage"] == IMAGE


def test_a_template_makes_a_job_that_conducts_a_run(
    cloud: Cloud,
    recipe_there: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    send(recipe_there.read_bytes(), "recipes/small_recipe.py")
    recipe = f"{ROOT}/recipes/small_recipe.py"
    words = ["--command=transform", f"--recipe={recipe}", f"--output={ROOT}/runs"]
    job = launch(words, cloud, "transform")
    check_job(job, "BATCH")
    check_sdist(staged(job)[SDIST])
    (pool,) = job["environment"]["workerPools"]
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 1
    assert "Conduct" in names_of(pipeline_of(job))
    # What its worker does: the first of the run's own jobs, which computes nothing here.
    with pytest.raises(RunError, match="schema"):
        flex_template.conduct(["transform", f"--output={ROOT}/runs", recipe, *cloud.words], recipe)
    conducted = cloud.recorder.job
    check_job(conducted, "BATCH")
    assert conducted["labels"]["skewless_recipe"] == "small"
    assert "templateLocation" not in options_of(conducted)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--command=fly"], "--command=fly: expected one of stream, run"),
        (["--command=stream"], "there is no --recipe; stream needs it"),
        (["--command=predict", "--hold=1m"], "--hold=1m: predict has no such parameter"),
        (
            ["--command=run", "--recipe=r.py", "--analysis=none"],
            "--analysis=none: expected one of auto",
        ),
        (
            ["--command=run", f"--recipe={ROOT}/no.py", f"--output={ROOT}/runs"],
            "no.py",
        ),
    ],
)
def test_a_wrong_parameter_is_one_line(
    cloud: Cloud, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert flex_template.main([*words, *cloud.words]) in (1, 2)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line


# --- What is wrong ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"project": None}, "there is no --project; give Google Cloud's"),
        ({"project": "Mine"}, "--project=Mine: not the id of a project"),
        ({"region": None}, "there is no --region; say where"),
        ({"region": "europe"}, "--region=europe: not a region"),
        ({"temp_location": None}, "there is no --temp_location; give a folder of a bucket"),
        ({"temp_location": "/tmp"}, "--temp_location=/tmp: workers cannot reach it"),
        ({"temp_location": "gs://nobodys-bucket/tmp"}, "there is no such bucket; make it"),
        ({"labels": "Team=ML"}, "--labels=Team=ML: expected KEY=VALUE of lower-case letters"),
        ({"dataflow_endpoint": "http://localhost:1"}, "Connection refused; see that"),
    ],
)
def test_a_wrong_option_is_one_line_at_once(
    cloud: Cloud,
    recipe_there: pathlib.Path,
    changed: dict[str, str | None],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
    monkeypatch.delenv("CLOUDSDK_COMPUTE_REGION", raising=False)
    flags = {**Flags(cloud.words), **changed}
    words = [f"--{name}={value}" for name, value in flags.items() if value is not None]
    started = time.monotonic()
    given = ["transform", str(recipe_there), "--output", f"{ROOT}/wrong", "--runner", "dataflow"]
    assert main([*given, *words]) == 1
    assert time.monotonic() - started < 30
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("skewless: --runner dataflow: ")
    assert said in line
    assert not cloud.recorder.jobs


@pytest.mark.parametrize("when", ["asked", "submitted"])
def test_no_permission_is_one_line_at_once(
    cloud: Cloud,
    recipe_there: pathlib.Path,
    when: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cloud.recorder.refuse = (403, "Permission dataflow.jobs.create denied on skewless-tests")
    cloud.recorder.refuse_only = "" if when == "asked" else "POST"
    started = time.monotonic()
    given = ["transform", str(recipe_there), "--output", f"{ROOT}/wrong", "--runner", "dataflow"]
    assert main([*given, *cloud.words]) == 1
    assert time.monotonic() - started < 30
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "Permission dataflow.jobs.create denied" in line
    assert not cloud.recorder.jobs


def test_without_credentials_that_is_said_at_once(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    started = time.monotonic()
    given = Flags([word for word in cloud.words if word != "--no_auth"])
    found = [finding for finding in runner.check(given, streaming=False) if not finding.ok]
    assert time.monotonic() - started < 30
    (missing,) = found
    assert "there are no credentials for Google Cloud" in missing.what
    assert "gcloud auth application-default login" in missing.repair


def test_a_service_that_never_answers_is_given_up(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.recorder.pause_seconds = 60.0
    monkeypatch.setattr(runner, "_ANSWER_SECONDS", 1.0)
    started = time.monotonic()
    found = [one for one in runner.check(Flags(cloud.words), streaming=False) if not one.ok]
    assert time.monotonic() - started < 15
    (missing,) = found
    assert "Dataflow does not answer" in missing.what
