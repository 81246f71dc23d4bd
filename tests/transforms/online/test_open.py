from __future__ import annotations

import contextlib
import pathlib

import pytest

from skewless.errors import RecipeError
from skewless.transforms.online import open_store
from skewless.transforms.online.sqlite import SqliteStore


@pytest.mark.parametrize("kind", [str, pathlib.Path])
def test_a_path_is_a_sqlite_file_whose_folders_are_made(tmp_path: pathlib.Path, kind: type) -> None:
    path = tmp_path / "a" / "b" / "store.db"
    with contextlib.closing(open_store(kind(path))) as store:
        assert isinstance(store, SqliteStore)
        assert path.is_file()
        assert repr(store) == f"SqliteStore('{path}')"


@pytest.mark.parametrize(
    ("address", "named"),
    [
        ("gs://bucket/store.db", '"gs"'),
        ("postgresql://skewless:s3cret@host/db", '"postgresql"'),
        ("", '""'),
    ],
)
def test_another_address_is_refused(address: str, named: str) -> None:
    with pytest.raises(RecipeError, match="expected redis://host:port/db, or the path") as caught:
        open_store(address)
    assert named in str(caught.value)
    assert "s3cret" not in str(caught.value)
