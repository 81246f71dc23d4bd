"""moto's server: S3's API, and the keys that a client needs to call it."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator

import boto3

from tests.servers.process import free_port, install_python, listens, running

BUCKET = "skewless-test"
# To be found nowhere but in the environment.
SECRET = "pl4nted-s3-s3cret-key"


@contextlib.contextmanager
def s3(folder: pathlib.Path) -> Iterator[str]:
    """Run a server whose keys are in the environment; give its URL."""
    programs = install_python("s3", "moto[server,s3]")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(programs / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    keys = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with running(command, folder / "s3.log", lambda: listens(port)):
        before = {name: os.environ.get(name) for name in keys}
        os.environ.update(keys)
        try:
            boto3.client("s3", endpoint_url=url).create_bucket(Bucket=BUCKET)
            yield url
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
