import os
import pathlib

import pytest

from skewless.errors import RunError
from skewless.pipeline.artifacts import RunPaths, digest_file, digest_of, latest_run, write_json


def test_latest_run_is_the_newest_manifest(tmp_path: pathlib.Path) -> None:
    for age, name in enumerate(("new", "old")):
        manifest = tmp_path / "recipe" / name / "manifest.json"
        write_json(manifest, {})
        os.utime(manifest, (1_000_000 - age, 1_000_000 - age))
    assert latest_run(tmp_path).name == "new"
    assert latest_run(tmp_path / "recipe" / "old").name == "old"


def test_no_run_is_said_so(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RunError, match="there is no run here"):
        latest_run(tmp_path)


def test_newest_model_is_the_largest_number(tmp_path: pathlib.Path) -> None:
    paths = RunPaths(tmp_path)
    with pytest.raises(RunError, match="skewless export"):
        paths.newest_model()
    for version in ("9", "10", "tmp"):
        (paths.model / version).mkdir(parents=True)
    assert paths.newest_model().name == "10"


def test_digests_depend_on_content_only(tmp_path: pathlib.Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"x" * (3 << 20))
    two.write_bytes(b"x" * (3 << 20))
    assert digest_file(one) == digest_file(two)
    two.write_bytes(b"y")
    assert digest_file(one) != digest_file(two)
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
