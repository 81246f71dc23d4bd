"""From a runner's name to one that is ready."""

import argparse
import logging

import pytest
from apache_beam.io.filesystems import FileSystems

from skewless.errors import RecipeError, RunError
from skewless.launch.notices import job_messages_hidden
from skewless.launch.runners.argument import NAMES
from skewless.launch.runners.choose import RUNNERS, execution_of, execution_on, prepared
from skewless.pipeline.execution import IN_PROCESS, Execution


def test_all_names_are_runners() -> None:
    assert tuple(RUNNERS) == NAMES


def test_in_process_with_the_options_given() -> None:
    found = execution_on("direct", ["--s3_endpoint_url=x"], analysis="tft")
    assert found == Execution(IN_PROCESS, ("--s3_endpoint_url=x",), "tft")


def test_an_option_that_nobody_has() -> None:
    with pytest.raises(RecipeError, match=r"^--paralelism: neither skewless nor Beam has this"):
        execution_on("direct", ["--paralelism=2"])


def test_what_is_missing_is_one_line_with_its_repair(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    expected = rf"^--runner flink: there is no Java at {tmp_path}/bin/java; install Java 17 .*"
    with pytest.raises(RunError, match=expected) as raised:
        execution_on("flink", [])
    assert "\n" not in str(raised.value)


def test_a_stream_on_spark_is_refused_before_java_is_looked_for(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(RunError, match="reads no unbounded source"):
        execution_on("spark", [], streaming=True)


def test_one_that_is_ready_is_taken() -> None:
    ready = Execution(analysis="tft")
    assert execution_of(argparse.Namespace(execution=ready)) is ready


def test_files_are_reached_with_the_options_of_a_command(monkeypatch) -> None:
    told = []
    monkeypatch.setattr(FileSystems, "set_options", told.append)
    options = argparse.Namespace(runner="direct", beam=["--hdfs_host=far"])
    assert execution_of(options).options == ("--hdfs_host=far",)
    assert told[0].get_all_options()["hdfs_host"] == "far"


def test_direct_is_probed_where_that_is_wanted() -> None:
    assert prepared("direct", [], probing=True) == Execution()


def test_of_a_job_server_only_the_messages_of_jobs_are_hidden() -> None:
    root = logging.getLogger()
    before = list(root.filters)
    job_messages_hidden()
    try:
        kept = []
        for path, function in (("portable_runner.py", "read_messages"), ("x.py", "read_messages")):
            record = logging.LogRecord("root", logging.ERROR, path, 1, "", (), None, function)
            kept.append(bool(root.filter(record)))
    finally:
        root.filters[:] = before
    assert kept == [False, True]
