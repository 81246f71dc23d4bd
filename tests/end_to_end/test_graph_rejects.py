"""Rows that the transform graph itself cannot take: rejected, kept, and counted once."""

from __future__ import annotations

import pathlib
import shutil

import pytest

from skewless.pipeline import stages
from skewless.pipeline.artifacts import RunPaths, latest_run
from skewless.pipeline.batch import read_rejected
from skewless.pipeline.journey import Journey, Result, journey
from skewless.pipeline.stages import Quiet

RECIPE = """
import tensorflow as tf
import skewless as sk

def preprocessing_fn(inputs):
    # tf.strings.to_number fails on text that is no number: one bad row fails its batch.
    return {{
        "code": tf.strings.to_number(inputs["code"], tf.float32),
        "late_xf": inputs["late"],
    }}

recipe = sk.Recipe(
    name="graph",
    source=sk.ReadCsv({path!r}, event_time="at"),
    schema="schema.pbtxt",
    preprocessing_fn=preprocessing_fn,
    label="late_xf",
    split=sk.SplitByTime(train_until="2020-02-01", eval_until="2020-03-01"),
    model=sk.Linear(epochs=1),
)
"""
SCHEMA = """
feature { name: "at" type: INT time_domain { integer_format: UNIX_SECONDS } }
feature { name: "code" type: BYTES presence { min_fraction: 1 } shape {} }
feature { name: "late" type: INT presence { min_fraction: 1 } shape {} }
"""
ROWS = 900
BAD = (400, 401, 650)


@pytest.fixture
def recipe(tmp_path: pathlib.Path) -> pathlib.Path:
    lines = ["at,code,late"]
    for i in range(ROWS):
        code = "A7" if i in BAD else str(i % 50)
        lines.append(f"2020-{1 + i // 300:02d}-{1 + i % 28:02d}T00:00:00Z,{code},{i % 2}")
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    (tmp_path / "schema.pbtxt").write_text(SCHEMA)
    path = tmp_path / "graph_recipe.py"
    path.write_text(RECIPE.format(path=str(tmp_path / "rows.csv")))
    return path


def run(recipe: pathlib.Path) -> Result:
    return journey(Journey(recipe, recipe.parent / "runs", until="transform"), Quiet())


def check(made: Result) -> None:
    assert made.ledger.total("rows", "read") == ROWS
    assert made.ledger.total("rows", "rejected") == len(BAD)
    assert made.ledger.total("rows", "written") == ROWS - len(BAD)
    rejected = list(read_rejected(made.paths.rejected))
    assert [b"A7" in row.payload for row in rejected] == [True] * len(BAD)
    assert all("cannot take this row" in row.reason for row in rejected)


def test_only_the_bad_rows_are_rejected(recipe: pathlib.Path) -> None:
    check(run(recipe))


def test_a_kill_before_the_manifest_tells_loses_nothing(
    recipe: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst moment: all is moved in place, and the manifest does not tell of it yet."""
    write_json, calls = stages.write_json, []

    def killed(path: pathlib.Path, value: dict[str, dict[str, object]]) -> None:
        if "examples" in value["stages"]:
            calls.append(path)
            raise KeyboardInterrupt
        write_json(path, value)

    monkeypatch.setattr(stages, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        run(recipe)
    assert calls
    monkeypatch.undo()
    check(run(recipe))


@pytest.mark.integration
@pytest.mark.parametrize("lost", ["examples", "rows", "transform_graph"])
def test_a_lost_output_is_made_again_with_all_that_follows(recipe: pathlib.Path, lost: str) -> None:
    check(run(recipe))
    shutil.rmtree(RunPaths(latest_run(recipe.parent / "runs")).root / lost)
    check(run(recipe))
