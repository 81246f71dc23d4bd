"""Redis, from Debian's package, on a free port and with a password."""

from __future__ import annotations

import contextlib
import pathlib
import urllib.parse
from collections.abc import Iterator
from typing import NamedTuple

from tests.servers.process import free_port, install_debian, listens, running

# To be found nowhere. It needs quoting in a URL.
PASSWORD = "pl4nted/s3cret@redis"


class Redis(NamedTuple):
    """A running server."""

    port: int

    @property
    def place(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def url(self) -> str:
        """The URL, with the password."""
        return f"redis://:{urllib.parse.quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/0"


@contextlib.contextmanager
def redis(folder: pathlib.Path, durable: bool = False, port: int | None = None) -> Iterator[Redis]:
    """Run a server, for the block.

    Args:
        folder: Where its log and its data go.
        durable: Whether what is committed is on the disk, for the next server of the folder.
        port: Where it listens; None for any that is free.
    """
    program = install_debian("redis-server", "redis-server")
    port = port or free_port()
    command = [program, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
    command += ["--requirepass", PASSWORD, "--save", ""]
    command += ["--appendonly", "yes" if durable else "no", "--appendfsync", "always"]
    with running(command, folder / "redis.log", lambda: listens(port)):
        yield Redis(port)
