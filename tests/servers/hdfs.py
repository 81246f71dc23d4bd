"""A real HDFS: one NameNode and one DataNode, from the jars of Maven Central."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tests.servers.process import free_port, install_debian, install_jars, running

VERSION = "3.4.1"
USER = "skewless"


class Hdfs(NamedTuple):
    """A running HDFS."""

    port: int

    @property
    def options(self) -> list[str]:
        """Beam's options that reach it."""
        return ["--hdfs_host=127.0.0.1", f"--hdfs_port={self.port}", f"--hdfs_user={USER}"]


@contextlib.contextmanager
def hdfs() -> Iterator[Hdfs]:
    """Run an HDFS, for the block."""
    # The mini-cluster's jars hold all but JAXB, which Java itself had once.
    jars = install_jars(
        "hdfs",
        f"org.apache.hadoop:hadoop-client-minicluster:{VERSION}",
        "javax.xml.bind:jaxb-api:2.3.1",
        "com.sun.xml.bind:jaxb-core:2.3.0.1",
        "com.sun.xml.bind:jaxb-impl:2.3.9",
    )
    java = install_debian("java", "openjdk-17-jre-headless")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="skewless-hdfs-"))
    rpc, web, data, data_rpc, data_web = (free_port() for _ in range(5))
    _write(folder / "core-site.xml", {"fs.defaultFS": f"hdfs://127.0.0.1:{rpc}"})
    _write(
        folder / "hdfs-site.xml",
        {
            "dfs.replication": "1",
            "dfs.permissions.enabled": "false",
            "dfs.namenode.name.dir": f"file://{folder}/name",
            "dfs.namenode.http-address": f"127.0.0.1:{web}",
            "dfs.datanode.data.dir": f"file://{folder}/data",
            "dfs.datanode.address": f"127.0.0.1:{data}",
            "dfs.datanode.ipc.address": f"127.0.0.1:{data_rpc}",
            "dfs.datanode.http.address": f"127.0.0.1:{data_web}",
            "dfs.datanode.hostname": "127.0.0.1",
            "dfs.namenode.datanode.registration.ip-hostname-check": "false",
        },
    )
    heap = ["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    command = [java, *heap, "-cp", f"{folder}:{jars}/*"]
    server = "org.apache.hadoop.hdfs.server"
    try:
        format_ = [*command, f"{server}.namenode.NameNode", "-format", "-nonInteractive"]
        subprocess.run(format_, check=True, capture_output=True, timeout=120, cwd=folder)
        with (
            running(
                [*command, f"{server}.namenode.NameNode"],
                folder / "namenode.log",
                lambda: _answers(f"http://127.0.0.1:{web}/webhdfs/v1/?op=LISTSTATUS"),
            ),
            running(
                [*command, f"{server}.datanode.DataNode"],
                folder / "datanode.log",
                lambda: _has_data_node(web),
            ),
        ):
            yield Hdfs(web)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(path: pathlib.Path, settings: Mapping[str, str]) -> None:
    properties = "".join(
        f"<property><name>{name}</name><value>{value}</value></property>"
        for name, value in settings.items()
    )
    path.write_text(f'<?xml version="1.0"?><configuration>{properties}</configuration>')


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _has_data_node(web: int) -> bool:
    url = f"http://127.0.0.1:{web}/jmx?qry=Hadoop:service=NameNode,name=FSNamesystemState"
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return b'"NumLiveDataNodes" : 1' in answer.read()
    except (OSError, urllib.error.URLError):
        return False
