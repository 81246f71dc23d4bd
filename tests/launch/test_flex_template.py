"""The parameters of the Flex Template: as its metadata, the commands and the launcher have them."""

import json
import re

import pytest

from skewless.errors import RecipeError
from skewless.launch import flex_template
from skewless.launch.flex_template import COMMANDS, parameters_of
from skewless.launch.runners import dataflow
from skewless.launch.runners.flags import Flags
from tests.containers import DEPLOY

METADATA = json.loads((DEPLOY / "flex_template.json").read_text())
PARAMETERS = {one["name"]: one for one in METADATA["parameters"]}
# As a launch would give them.
GOOD = {
    "recipe": ["gs://bucket/recipes/flights.py", "/template/recipe.py"],
    "output": ["gs://bucket/runs", "bigquery:project.set.table"],
    "run": ["gs://bucket/runs/flights"],
    "store": ["redis://10.0.0.3:6379/0", "rediss://:secret@host:6379/1"],
    "source": ["pubsub:projects/p/subscriptions/s", "kafka:host:9092/topic", "gs://b/*.csv"],
    "to": ["pubsub:projects/p/topics/t", "kafka:host:9092/topic"],
    "hold": ["30s", "5m", "250ms"],
    "max_rejected": ["0", "0.01", "1"],
    "watch": ["10", "0.5"],
    "rows": ["gs://bucket/rows-*.parquet", "bigquery:SELECT 1"],
    "columns": ["id", "id,day"],
    "sdk_container_image": ["europe-docker.pkg.dev/project/images/skewless:1"],
}
BAD = {
    "recipe": ["recipe", "gs://bucket/recipe.txt"],
    "output": ["runs", "/tmp/runs"],
    "store": ["store.db"],
    "source": ["pubsub:s"],
    "hold": ["5", "5 minutes"],
    "max_rejected": ["1.5", "-1"],
    "columns": ["id,"],
}


def test_the_metadata_has_every_parameter():
    taken = {name for command in COMMANDS for name in parameters_of(command)}
    assert set(PARAMETERS) == taken | {"command", "sdk_container_image"}
    for name, one in PARAMETERS.items():
        assert one["label"]
        assert one["helpText"].endswith(".") or one["helpText"].endswith("...")
        assert re.fullmatch(r"[a-z_]+", name)
        always = all(
            name in parameters_of(command) and parameters_of(command)[name].required
            for command in COMMANDS
        )
        assert one["isOptional"] or always or name == "output"


@pytest.mark.parametrize("name", ["command", "analysis", "input_format", "output_format"])
def test_choices_are_those_of_the_commands(name):
    told = [one["value"] for one in PARAMETERS[name]["enumOptions"]]
    if name == "command":
        assert told == list(COMMANDS)
    else:
        (choices,) = {
            tuple(parameters_of(command)[name].choices)
            for command in COMMANDS
            if name in parameters_of(command)
        }
        assert told == list(choices)


def fits(name, value):
    return all(re.fullmatch(one, value) for one in PARAMETERS[name].get("regexes", []))


def test_patterns_take_what_is_right_and_nothing_else():
    assert all(fits(name, value) for name, values in GOOD.items() for value in values)
    assert not [value for name, values in BAD.items() for value in values if fits(name, value)]


def test_parameters_become_arguments():
    given = Flags(
        [
            "--recipe=r.py",
            "--run=a",
            "--store=s",
            "--output=o",
            "--predict=true",
            "--hold=",
            "--x=1",
        ]
    )
    words = flex_template._words("stream", given)
    assert words == ["stream", "--run=a", "--output=o", "--predict", "--store=s", "r.py"]
    with pytest.raises(RecipeError, match=r"--hold=1m: run has no such parameter; leave it out"):
        flex_template._words("run", Flags(["--recipe=r.py", "--output=o", "--hold=1m"]))


def test_labels_are_as_google_takes_them():
    assert dataflow.label_options({"a": "V 1.2", "b": "x" * 70})[0] == "--labels=a=v-1-2"
    assert len(dataflow.label_options({"b": "x" * 70})[0].rpartition("=")[2]) == 63


def test_an_installed_wheel_is_put_together_again(tmp_path):
    import zipfile

    from skewless.launch.runners import workers
    from tests.wheel import build, copy_tree, python

    (wheel,) = build(copy_tree(tmp_path), "wheel").glob("*.whl")
    site = tmp_path / "site"
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site]
    python(*install, wheel, cwd=tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import shutil\n"
        "from skewless.launch.runners import workers\n"
        "assert workers.clone() is None\n"
        f"print(shutil.copy(workers.package(), {str(tmp_path)!r}))"
    )
    again = python("-c", code, cwd=tmp_path).strip()
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert {n: one.read(n) for n in one.namelist() if not n.endswith("RECORD")} == {
            n: other.read(n) for n in other.namelist() if not n.endswith("RECORD")
        }
    python(*install[:-1], tmp_path / "again", again, cwd=tmp_path)
    assert (tmp_path / "again" / "skewless" / "__init__.py").exists()
    assert workers.clone() is not None
