"""A job server is started, or says why it was not."""

import sys

import pytest
from apache_beam.portability.api import beam_job_api_pb2

from skewless.errors import RunError
from skewless.launch.runners import job_server
from skewless.launch.runners.job_server import start_job_server

# Without Beam, whose import takes seconds: it answers everything with the bytes it is given.
SERVER = """
import concurrent.futures, sys, threading
import grpc

class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda *_: bytes.fromhex(sys.argv[1]))

server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
server.add_generic_rpc_handlers([Handler()])
server.add_insecure_port("localhost:" + sys.argv[sys.argv.index("--job-port") + 1])
server.start()
threading.Event().wait()
"""


@pytest.fixture
def ends(monkeypatch):
    """What is registered for the end of this process, done when the test ends."""
    registered = []
    monkeypatch.setattr(job_server.atexit, "register", lambda *call: registered.append(call))
    yield registered
    for function, *arguments in registered:
        function(*arguments)


def test_it_tells_where_it_is_and_which_options_it_has(ends) -> None:
    option = beam_job_api_pb2.PipelineOptionDescriptor(name="checkpointing_interval")
    answer = beam_job_api_pb2.DescribePipelineOptionsResponse(options=[option])
    told = answer.SerializeToString().hex()
    server = start_job_server([sys.executable, "-c", SERVER, told])
    assert server.endpoint.startswith("localhost:")
    assert server.options == {"checkpointing_interval"}
    ((stop, process, folder),) = ends
    assert process.poll() is None
    stop(process, folder)
    assert process.poll() is not None
    assert not folder.exists()


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("raise SystemExit('starting\\nException: no room\\n  at here')", "Exception: no room"),
        ("print('starting')", "it says nothing"),
    ],
)
def test_why_it_did_not_start_is_one_line(program: str, why: str, ends) -> None:
    with pytest.raises(RunError, match=rf"^the job server did not start: {why}$"):
        start_job_server([sys.executable, "-c", program])
