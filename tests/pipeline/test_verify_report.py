import dataclasses
import json

import pytest

from skewless.errors import RunError
from skewless.pipeline.artifacts import RunPaths, digest_tree
from skewless.pipeline.verify_report import (
    digest_compared,
    read_verify_report,
    write_verify_report,
)
from tests.pipeline.pushable import FOUND, VERSION, make_run, verify


@pytest.fixture
def paths(tmp_path):
    model = tmp_path / "model"
    (model / "assets").mkdir(parents=True)
    (model / "saved_model.pb").write_text("model")
    return make_run(tmp_path / "run", model)


def test_it_says_what_was_compared_and_what_came_of_it(paths):
    report = verify(paths)
    written = json.loads((paths.root / "verify.json").read_text())
    assert written == dataclasses.asdict(report)
    assert (written["verdict"], written["model_version"]) == ("identical", VERSION)
    assert written["model_digest"] == digest_tree(paths.newest_model())
    assert list(written["rows"]) == ["test/part-0.parquet"]
    assert written["examples"] == {}
    assert written["versions"]["tensorflow"]
    assert written["paths"] == [
        {"path": FOUND.path, "rows": 10, "features": 3, "differing": 0, "bits": 0}
    ]
    assert read_verify_report(paths) == report
    assert report.refusal(report.model_digest) == ""


@pytest.mark.parametrize(
    ("changes", "limit", "verdict", "words"),
    [
        ({"differing": 2, "bits": 3}, None, "differs", "2 values that differ"),
        ({"rows": 0}, None, "differs", "0 values that differ"),
        ({}, 50, "identical", "no more than 50 rows of each part"),
    ],
)
def test_what_is_no_proof_is_said(paths, changes, limit, verdict, words):
    report = verify(paths, FOUND, dataclasses.replace(FOUND, **changes), limit=limit)
    assert report.verdict == verdict
    assert words in report.refusal(report.model_digest)


def test_nothing_compared_is_no_proof(paths):
    assert write_verify_report(paths, [], digest_compared(paths)).verdict == "differs"


def test_a_report_is_of_one_model(paths):
    report = verify(paths)
    (paths.newest_model() / "assets" / "words").write_text("more")
    assert f"another model ({VERSION})" in report.refusal(digest_tree(paths.newest_model()))


def test_a_model_that_changed_meanwhile_is_refused(paths):
    compared = digest_compared(paths)
    (paths.newest_model() / "saved_model.pb").write_text("other")
    with pytest.raises(RunError, match="has changed while it was verified; verify again"):
        write_verify_report(paths, [FOUND], compared)


def test_no_report_and_no_such_file(paths, tmp_path):
    assert read_verify_report(RunPaths(tmp_path)) is None
    for text in ("{", "[]", "{}", '{"verdict": "identical"}'):
        (paths.root / "verify.json").write_text(text)
        with pytest.raises(RunError, match=r"verify\.json: not a report of verify"):
            read_verify_report(paths)
