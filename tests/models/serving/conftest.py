"""One small exported model, served by everybody."""

from __future__ import annotations

import pathlib
import shutil

import pytest

from skewless.models.predict import Predictor
from skewless.models.serving.model import ServedModel


@pytest.fixture(scope="session")
def model_dir(exported) -> pathlib.Path:
    """The folder of versions of a small binary model, with one version."""
    return pathlib.Path(exported["directory"])


@pytest.fixture(scope="session")
def predictor(model_dir) -> Predictor:
    """What everything that is served must agree with."""
    return Predictor(str(model_dir))


@pytest.fixture(scope="session")
def served(model_dir):
    """The model, started."""
    model = ServedModel(model_dir)
    model.start()
    yield model
    model.close()


@pytest.fixture
def versions_dir(model_dir, tmp_path) -> pathlib.Path:
    """A folder with a copy of the version, as version 1, for tests that change it."""
    version = next(p for p in model_dir.iterdir() if p.name.isdecimal())
    shutil.copytree(version, tmp_path / "versions" / "1")
    return tmp_path / "versions"
