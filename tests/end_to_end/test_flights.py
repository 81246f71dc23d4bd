"""From raw CSV to a served prediction, on real flights."""

from __future__ import annotations

import datetime
import json
import pathlib
import subprocess
import sys

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import tensorflow_transform as tft

from skewless.launch.command_line import main
from skewless.pipeline.artifacts import SPLITS, read_manifest
from skewless.pipeline.journey import Result
from skewless.pipeline.verifying import verify_features


def test_ledger_accounts_for_every_row(result: Result, flights_table) -> None:
    ledger = result.ledger
    assert ledger.total("flights", "read") == flights_table.num_rows
    landed = flights_table.filter(pc.is_valid(flights_table.column("arr_delay")))
    missing = flights_table.num_rows - landed.num_rows
    short = pc.sum(pc.less_equal(landed.column("distance"), 100)).as_py()
    assert missing > 0 < short
    assert ledger.total("flights", "filtered") == missing + short
    assert ledger.total("weather", "read") == ledger.total("weather", "joined") == 26_115
    written = sum(
        pq.read_metadata(part).num_rows
        for split in SPLITS
        for part in result.paths.row_parts(split)
    )
    assert ledger.total("flights", "written") == written
    ledger.check()


def test_split_follows_time(result: Result) -> None:
    bounds = {"train": ("2013-01-01", "2013-10-01"), "eval": ("2013-10-01", "2013-11-15")}
    for split, (first, last) in bounds.items():
        times = pq.read_table(result.paths.rows / split).column("time_hour")
        assert first <= str(pc.min(times).as_py()) < str(pc.max(times).as_py()) < last


def test_tf_transform_and_tf_data_open_what_was_written(result: Result) -> None:
    output = tft.TFTransformOutput(str(result.paths.transform_graph))
    spec = output.transformed_feature_spec()
    assert output.raw_metadata.schema.feature
    files = [str(path) for path in result.paths.example_parts("train")]
    data = tf.data.TFRecordDataset(files, compression_type="GZIP")
    parsed = tf.io.parse_example(next(iter(data.batch(100))), spec)
    assert set(parsed) == set(spec)
    assert set(parsed["label"].numpy()) == {0, 1}
    assert sum(1 for _ in data) == sum(
        pq.read_metadata(part).num_rows for part in result.paths.row_parts("train")
    )


def test_features_are_the_same_in_every_bit(result: Result) -> None:
    found = verify_features(result.paths, "label")
    assert len(found) == 5
    assert found[-1].path == "SavedModel, rows as JSON"
    for comparison in found:
        assert comparison.rows == result.ledger.total("flights", "written")
        assert (comparison.differing, comparison.bits, comparison.first) == (0, 0, [])


def test_timestamps_are_what_they_say(result: Result) -> None:
    rows = pq.read_table(result.paths.row_parts("test")[0]).column("time_hour").to_pylist()
    spec = tft.TFTransformOutput(str(result.paths.transform_graph)).transformed_feature_spec()
    part = str(result.paths.example_parts("test")[0])
    records = tf.data.TFRecordDataset(part, compression_type="GZIP")
    parsed = tf.io.parse_example(next(iter(records.batch(len(rows)))), spec)
    assert parsed["time_hour"].numpy().tolist() == [time.hour for time in rows]
    assert parsed["time_weekday"].numpy().tolist() == [time.weekday() for time in rows]


def test_nothing_known_later_and_no_label_is_asked_for_at_serving(result: Result) -> None:
    loaded = tf.saved_model.load(str(result.paths.newest_model()))
    names = set(loaded.signatures["predict_rows"].structured_input_signature[1])
    assert names == {
        *("temp", "wind_gust", "distance", "hour"),
        *("carrier", "tailnum", "origin", "dest", "time_hour"),
    }
    assert "SERVING" in result.paths.schema.read_text()


def test_model_is_evaluated_by_slice_and_decided(result: Result) -> None:
    assert result.metrics is not None
    assert result.blessing is not None
    assert 0.5 < result.metrics["overall"]["auc"] < 1
    assert [s["slice"] for s in result.metrics["slices"]] == [
        {"origin": origin} for origin in ("EWR", "JFK", "LGA")
    ]
    assert result.blessing["blessed"] is True
    assert any("no baseline" in reason for reason in result.blessing["reasons"])


def test_predict_answers_json_rows_with_fields_left_out(
    result: Result, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(result.paths.root), str(result.paths.sample)]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(answers) == 3
    assert all(0 < answer["prediction"] < 1 for answer in answers)
    row = json.loads(result.paths.sample.read_text().splitlines()[0])
    for optional in ("wind_gust", "temp", "tailnum"):
        row.pop(optional, None)
    row["carrier"] = "never seen in training"
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(row) + "\n" + '{"distance": "far"}\n')
    assert main(["predict", str(result.paths.model), str(rows)]) == 1
    shown = capsys.readouterr()
    good, bad = (json.loads(line) for line in shown.out.splitlines())
    assert 0 < good["prediction"] < 1
    assert "distance" in bad["error"]
    assert bad["line"] == 2
    assert "1 rows could not be read" in shown.err


def test_model_needs_nothing_but_tensorflow(result: Result) -> None:
    row = json.loads(result.paths.sample.read_text().splitlines()[0])
    time = datetime.datetime.fromisoformat(row["time_hour"])
    row["time_hour"] = int(time.timestamp())
    program = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("skewless", "apache_beam", "tensorflow_transform", "tfx_bsl"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import tensorflow as tf
model = tf.saved_model.load({str(result.paths.newest_model())!r})
row = {row!r}
rows, feature = {{}}, {{}}
for name, spec in model.signatures["predict_rows"].structured_input_signature[1].items():
    missing = {{tf.float32: float("nan"), tf.int64: -2**63, tf.string: ""}}[spec.dtype]
    rows[name] = tf.constant([row.get(name, missing)], spec.dtype)
    if name in row:
        kind = {{tf.float32: "float_list", tf.int64: "int64_list", tf.string: "bytes_list"}}
        value = row[name].encode() if spec.dtype == tf.string else row[name]
        feature[name] = tf.train.Feature(**{{kind[spec.dtype]: {{"value": [value]}}}})
example = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
by_row = model.signatures["predict_rows"](**rows)["prediction"].numpy()
by_example = model.signatures["serving_default"](examples=tf.constant([example]))["prediction"]
assert abs(by_row[0] - by_example.numpy()[0]) < 1e-6, (by_row, by_example)
assert not any(m.split(".")[0] == "tensorflow_transform" for m in sys.modules)
print("answered", by_row[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("answered 0.")


def test_manifest_tells_how_to_make_the_run_again(result: Result) -> None:
    manifest = read_manifest(result.paths.root)
    assert manifest["seed"] == 7
    assert manifest["versions"]["tensorflow"].startswith("2.")
    assert set(manifest["inputs"]) == {"flights", "weather"}
    assert all(f["digest"] for files in manifest["inputs"].values() for f in files)
    stages = ("schema", "rows", "analyze", "examples", "train", "export", "evaluate")
    assert set(manifest["stages"]) == set(stages)
