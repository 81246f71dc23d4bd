from __future__ import annotations

import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skewless.remote_path import RemotePath, client_errors
from skewless.storage import (
    files_below,
    is_remote,
    local_copy,
    local_output,
    local_scratch,
    move,
    move_files,
    path_of,
    paths_in,
    remove_tree,
)

NAMES = st.from_regex(r"[a-z0-9_.-]*[a-z0-9_]", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("gs://b/x", "gs://b/x"),
        ("s3://b/x/../y/", "s3://b/y"),
        ("gs:/b/x", "gs://b/x"),  # what pathlib makes of it
        ("hdfs:///data/x", "hdfs://data/x"),
    ],
)
def test_a_scheme_is_remote_however_it_is_written(text: str, url: str) -> None:
    assert is_remote(text)
    assert is_remote(pathlib.Path(text))
    assert str(path_of(pathlib.Path(text))) == url


@pytest.mark.parametrize("text", ["runs", "/data/runs", "./a:b", "c:/windows"])
def test_other_paths_are_of_this_machine(text: str) -> None:
    assert not is_remote(text)
    assert path_of(text) == pathlib.Path(text)


@given(st.lists(NAMES, min_size=1, max_size=4))
def test_names_are_those_of_pathlib(parts: list[str]) -> None:
    remote, local = RemotePath("gs://bucket"), pathlib.PurePosixPath("/bucket")
    for part in parts:
        remote, local = remote / part, local / part
    assert remote.name == local.name
    assert remote.parent.name == local.parent.name
    assert remote.with_name("other").name == "other"
    assert str(remote.relative_to(RemotePath("gs://bucket"))) == "/".join(parts)
    assert hash(remote) == hash(RemotePath(str(remote)))


def test_stem_and_suffix() -> None:
    path = RemotePath("gs://b/part-0.tfrecord.gz")
    assert (path.stem, path.suffix) == ("part-0.tfrecord", ".gz")
    assert sorted([RemotePath("s3://b/b"), RemotePath("s3://b/a")])[0].name == "a"
    with pytest.raises(ValueError, match="is not below"):
        path.relative_to(RemotePath("gs://bb"))
    with pytest.raises(ValueError, match="has no scheme"):
        RemotePath("b/x")


def test_files_are_moved_to_folders_that_are_made(tmp_path: pathlib.Path) -> None:
    move_files([])
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    move_files([(tmp_path / name, tmp_path / "in" / f"{name}{name}") for name in ("a", "b")])
    assert {p.name: p.read_text() for p in (tmp_path / "in").iterdir()} == {"aa": "a", "bb": "b"}
    assert not (tmp_path / "a").exists()


def test_what_is_here_is_used_as_it_is(tmp_path: pathlib.Path) -> None:
    with local_output(tmp_path / "a") as path:
        path.mkdir()
        (path / "one.txt").write_text("1")
    with local_copy(tmp_path / "a") as path:
        assert path == tmp_path / "a"
    with local_scratch(str(tmp_path)) as scratch:
        assert scratch == str(tmp_path)
    move(tmp_path / "a", tmp_path / "deep" / "b")
    assert paths_in(tmp_path / "deep", "*") == [tmp_path / "deep" / "b"]
    assert files_below(tmp_path, "*.txt") == [tmp_path / "deep" / "b" / "one.txt"]
    remove_tree(tmp_path / "deep")
    remove_tree(tmp_path / "nothing")
    assert not list(tmp_path.iterdir())


def test_scratch_for_a_remote_directory_is_here_and_gone_afterwards() -> None:
    with local_scratch("gs://bucket/tmp") as scratch:
        assert pathlib.Path(scratch).is_dir()
    assert not pathlib.Path(scratch).exists()


def test_what_failed_is_not_sent() -> None:
    def fail() -> None:
        with local_output(RemotePath("nowhere://bucket/x")) as path:
            path.write_text("half")
            raise KeyError("failed")

    with pytest.raises(KeyError):
        fail()


def test_an_unknown_file_system_is_one_line() -> None:
    with pytest.raises(OSError, match="nowhere://bucket/x: Unable to get"):
        RemotePath("nowhere://bucket/x").exists()


def test_errors_of_clients_are_of_one_line_and_others_stay() -> None:
    error = type("Forbidden", (Exception,), {"__module__": "google.api_core.exceptions"})
    with (
        pytest.raises(OSError, match=r"gs://b/x: Forbidden: no right to \w+"),
        client_errors("gs://b/x"),
    ):
        raise error("no right\nto see")
    with pytest.raises(KeyError), client_errors("gs://b/x"):
        raise KeyError("x")
