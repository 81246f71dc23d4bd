"""An emulator of BigQuery: REST, and the Storage APIs that read and write."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import io
import pathlib
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery
from google.cloud.bigquery_storage_v1 import types

from tests.servers.process import FOLDER, free_port, install_python, listens, running

PROJECT = "test-project"

_DUCKDB = "1.5.5"
_REQUIREMENTS = (
    "bqemulator==1.4.0",
    f"duckdb=={_DUCKDB}",
    f"duckdb-extension-spatial=={_DUCKDB}",
    "numpy",
    "pytz",
)


@dataclasses.dataclass
class BigQuery:
    """A running emulator.

    Attributes:
        endpoint: The URL of its REST API.
        storage_endpoint: Host and port of its Storage APIs.
        process: Its process.
    """

    endpoint: str
    storage_endpoint: str
    process: subprocess.Popen[bytes]

    @property
    def where(self) -> dict[str, Any]:
        """The arguments that send a source or sink here."""
        return {"endpoint": self.endpoint, "storage_endpoint": self.storage_endpoint}

    @contextlib.contextmanager
    def client(self) -> Iterator[bigquery.Client]:
        """Give Google's own client."""
        client = bigquery.Client(
            project=PROJECT,
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": self.endpoint},
        )
        with contextlib.closing(client):
            yield client

    def make_dataset(self, dataset: str) -> None:
        with self.client() as client:
            client.create_dataset(f"{PROJECT}.{dataset}", exists_ok=True)

    def load(self, name: str, rows: pa.Table, **columns: str) -> None:
        """Load rows into a new table `dataset.table`, whose columns have the given types."""
        buffer = io.BytesIO()
        pq.write_table(rows.select(list(columns)), buffer)
        buffer.seek(0)
        config = bigquery.LoadJobConfig(
            source_format="PARQUET",
            schema=[
                bigquery.SchemaField(
                    column,
                    type_.removesuffix("[]"),
                    "REPEATED" if type_.endswith("[]") else "NULLABLE",
                )
                for column, type_ in columns.items()
            ],
        )
        with self.client() as client:
            client.load_table_from_file(buffer, f"{PROJECT}.{name}", job_config=config).result()

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a statement; give its rows."""
        with self.client() as client:
            return [tuple(row.values()) for row in client.query(sql).result()]


@contextlib.contextmanager
def emulator(folder: pathlib.Path) -> Iterator[BigQuery]:
    """Run an emulator that keeps its tables in memory.

    Args:
        folder: Where its log goes.
    """
    programs = install_python("bigquery", *_REQUIREMENTS)
    rest, storage = free_port(), free_port()
    command = [str(programs / "bqemulator"), "start", "--ephemeral", "--log-level", "warning"]
    command += ["--rest-port", str(rest), "--grpc-port", str(storage)]
    environment = {"HOME": str(_home(programs)), "BQEMU_ENABLE_FORMAT_EXTENSIONS": "false"}

    def ready() -> bool:
        return listens(rest) and listens(storage)

    with running(command, folder / "bqemulator.log", ready, environment) as process:
        yield BigQuery(f"http://127.0.0.1:{rest}", f"127.0.0.1:{storage}", process)


def _home(programs: pathlib.Path) -> pathlib.Path:
    """Return a home directory where DuckDB finds the extension that it would download."""
    home = FOLDER / "bigquery-home"
    target = home / ".duckdb" / "extensions" / f"v{_DUCKDB}" / "linux_amd64"
    name = "spatial.duckdb_extension"
    if not (target / name).exists():
        (found,) = programs.parent.glob(f"lib/python*/site-packages/**/{name}")
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(found, target / name)
    return home


# --- A connection that breaks ---------------------------------------------------------


class Relay(grpc.GenericRpcHandler):
    """Stands before the Storage API and breaks off streams of rows.

    It also begins where a client asks to: the emulator itself always begins with the first
    row.

    Attributes:
        breaks: How many streams are still to break off.
        after: How many messages a stream sends before it does.
        status: What it says then.
        offsets: Where streams were asked to begin.
    """

    def __init__(self, upstream: str, breaks: int, after: int, status: grpc.StatusCode) -> None:
        self.breaks = breaks
        self.after = after
        self.status = status
        self.offsets: list[int] = []
        options = [("grpc.max_receive_message_length", -1)]
        self._channel = grpc.insecure_channel(upstream, options=options)

    def service(self, details: Any) -> Any:
        if details.method.endswith("/ReadRows"):
            return grpc.unary_stream_rpc_method_handler(self._read_rows)
        call = self._channel.unary_unary(details.method)
        return grpc.unary_unary_rpc_method_handler(lambda request, _: call(request))

    def _read_rows(self, request: bytes, context: Any) -> Iterator[bytes]:
        path = "/google.cloud.bigquery.storage.v1.BigQueryRead/ReadRows"
        begin = types.ReadRowsRequest.deserialize(request).offset
        self.offsets.append(begin)
        breaks, self.breaks = self.breaks > 0, self.breaks - 1
        row = sent = 0
        answers = self._channel.unary_stream(path)(request)
        try:
            for message in answers:
                if row >= begin:
                    if breaks and sent == self.after:
                        context.abort(self.status, "broken off by the test")
                    yield message
                    sent += 1
                row += types.ReadRowsResponse.deserialize(message).row_count
        finally:
            collections.deque(answers, 0)  # one left in the middle keeps the emulator from stopping


@contextlib.contextmanager
def relay(
    upstream: BigQuery,
    breaks: int,
    after: int,
    status: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE,
) -> Iterator[tuple[BigQuery, Relay]]:
    """Run a relay to an emulator."""
    handler = Relay(upstream.storage_endpoint, breaks, after, status)
    options = [("grpc.max_send_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(4), [handler], options=options)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield dataclasses.replace(upstream, storage_endpoint=f"127.0.0.1:{port}"), handler
    finally:
        server.stop(None).wait()
        handler._channel.close()
