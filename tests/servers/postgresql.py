"""PostgreSQL, from Debian's package, as a cluster of its own on a free port."""

from __future__ import annotations

import contextlib
import os
import pathlib
import pwd
import shutil
import subprocess
import tempfile
import urllib.parse
from collections.abc import Iterator
from typing import NamedTuple

from tests.servers.process import free_port, install_debian, listens, missing, running

USER, DATABASE = "skewless", "postgres"

# To be found nowhere. It needs quoting in a URI.
PASSWORD = "pl4nted/s3cret@home"


class PostgreSql(NamedTuple):
    """A running server."""

    port: int

    @property
    def place(self) -> str:
        return f"postgresql:127.0.0.1:{self.port}/{DATABASE}"

    @property
    def uri(self) -> str:
        """The URI, without the password."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def whole_uri(self) -> str:
        quoted = urllib.parse.quote(PASSWORD, safe="")
        return f"postgresql://{USER}:{quoted}@127.0.0.1:{self.port}/{DATABASE}"


def programs() -> pathlib.Path:
    """Return the folder of the newest server's programs, installed where there is none."""
    root = pathlib.Path("/usr/lib/postgresql")
    if not list(root.glob("*/bin/initdb")):
        install_debian("pg_lsclusters", "postgresql")
    found = sorted(root.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        missing("PostgreSQL is missing, also after apt-get install postgresql")
    return found[-1].parent


@contextlib.contextmanager
def postgresql() -> Iterator[PostgreSql]:
    """Run a server, for the block."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="skewless-postgresql-"))
    try:
        yield from _running(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _running(folder: pathlib.Path) -> Iterator[PostgreSql]:
    binaries, data, port = programs(), folder / "data", free_port()
    secret = folder / "password"
    secret.write_text(PASSWORD)
    as_user: list[str] = []
    if os.geteuid() == 0:  # which PostgreSQL refuses to run as
        try:
            owner = pwd.getpwnam("postgres")
        except KeyError:
            missing("there is no user postgres, as whom root could start PostgreSQL")
        for path in (folder, secret):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        ids = [f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}"]
        as_user = ["setpriv", *ids, "--clear-groups"]
    initdb = [str(binaries / "initdb"), "-D", str(data), "-U", USER, "--auth=scram-sha-256"]
    encoding = ["-E", "UTF8", "--locale=C", f"--pwfile={secret}", "--no-sync"]
    subprocess.run([*as_user, *initdb, *encoding], check=True, capture_output=True, cwd=folder)
    settings = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": str(folder),
        "fsync": "off",
        "max_connections": "50",
        "shared_buffers": "32MB",
        "log_statement": "none",
    }
    server = [str(binaries / "postgres"), "-D", str(data), "-p", str(port)]
    options = [f"--{name}={value}" for name, value in settings.items()]
    with running(
        [*as_user, *server, *options],
        folder / "server.log",
        lambda: listens(port),
        cwd=folder,
    ):
        yield PostgreSql(port)
