"""A recipe's functions reach workers that have skewless, but not the recipe's folder."""

import base64
import subprocess
import sys

import pytest
from apache_beam.internal import cloudpickle_pickler
from apache_beam.internal.cloudpickle import cloudpickle

from skewless.pipeline.recipe import load_recipe

RECIPE = """
import dataclasses
import helper
import package.deeper
import skewless as sk

@dataclasses.dataclass(frozen=True)
class Scale:
    by: float

SCALE = Scale({by})

def preprocessing_fn(inputs):
    none = package.deeper.none()
    return {{name: helper.scaled(value, SCALE.by) + none for name, value in inputs.items()}}

recipe = sk.Recipe(
    name="small",
    source=sk.ReadCsv("rows.csv"),
    preprocessing_fn=preprocessing_fn,
    label="y",
    split=sk.SplitByHash(by=["x"]),
    model=sk.Linear(),
)
"""

HELPER = """
import math

def scaled(value, by):
    return math.floor(value * by) + _plus()

def _plus():
    return {plus}
"""

DEEPER = """
def none():
    return 0
"""

ELSEWHERE = """
import base64, sys
from apache_beam.internal import cloudpickle_pickler
function = cloudpickle_pickler.loads(base64.b64decode(sys.argv[1]))
print(function({"x": 2.5}))
assert not {"recipe", "helper", "package"} & set(sys.modules)
"""


@pytest.fixture
def write(tmp_path):
    def written(name, by, plus):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "recipe.py").write_text(RECIPE.format(by=by))
        (folder / "helper.py").write_text(HELPER.format(plus=plus))
        (folder / "package").mkdir()
        (folder / "package" / "__init__.py").touch()
        (folder / "package" / "deeper.py").write_text(DEEPER)
        return folder / "recipe.py"

    yield written
    sys.modules.pop("package.deeper", None)
    for name in ("recipe", "helper", "package"):
        module = sys.modules.pop(name, None)
        if module is not None:
            cloudpickle.unregister_pickle_by_value(module)


def elsewhere(function, cwd):
    pickled = base64.b64encode(cloudpickle_pickler.dumps(function)).decode()
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, pickled], capture_output=True, text=True, cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_functions_classes_and_helpers_go_whole(write, tmp_path):
    recipe = load_recipe(write("one", by=2.0, plus=1))
    assert elsewhere(recipe.preprocessing_fn, tmp_path) == "{'x': 6}"


def test_another_recipe_of_the_same_names_takes_their_place(write, tmp_path):
    load_recipe(write("one", by=2.0, plus=1))
    recipe = load_recipe(write("two", by=4.0, plus=3))
    assert elsewhere(recipe.preprocessing_fn, tmp_path) == "{'x': 13}"
    assert cloudpickle.list_registry_pickle_by_value() >= {"recipe", "helper", "package"}
    assert str(tmp_path / "two") in sys.modules["package.deeper"].__file__
