from __future__ import annotations

import pathlib
import pickle
from collections.abc import Iterator

import pytest

from skewless.errors import RecipeError
from skewless.transforms.sources import database_client
from skewless.transforms.sources.database import ReadDatabase
from skewless.transforms.sources.database_client import resolve

SECRET = "s3cr3t/@home"


def test_addresses_hide_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:s3cr3t%2F%40home@db:5433/prod?x=1")
    address = resolve("env:DATABASE_URL", None, "here")
    assert address.place == "postgresql:db:5433/prod"
    assert address.masked(f"no {SECRET}\n at {address.target}") == "no *** at ***"
    monkeypatch.setenv("PASSWORD", SECRET)
    other = resolve("postgres://me@db/prod", "env:PASSWORD", "here")
    keepalives = "&keepalives_idle=30&keepalives_interval=10&keepalives_count=3"
    assert other.target == "postgres://me:s3cr3t%2F%40home@db/prod?connect_timeout=10" + keepalives
    assert other.place == "postgresql:db/prod"
    assert "s3cr3t" not in other.masked(f"{SECRET} {other.target}")
    source = ReadDatabase("env:DATABASE_URL", table="t", password="env:PASSWORD")
    for told in (repr(source.__dict__), repr(source.reader()), repr(pickle.dumps(source.reader()))):
        assert "s3cr3t" not in told
    monkeypatch.delenv("PASSWORD")
    with pytest.raises(RecipeError, match="environment variable PASSWORD is not set"):
        resolve("postgres://me@db/prod", "env:PASSWORD", "here")
    monkeypatch.setenv("DATABASE_URL", "oracle:s3cr3t")
    with pytest.raises(RecipeError, match="the URI begins with") as raised:
        resolve("env:DATABASE_URL", None, "here")
    assert "s3cr3t" not in str(raised.value)


def test_missing_drivers(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    def fail(name: str) -> Iterator[None]:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(database_client.importlib, "import_module", fail)
    with pytest.raises(RecipeError, match=r"pip install 'skewless\[database\]'"):
        ReadDatabase(f"sqlite:///{tmp_path}/a", table="t").available_columns()
