"""A job server that somebody else has started."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

from skewless.errors import RunError
from skewless.launch.runners import flink, job_server, spark
from skewless.launch.runners.flags import Flags
from skewless.launch.runners.job_server import find_job_server
from tests.servers.process import free_port


class Service(beam_job_api_pb2_grpc.JobServiceServicer):  # type: ignore[misc]
    def DescribePipelineOptions(self, request: Any, context: Any) -> Any:  # noqa: N802
        del request, context
        option = beam_job_api_pb2.PipelineOptionDescriptor(name="checkpointing_interval")
        return beam_job_api_pb2.DescribePipelineOptionsResponse(options=[option])


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    beam_job_api_pb2_grpc.add_JobServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_it_tells_the_options_that_its_runner_has(endpoint: str) -> None:
    found = find_job_server(endpoint)
    assert found == job_server.JobServer(endpoint, frozenset(["checkpointing_interval"]))


def test_where_none_answers_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_server, "_START_SECONDS", 0.5)
    endpoint = f"127.0.0.1:{free_port()}"
    with pytest.raises(RunError, match=f"--job_endpoint={endpoint}: no job server answers"):
        find_job_server(endpoint)


@pytest.mark.parametrize("runner", [flink, spark])
def test_it_needs_no_java_here(runner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    given = Flags(["--flink_master=[local]", "--spark_master_url=local"])
    assert not all(one.ok for one in runner.check(given, streaming=False))
    given = Flags([*given.words, "--job_endpoint=localhost:8099"])
    assert all(one.ok for one in runner.check(given, streaming=False))
