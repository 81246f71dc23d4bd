"""Run a small pipeline eagerly and look at every PCollection of its result."""

import contextlib
import pathlib
import pickle
import tempfile
import types
import uuid

import apache_beam as beam
import pytest

from skewless.transforms.online import open_store


def _write(element, directory):
    path = pathlib.Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    (path / uuid.uuid4().hex).write_bytes(pickle.dumps(element))


def _eager(build):
    with tempfile.TemporaryDirectory() as directory:
        fields = {}
        with beam.Pipeline("FnApiRunner") as pipeline:
            result = build(pipeline)
            for field, value in result._asdict().items():
                fields[field] = value if isinstance(value, tuple) else (value,)
                for n, pcoll in enumerate(fields[field]):
                    path = f"{directory}/{field}"
                    pcoll | f"Write {field} {n}" >> beam.Map(_write, path)
        return types.SimpleNamespace(
            **{
                field: [
                    pickle.loads(path.read_bytes())
                    for path in sorted(pathlib.Path(directory, field).glob("*"))
                ]
                for field in fields
            }
        )


@pytest.fixture(scope="session")
def eager():
    """Run `build(pipeline)`, which returns Rows or Splits; give their elements as lists."""
    return _eager


@pytest.fixture
def path(tmp_path):
    """Return where a test's online store is."""
    return tmp_path / "store.db"


@pytest.fixture
def store(path):
    """Open an online store of SQLite."""
    with contextlib.closing(open_store(path)) as opened:
        yield opened
