"""Beam's job server, a Java program: started once for all pipelines of a command."""

from __future__ import annotations

import atexit
import dataclasses
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence

import grpc
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

from skewless.errors import RunError

__all__ = ["JobServer", "find_job_server", "start_job_server"]

_START_SECONDS = 30.0
_LOOK_SECONDS = 0.2
# A line of a log or of a stack trace that says what went wrong.
_SAYS_WHY = re.compile(r"error|exception|could not|cannot|unable", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class JobServer:
    """A job server that runs.

    Args:
        endpoint: Where it takes jobs.
        options: The names of the options that its runner has.
    """

    endpoint: str
    options: frozenset[str]


def start_job_server(command: Sequence[str]) -> JobServer:
    """Start a job server, which ends with this process.

    Args:
        command: The program with its arguments, but for ports and the folder of artifacts.

    Raises:
        RunError: If it does not answer within 30 seconds.
    """
    folder = pathlib.Path(tempfile.mkdtemp(prefix="skewless-jobs-"))
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    words = [*command, "--job-port", str(port), "--artifact-port", "0", "--expansion-port", "0"]
    if setpriv := shutil.which("setpriv"):
        # However this process ends, so does the server: the kernel sees to it.
        words = [setpriv, "--pdeathsig", "TERM", *words]
    log = folder / "job_server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*words, "--artifacts-dir", str(folder / "artifacts")],
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for this process, which cancels the job and then stops the server.
            start_new_session=True,
        )
    atexit.register(_stop, process, folder)
    server = _wait_for(f"localhost:{port}", lambda: process.poll() is None)
    if server is None:
        said = log.read_text(errors="replace").splitlines()
        why = next((line.strip() for line in said if _SAYS_WHY.search(line)), "it says nothing")
        raise RunError(f"the job server did not start: {why}")
    return server


def find_job_server(endpoint: str) -> JobServer:
    """Return a job server that somebody else has started, or is starting.

    Args:
        endpoint: HOST:PORT, where it takes jobs.

    Raises:
        RunError: If it does not answer within 30 seconds.
    """
    server = _wait_for(endpoint, lambda: True)
    if server is None:
        raise RunError(
            f"--job_endpoint={endpoint}: no job server answers there; start it, or leave the "
            "option out to have one started"
        )
    return server


def _wait_for(endpoint: str, may_come: Callable[[], bool]) -> JobServer | None:
    """Return the server as soon as it tells its options; None if it does not."""
    end = time.monotonic() + _START_SECONDS
    with grpc.insecure_channel(endpoint) as channel:
        jobs = beam_job_api_pb2_grpc.JobServiceStub(channel)
        request = beam_job_api_pb2.DescribePipelineOptionsRequest()
        while time.monotonic() < end and may_come():
            try:
                told = jobs.DescribePipelineOptions(request, timeout=_START_SECONDS)
            except grpc.RpcError:
                time.sleep(_LOOK_SECONDS)
            else:
                return JobServer(endpoint, frozenset(option.name for option in told.options))
    return None


def _stop(process: subprocess.Popen[bytes], folder: pathlib.Path) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    shutil.rmtree(folder, ignore_errors=True)
