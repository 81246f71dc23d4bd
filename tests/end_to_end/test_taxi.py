"""A TFX module file runs unmodified: in batch, exported, and verified."""

from __future__ import annotations

import json
import pathlib

import pytest
import tensorflow as tf

from skewless.launch.command_line import main
from skewless.pipeline.journey import Journey, Result, journey
from skewless.pipeline.stages import Quiet

RECIPE = pathlib.Path(__file__).parents[2] / "examples" / "taxi" / "recipe.py"


@pytest.fixture(scope="module")
def taxi(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return journey(Journey(RECIPE, tmp_path_factory.mktemp("runs")), Quiet())


def test_it_learns_and_is_blessed(taxi: Result) -> None:
    assert taxi.blessing is not None
    assert taxi.blessing["blessed"], taxi.blessing["reasons"]
    assert taxi.ledger.total("trips", "read") == 6_000
    taxi.ledger.check()


def test_serving_asks_for_no_tips(taxi: Result) -> None:
    loaded = tf.saved_model.load(str(taxi.paths.newest_model()))
    names = set(loaded.signatures["predict_rows"].structured_input_signature[1])
    assert "fare" in names
    assert not names & {"tips", "trip_id"}
    # In the schema, the column that only the label needs is not there at serving.
    text = taxi.paths.schema.read_text()
    assert 'not_in_environment: "SERVING"' in text.split('name: "tips"')[1].split("feature {")[0]


@pytest.mark.integration
def test_every_feature_is_the_same_in_every_bit(
    taxi: Result, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(taxi.paths.root), "--batch-sizes", "1,7,1024,all"]) == 0
    assert "no bit differs" in capsys.readouterr().err


def test_optional_fields_may_be_left_out(
    taxi: Result, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = json.loads(taxi.paths.sample.read_text().splitlines()[0])
    for name in ("company", "pickup_latitude", "trip_miles", "trip_seconds"):
        row.pop(name, None)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(row))
    assert main(["predict", str(taxi.paths.root), str(rows)]) == 0
    assert 0 <= json.loads(capsys.readouterr().out)["prediction"] <= 1
