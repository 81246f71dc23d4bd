"""The door to BigQuery: names of tables, clients, and errors that say what to do.

The client libraries are imported, and credentials are looked up, where a client is made: on
the worker. Nothing of either is part of a pipeline.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from skewless.errors import DataError, RecipeError, SkewlessError

__all__ = [
    "Connection",
    "TableName",
    "check_connection",
    "dry_run",
    "get_table",
    "named_errors",
    "parse_table",
    "reference",
]

_TABLE = re.compile(r"(?:((?:[\w.-]+:)?[\w-]+)[.:])?(\w+)\.([^\r\n`/.:$@]+)")

# gRPC takes 4 MiB at most unless it is told otherwise; BigQuery sends up to 10. A peer that
# is gone without a word is noticed by the pings.
_CHANNEL = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 60_000),
)
_MOST_NAMES = 1000
_NOT_FOUND = re.compile(r"Not found: (Table|Dataset) (\S+) was not found")


class TableName(NamedTuple):
    """The full name of a table."""

    project: str
    dataset: str
    table: str

    def __str__(self) -> str:
        return f"{self.project}.{self.dataset}.{self.table}"

    @property
    def path(self) -> str:
        """The name as the Storage API writes it."""
        return f"projects/{self.project}/datasets/{self.dataset}/tables/{self.table}"


def parse_table(text: str, project: str | None, where: str) -> TableName:
    """Return the table that a person named.

    Args:
        text: `project.dataset.table`, or `dataset.table` in `project`.
        project: The project of a name without one.
        where: What was given the name, for the error.

    Raises:
        RecipeError: If it is no name of a table.

    >>> parse_table("bigquery-public-data.samples.shakespeare", None, "")
    TableName(project='bigquery-public-data', dataset='samples', table='shakespeare')
    """
    found = _TABLE.fullmatch(text.strip())
    if found is None or not (found[1] or project):
        raise RecipeError(
            f'{where}: "{text}" is not the full name of a table; expected '
            '"project.dataset.table", or "dataset.table" and project='
        )
    return TableName(found[1] or str(project), found[2], found[3])


@dataclasses.dataclass(frozen=True)
class Connection:
    """Where BigQuery is. Picklable: it holds no credentials, and opens nothing by itself.

    Attributes:
        project: The project that pays; None for that of the credentials.
        endpoint: The URL of another REST API; an http one takes no credentials.
        storage_endpoint: Another Storage API: `host:port` or http without encryption and
            credentials, https or a host alone with both.
        retry_seconds: How long a lost connection is tried again.
    """

    project: str | None = None
    endpoint: str | None = None
    storage_endpoint: str | None = None
    retry_seconds: float = 600.0

    @contextlib.contextmanager
    def rest(self) -> Iterator[Any]:
        """Give a client of the REST API."""
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import bigquery

        options: dict[str, Any] = {}
        if self.endpoint is not None:
            options["client_options"] = {"api_endpoint": self.endpoint}
            if not self.endpoint.startswith("https://"):
                options["credentials"] = AnonymousCredentials()  # type: ignore[no-untyped-call]
        client = bigquery.Client(project=self.project, **options)
        try:
            yield client
        finally:
            client.close()  # type: ignore[no-untyped-call]

    def rest_retry(self) -> Any:
        """Return how calls of the REST API are tried again."""
        from google.cloud import bigquery

        return bigquery.DEFAULT_RETRY.with_timeout(self.retry_seconds)

    @contextlib.contextmanager
    def reader(self) -> Iterator[Any]:
        """Give a client of the Storage Read API."""
        from google.cloud.bigquery_storage_v1 import BigQueryReadClient

        with self._storage(BigQueryReadClient) as client:
            yield client

    @contextlib.contextmanager
    def writer(self) -> Iterator[Any]:
        """Give a client of the Storage Write API."""
        from google.cloud.bigquery_storage_v1 import BigQueryWriteClient

        with self._storage(BigQueryWriteClient) as client:
            yield client

    def storage_retry(self, *further: type[Exception]) -> Any:
        """Return how calls of the Storage API are tried again, also after `further` errors."""
        from google.api_core import exceptions
        from google.api_core.retry import Retry, if_exception_type

        again = if_exception_type(
            exceptions.ServiceUnavailable, exceptions.DeadlineExceeded, *further
        )
        return Retry(
            predicate=again, initial=0.1, maximum=10.0, multiplier=1.5, timeout=self.retry_seconds
        )

    @contextlib.contextmanager
    def _storage(self, client_class: Any) -> Iterator[Any]:
        import grpc

        kind = client_class.get_transport_class("grpc")
        endpoint = self.storage_endpoint or ""
        if is_insecure(endpoint):
            address = endpoint.removeprefix("http://").rstrip("/")
            channel = grpc.insecure_channel(address, options=_CHANNEL)
            client = client_class(transport=kind(channel=channel))
        else:

            def transport(**options: Any) -> Any:
                def create_channel(*given: Any, options: Any = (), **named: Any) -> Any:
                    return kind.create_channel(*given, options=[*options, *_CHANNEL], **named)

                return kind(channel=create_channel, **options)

            host = endpoint.removeprefix("https://").rstrip("/")
            options = {"client_options": {"api_endpoint": host}} if host else {}
            client = client_class(transport=transport, **options)
        try:
            yield client
        finally:
            client.transport.close()


def is_insecure(storage_endpoint: str) -> bool:
    """Say whether a Storage API is spoken to without encryption and credentials.

    >>> [is_insecure(e) for e in ("localhost:9060", "http://db:1", "https://db:1", "db.example")]
    [True, True, False, False]
    """
    if "://" in storage_endpoint:
        return not storage_endpoint.startswith("https://")
    return ":" in storage_endpoint


def check_connection(connection: Connection, where: str) -> None:
    """Check what a person gave.

    Raises:
        RecipeError: If an argument is wrong.
    """
    endpoint, storage = connection.endpoint, connection.storage_endpoint
    if (endpoint is None) != (storage is None):
        given = "endpoint" if storage is None else "storage_endpoint"
        lacks = "storage_endpoint" if storage is None else "endpoint"
        raise RecipeError(
            f"{where}: {given}= is given but not {lacks}=; give both: one is for REST, the other "
            "for rows"
        )
    if endpoint is not None and not re.match("https?://", endpoint):
        raise RecipeError(
            f'{where} endpoint="{endpoint}": expected a URL, such as "http://localhost:9050"'
        )
    if not connection.retry_seconds > 0:
        raise RecipeError(
            f"{where} retry_seconds={connection.retry_seconds}: expected a number above 0"
        )


@contextlib.contextmanager
def named_errors(
    where: str,
    failed: type[SkewlessError] = DataError,
    wrong: type[SkewlessError] = RecipeError,
) -> Iterator[None]:
    """Turn what the client libraries raise into one line that says what to do.

    Args:
        where: The source or sink, as a person wrote it.
        failed: The error for what cannot be reached, read or written.
        wrong: The error for what BigQuery calls a bad request.
    """
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import RequestException

    lost = (exceptions.RetryError, exceptions.ServiceUnavailable, RequestException)
    try:
        yield
    except GoogleAuthError as error:
        raise failed(
            f"{where}: there are no credentials that work ({_said(error)}); log in with `gcloud "
            "auth application-default login`, or let GOOGLE_APPLICATION_CREDENTIALS name a key"
        ) from error
    except (exceptions.Forbidden, exceptions.Unauthorized) as error:
        raise failed(
            f"{where}: not allowed ({_said(error)}); give these credentials the roles BigQuery "
            "Data Viewer or Editor, Job User and Read Session User"
        ) from error
    except exceptions.NotFound as error:
        raise failed(f"{where}: not found ({_said(error)}); check the name") from error
    except lost as error:
        raise failed(
            f"{where}: the connection was lost and did not come back ({_said(error)}); check the "
            "network and the endpoints, and run again"
        ) from error
    except exceptions.ClientError as error:
        raise wrong(f"{where}: BigQuery refused it ({_said(error)}); correct it") from error
    except exceptions.GoogleAPICallError as error:
        raise failed(f"{where}: BigQuery failed ({_said(error)}); run again") from error


def _said(error: Exception) -> str:
    """Return what an error says, on one line."""
    cause = getattr(error, "cause", None) or error
    # REST's errors have a text of their own beside that of the request, gRPC's have none.
    errors = [one for one in getattr(cause, "errors", ()) if isinstance(one, dict)]
    text = errors[0].get("message") if errors else getattr(cause, "message", None)
    return " ".join(str(text or cause).split())[:500]


def get_table(connection: Connection, name: TableName, where: str) -> Any:
    """Return the `google.cloud.bigquery.Table` of a name.

    Raises:
        DataError: If there is no such table, or it may not be seen; names the nearest one.
    """
    from google.api_core.exceptions import NotFound

    with named_errors(where), connection.rest() as client:
        try:
            return client.get_table(reference(name), retry=connection.rest_retry())
        except NotFound:
            raise DataError(f"{where}: {_no_table(client, connection, name)}") from None


def dry_run(connection: Connection, query: str, where: str) -> Any:
    """Return the job of a query that is only looked at.

    Raises:
        RecipeError: If the query is wrong.
        DataError: If it names a table that does not exist; names the nearest one.
    """
    from google.api_core.exceptions import NotFound
    from google.cloud import bigquery

    config = bigquery.QueryJobConfig(dry_run=True, use_query_cache=False)
    with named_errors(where), connection.rest() as client:
        try:
            return client.query(query, job_config=config, retry=connection.rest_retry())
        except NotFound as error:
            found = _NOT_FOUND.search(_said(error))
            if found is None:
                raise
            text = found[2] if found[1] == "Table" else f"{found[2]}.table"
            name = parse_table(text, None, where)
            raise DataError(f"{where}: {_no_table(client, connection, name)}") from None


def reference(name: TableName) -> Any:
    """Return a name as the client library's."""
    from google.cloud import bigquery

    dataset = bigquery.DatasetReference(name.project, name.dataset)
    return bigquery.TableReference(dataset, name.table)


def _no_table(client: Any, connection: Connection, name: TableName) -> str:
    """Say what there is no table of that name for: there may be no dataset, either."""
    from google.api_core.exceptions import Forbidden, NotFound
    from google.cloud import bigquery

    retry, place = connection.rest_retry(), f"{name.project}.{name.dataset}"
    dataset = bigquery.DatasetReference(name.project, name.dataset)
    try:
        client.get_dataset(dataset, retry=retry)
        found = client.list_tables(dataset, max_results=_MOST_NAMES, retry=retry)
        hint = _nearest(name.table, [table.table_id for table in found])
        return f'there is no table "{name.table}" in {place}; {hint}'
    except Forbidden:  # to list names needs a further role
        return f'there is no table "{name.table}" in {place}; check the name'
    except NotFound:
        pass
    try:
        others = client.list_datasets(name.project, max_results=_MOST_NAMES, retry=retry)
        hint = _nearest(name.dataset, [other.dataset_id for other in others])
    except (Forbidden, NotFound):
        hint = "check the name, and that of the project"
    return f'there is no dataset "{name.dataset}" in project "{name.project}"; {hint}'


def _nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, sorted(names), n=1)
    return f'did you mean "{near[0]}"?' if near else "check the name"
