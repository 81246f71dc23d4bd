"""The entry point of Beam's worker images, built from the Go module proxy, and a pool of them."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator, Mapping

from apache_beam.version import __version__ as beam_version

from tests.servers.process import free_port, install_go, listens, running


def install() -> pathlib.Path:
    """Return the path of the program, which an image has at /opt/apache/beam/boot."""
    return install_go("boot", f"github.com/apache/beam/sdks/v2/python/container@v{beam_version}")


@contextlib.contextmanager
def pool(python: pathlib.Path, folder: pathlib.Path, env: Mapping[str, str]) -> Iterator[str]:
    """Run what starts the program whenever a worker is asked for; give its address.

    Args:
        python: The Python of the image.
        folder: Where its log goes.
        env: The image's environment variables.
    """
    port = free_port()
    command = [str(python), "-m", "apache_beam.runners.worker.worker_pool_main"]
    command += [f"--service_port={port}", f"--container_executable={install()}"]
    with running(command, folder / "pool.log", lambda: listens(port), env, cwd=folder):
        yield f"localhost:{port}"
