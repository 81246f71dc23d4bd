"""Write rejected rows so that a person can repair them and `skewless replay` read them."""

from __future__ import annotations

import base64
import dataclasses
import json
import uuid
from collections.abc import Iterator

import apache_beam as beam

from skewless.errors import RecipeError
from skewless.storage import AnyPath, path_of
from skewless.transforms.rows import Rejected
from skewless.transforms.sinks.files import whole_file

__all__ = ["WriteRejected", "read_rejected_file", "rejected_from_json", "rejected_to_json"]


@dataclasses.dataclass(eq=False)
class WriteRejected(beam.PTransform):  # type: ignore[misc]
    """Write rejected rows as JSON Lines, one file a bundle; `skewless replay` reads them.

    Args:
        directory: Where the files go, on any Beam file system.

    Returns:
        A PCollection of the rows as they came, for counting.
    """

    directory: str

    def expand(self, rejected: beam.PCollection[Rejected]) -> beam.PCollection[Rejected]:
        """Write each bundle's rows to a file of its own."""
        return rejected | "Write" >> beam.ParDo(_WriteRejected(self.directory))


class _WriteRejected(beam.DoFn):  # type: ignore[misc]
    def __init__(self, directory: str) -> None:
        self._directory = path_of(directory)

    def start_bundle(self) -> None:
        self._lines: list[str] = []

    def process(self, row: Rejected) -> Iterator[Rejected]:
        self._lines.append(rejected_to_json(row))
        yield row

    def finish_bundle(self) -> None:
        if self._lines:
            name = f"part-{uuid.uuid4().hex}.jsonl"
            with whole_file(self._directory / name) as path:
                path.write_text("\n".join(self._lines) + "\n", encoding="utf-8")


def rejected_to_json(row: Rejected) -> str:
    """Return a rejected row as one line of JSON; bytes that are not UTF-8 as base64."""
    record = row._asdict()
    payload = record.pop("payload")
    try:
        record["payload"] = payload.decode("utf-8")
    except UnicodeDecodeError:
        record["payload_base64"] = base64.b64encode(payload).decode("ascii")
    return json.dumps(record, ensure_ascii=False)


def rejected_from_json(line: str) -> Rejected:
    """Return the rejected row that a line holds; the inverse of `rejected_to_json`."""
    record = json.loads(line)
    coded = record.pop("payload_base64", None)
    payload = record.pop("payload", "")
    if isinstance(payload, dict):
        payload = json.dumps(payload)
    record["payload"] = payload.encode() if coded is None else base64.b64decode(coded)
    return Rejected(**record)


def read_rejected_file(path: AnyPath) -> list[Rejected]:
    """Return the rejected rows in a file that `WriteRejected` wrote.

    Raises:
        RecipeError: If a line is not one; names the file and the line's number.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not a file of rejected/: {error}") from None
    rows = []
    # Not splitlines: a payload may hold other ends of lines than \n, such as U+2028.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(rejected_from_json(line))
        except (ValueError, TypeError, AttributeError) as error:
            raise RecipeError(f"{path}:{number}: not a line of rejected/: {error}") from None
    return rows
