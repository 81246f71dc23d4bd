"""Google's own Pub/Sub emulator. It keeps nothing: a restarted one is empty."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator

from tests.servers.process import free_port, install_debian, listens, running

PACKAGE = "google-cloud-cli-pubsub-emulator"
PROGRAM = "/usr/lib/google-cloud-sdk/platform/pubsub-emulator/bin/cloud-pubsub-emulator"


@contextlib.contextmanager
def pubsub_emulator(folder: pathlib.Path, port: int | None = None) -> Iterator[int]:
    """Run an emulator that clients of this process find; give its port."""
    program = install_debian(PROGRAM, PACKAGE)
    port = port or free_port()
    command = [program, "--host=127.0.0.1", f"--port={port}"]
    env = {"JAVA_OPTS": "-Xmx256m -XX:TieredStopAtLevel=1"}
    before = os.environ.get("PUBSUB_EMULATOR_HOST")
    with running(command, folder / "pubsub.log", lambda: listens(port), env):
        os.environ["PUBSUB_EMULATOR_HOST"] = f"127.0.0.1:{port}"
        try:
            yield port
        finally:
            del os.environ["PUBSUB_EMULATOR_HOST"]
            if before is not None:
                os.environ["PUBSUB_EMULATOR_HOST"] = before
