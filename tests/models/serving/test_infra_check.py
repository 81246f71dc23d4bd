import dataclasses
import json

import numpy as np
import pytest

from skewless.models.serving.infra_check import (
    TOLERANCE,
    InfraCheck,
    answer_recorded,
    check_model,
    main,
)
from skewless.models.serving.recorded import Recorded, write_recorded
from tests.doubling import RECORDED as Y
from tests.doubling import X, save_doubling


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_doubling(tmp_path_factory.mktemp("saved") / "1")


@pytest.fixture
def answered(saved):
    """Return a function that asks the model with such requests recorded."""

    def answer(*requests: Recorded) -> InfraCheck:
        write_recorded(saved / "assets.extra", "doubling", requests)
        return answer_recorded(str(saved))

    return answer


def changed(**outputs):
    return dataclasses.replace(Y, outputs={**Y.outputs, **outputs})


def test_the_recorded_answers_are_given(answered):
    found = answered(Y, Y)
    assert (found.ok, found.error, found.requests, found.max_difference) == (True, "", 2, 0.0)
    assert found.load_seconds > 0
    assert found.request_seconds > 0
    assert found.memory_bytes > 1 << 20


def test_numbers_may_differ_by_the_tolerance(answered):
    found = answered(changed(prediction=X * 2 + np.float32(TOLERANCE / 2)))
    assert found.ok
    assert 0 < found.max_difference <= TOLERANCE


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (changed(prediction=X * 2 + np.float32(1e-3)), "prediction differs .* by 0.001; expected"),
        (changed(prediction=X[:1]), r"float32 \[2\]; recorded is float32 \[1\]"),
        (changed(prediction=X.astype(int)), "recorded is int64"),
        (changed(prediction=np.float32([np.nan, 1])), "prediction differs"),
        (changed(name=np.array([b"a", b"b"], object)), r"name is \[b'a', b''\]; recorded is"),
        (changed(more=X), "answers with .*; recorded is"),
        (Recorded("broken", {"x": X}, {"prediction": X}), "prediction is not finite"),
        (Recorded("gone", {"x": X}, {"prediction": X}), "no signature gone; export it again"),
        (Recorded("predict_rows", {"y": X}, {"prediction": X}), "TypeError"),
    ],
)
def test_anything_else_is_one_line(answered, request_, words):
    found = answered(Y, request_)
    assert not found.ok
    assert "\n" not in found.error
    pytest.raises(AssertionError, match=words).matches(AssertionError(found.error))


def test_a_model_without_recorded_requests_cannot_be_checked(tmp_path):
    assert answer_recorded(str(tmp_path)).error == (
        "the model has no recorded requests; export it again"
    )


def test_a_damaged_model_is_one_line(tmp_path):
    write_recorded(tmp_path / "assets.extra", "doubling", [Y])
    (tmp_path / "saved_model.pb").write_bytes(b"\xff" * 100)
    found = answer_recorded(str(tmp_path))
    assert not found.ok
    assert "saved_model.pb" in found.error


def test_beam_and_tf_transform_are_noticed(answered, saved, capsys):
    """They are loaded in this process, so the program must not say that all is well."""
    assert answered(Y).ok
    assert main([str(saved)]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["error"].startswith("the model cannot be loaded without apache_beam, tensorflow_t")
    assert main([]) == 2


@pytest.mark.integration
def test_a_clean_process_answers(exported, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONSTARTUP", "/no/such/file")
    monkeypatch.chdir(tmp_path)
    # A module of this name here would be imported, were this directory the process's own.
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('the wrong one')")
    found = check_model(f"{exported['directory']}/1")
    assert (found.ok, found.error, found.requests) == (True, "", 4)
    assert found.max_difference <= TOLERANCE


@pytest.mark.integration
def test_a_clean_process_that_cannot_is_one_line(saved, tmp_path):
    write_recorded(saved / "assets.extra", "doubling", [changed(prediction=X)])
    assert "differs from the recorded answer" in check_model(str(saved)).error
    assert check_model(str(saved), time_limit=0.2).error == (
        "the model gave no answer within 0.2 seconds"
    )
