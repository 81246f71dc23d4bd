import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from skewless.errors import RecipeError
from skewless.models.serving.recorded import (
    RECORDED,
    Recorded,
    read_recorded,
    record,
    write_recorded,
)


def arrays(**columns):
    return {name: np.array(values) for name, values in columns.items()}


REQUESTS = [
    Recorded(
        "serving_default",
        {"examples": np.array([b"\x00\xff", b""], object)},
        arrays(prediction=np.float32([0.1, 0.9])),
    ),
    Recorded(
        "predict_rows",
        {
            "n": np.array([-(2**63), 2**53 + 1]),
            "x": np.float32([np.nan, 1 / 3]),
            "word": np.array([b"", "Æ".encode()], object),
            "tags": np.empty((2, 0), object),
        },
        {
            "prediction": np.float32([[0.25, 0.75], [1, 0]]),
            "classes": np.array([[b"a", b"b"]] * 2, object),
        },
    ),
]


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert (one[name].shape, one[name].dtype) == (other[name].shape, other[name].dtype), name
        np.testing.assert_array_equal(one[name], other[name])


def test_requests_and_answers_come_back_as_they_were(tmp_path):
    write_recorded(tmp_path / "assets.extra", "small", REQUESTS)
    for found, written in zip(read_recorded(str(tmp_path)), REQUESTS, strict=True):
        assert found.signature == written.signature
        same(found.inputs, written.inputs)
        same(found.outputs, written.outputs)


def test_the_file_is_what_tensorflow_serving_replays(tmp_path):
    path = write_recorded(tmp_path / "assets.extra", "small", REQUESTS)
    assert path == tmp_path / "assets.extra" / "tf_serving_warmup_requests"
    records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    logs = [prediction_log_pb2.PredictionLog.FromString(one) for one in records]
    for log, written in zip(logs, REQUESTS, strict=True):
        assert log.WhichOneof("log_type") == "predict_log"
        asked = log.predict_log.request.model_spec
        assert (asked.name, asked.signature_name) == ("small", written.signature)
        assert not asked.HasField("version_choice"), "of whatever version is loaded"


def test_the_same_requests_are_the_same_file(tmp_path):
    one, other = (write_recorded(tmp_path / name, "small", REQUESTS) for name in "ab")
    assert one.read_bytes() == other.read_bytes()


def test_tensors_are_recorded_as_arrays():
    made = record("s", {}, {"prediction": tf.constant([1.5]), "classes": tf.constant([[b"a"]])})
    same(made.outputs, {"prediction": np.float32([1.5]), "classes": np.array([[b"a"]], object)})


def test_no_file_is_no_requests(tmp_path):
    assert read_recorded(str(tmp_path)) == []


def test_none_and_too_many_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="there are 0; expected 1 to 1,000"):
        write_recorded(tmp_path, "small", [])
    with pytest.raises(RecipeError, match="there are 1001; expected 1 to 1,000"):
        write_recorded(tmp_path, "small", REQUESTS[:1] * 1001)


def test_a_damaged_file_is_named(tmp_path):
    path = write_recorded(tmp_path / "assets.extra", "small", REQUESTS)
    whole = path.read_bytes()
    for damaged in (whole[:-3], b"\x00" * 40, whole[:20] + b"?" + whole[21:]):
        path.write_bytes(damaged)
        with pytest.raises(RecipeError, match=rf"{RECORDED} is damaged .*; export the model again"):
            read_recorded(str(tmp_path))


def test_somebody_elses_record_is_named(tmp_path):
    (tmp_path / "assets.extra").mkdir()
    log = prediction_log_pb2.PredictionLog()
    log.classify_log.request.model_spec.name = "small"
    for content, kind in ((log.SerializeToString(), "classify_log"), (b"", "empty")):
        with tf.io.TFRecordWriter(str(tmp_path / "assets.extra" / RECORDED)) as writer:
            writer.write(content)
        with pytest.raises(RecipeError, match=f"a record is {kind}; expected a predict_log"):
            read_recorded(str(tmp_path))
