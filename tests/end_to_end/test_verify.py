"""`skewless verify` finds nothing where all is well, and a skew where there is one."""

from __future__ import annotations

import pathlib
import shutil

import pytest
import tensorflow as tf

from skewless.errors import RunError
from skewless.launch.command_line import main
from skewless.models.export import export
from skewless.pipeline.artifacts import RunPaths, read_manifest
from skewless.pipeline.journey import Journey, Result, journey
from skewless.pipeline.stages import Quiet
from skewless.pipeline.verifying import verify_features


def test_verify_reads_the_source_again_and_finds_nothing(
    result: Result, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(result.paths.root), "--limit", "300"]) == 0
    shown = capsys.readouterr().err
    assert "source, read again" in shown
    assert "SavedModel, oneDNN off" in shown
    assert "no bit differs" in shown


def test_verify_finds_a_graph_altered_on_purpose(
    result: Result, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One carrier more at the head of the vocabulary moves every id at serving."""
    copied = RunPaths(tmp_path / "altered")
    shutil.copytree(result.paths.root, copied.root)
    shutil.rmtree(copied.model)
    assets = copied.transform_graph / "transform_fn" / "assets"
    (vocabulary,) = [p for p in assets.iterdir() if b"UA" in p.read_bytes().split()]
    words = vocabulary.read_bytes().split(b"\n")
    words[0], words[1] = words[1], words[0]
    vocabulary.write_bytes(b"\n".join(words))
    trained = read_manifest(copied.root)["stages"]["train"]["result"]
    export(
        model_path=str(copied.training / "model.keras"),
        transform_graph=str(copied.transform_graph),
        label="label",
        task=trained["task"],
        classes=trained["classes"],
        directory=str(copied.model),
        name="altered",
    )
    found = verify_features(copied, "label", [7, None])
    for comparison in found:
        assert comparison.differing > 100
        assert {d.feature for d in comparison.first} == {"carrier"}
        first = comparison.first[0]
        assert first.written != first.served
        assert first.file.endswith("flights.csv")
    assert main(["verify", str(copied.root), "--batch-sizes", "all", "--rows-only-from-run"]) == 1
    assert "carrier: written" in capsys.readouterr().err.replace("\n", "")


@pytest.mark.integration
def test_verify_finds_a_changed_source(
    flights_csv: pathlib.Path, recipe_file: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    csv = tmp_path / "flights.csv"
    shutil.copy(flights_csv, csv)
    recipe = tmp_path / "changed_source_recipe.py"
    recipe.write_text(recipe_file.read_text().replace(str(flights_csv), str(csv)))
    run = journey(Journey(recipe, tmp_path / "runs", until="export"), Quiet()).paths.root
    csv.write_bytes(csv.read_bytes().replace(b",UA,", b",UX,", 1))
    assert main(["verify", str(run), "--batch-sizes", "all"]) == 1


FLOAT32 = """
import tensorflow as tf
import skewless as sk

def preprocessing_fn(inputs):
    temp = tf.squeeze(tf.sparse.to_dense(tf.SparseTensor(
        inputs["temp"].indices, inputs["temp"].values, [inputs["temp"].dense_shape[0], 1]
    ), 50.0), axis=1)
    distance = tf.cast(inputs["distance"], tf.float32)
    delay = tf.cast(inputs["arr_delay"].values, tf.float32)
    sparse = inputs["temp"]
    warm = tf.SparseTensor(
        sparse.indices, tf.math.sigmoid(sparse.values / 30), sparse.dense_shape
    )
    return {{
        "log_distance": tf.math.log1p(distance),
        "cool": tf.math.sigmoid(temp / 40.0),
        "power": (distance / 777.0) ** 0.3,
        "warm": warm,
        "late": tf.cast(delay > 15, tf.int64),
    }}

recipe = sk.Recipe(
    name="float32",
    source=sk.ReadCsv({flights!r}, event_time="time_hour", strings_can_be_null=True),
    rows=[
        sk.Require("arr_delay"),
        sk.JoinAsOf(
            sk.ReadCsv({weather!r}, event_time="time_hour"), by=["origin"], columns=["temp"]
        ),
    ],
    preprocessing_fn=preprocessing_fn,
    label="late",
    split=sk.SplitByTime(train_until="2013-10-01", eval_until="2013-11-15"),
    model=sk.Linear(epochs=1, batch_size=1024),
)
"""


@pytest.mark.integration
def test_padding_is_what_makes_float32_functions_agree(
    flights_csv: pathlib.Path,
    weather_csv: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = tmp_path / "float32_recipe.py"
    recipe.write_text(FLOAT32.format(flights=str(flights_csv), weather=str(weather_csv)))
    made = journey(Journey(recipe, tmp_path / "runs", until="export"), Quiet())
    for comparison in verify_features(made.paths, "late"):
        assert (comparison.differing, comparison.first) == (0, [])

    # The same model exported without the padding.
    monkeypatch.setattr("skewless.models.export.TransformGraph", _unpadded)
    shutil.rmtree(made.paths.model)
    trained = read_manifest(made.paths.root)["stages"]["train"]["result"]
    export(
        model_path=str(made.paths.training / "model.keras"),
        transform_graph=str(made.paths.transform_graph),
        label="late",
        task=trained["task"],
        classes=trained["classes"],
        directory=str(made.paths.model),
        name="unpadded",
    )
    by_one, by_seven, _ = verify_features(made.paths, "late", [1, 7])
    assert by_one.differing > 100
    assert by_seven.differing > 100


def _unpadded(path: str, **options: object) -> tf.Module:
    from skewless.parity import TransformGraph

    return TransformGraph(path, pad_to=1, **options)  # type: ignore[arg-type]


def test_a_part_that_lost_rows_is_named(result: Result, tmp_path: pathlib.Path) -> None:
    copied = RunPaths(tmp_path / "short")
    shutil.copytree(result.paths.root, copied.root)
    (part,) = copied.example_parts("test")
    records = list(tf.data.TFRecordDataset(str(part), compression_type="GZIP"))
    with tf.io.TFRecordWriter(str(part), "GZIP") as writer:
        for record in records[:-1]:
            writer.write(record.numpy())
    with pytest.raises(RunError, match=r"part-00000\.tfrecord\.gz holds"):
        verify_features(copied, "label", [None])
