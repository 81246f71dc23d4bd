import numpy as np
import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from skewless.arrays import raw_arrays
from skewless.models.serving.logged import LoggedModel
from skewless.models.serving.logged_records import logged_records
from skewless.models.serving.requests import Answer, Code, Request
from tests.models.serving.answered import SCHEMA, Model, entry, of_examples, of_rows, rows

MODEL = LoggedModel.of(Model())


def logs(entries, model=MODEL):
    return [PredictionLog.FromString(one) for one in logged_records(entries, model, 0.25)]


def test_a_record_is_as_tensorflow_serving_writes_it():
    request, answer = of_rows(rows(3))
    (log,) = logs([entry(request, answer)])
    assert log.WhichOneof("log_type") == "predict_log"
    assert log.log_metadata.sampling_config.sampling_rate == 0.25
    assert log.log_metadata.timestamp_secs == 1_357_041_600
    predict = log.predict_log
    for spec in (
        log.log_metadata.model_spec,
        predict.request.model_spec,
        predict.response.model_spec,
    ):
        assert (spec.name, spec.version.value) == ("flights", 3)
        assert spec.signature_name == "predict_rows"
    # By the names that a client would use, in the form that the graph was fed.
    assert set(predict.request.inputs) == set(MODEL.arguments.values())
    for name, array in answer.fed.items():
        found = tf.make_ndarray(predict.request.inputs[MODEL.arguments[name]])
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype
    prediction = tf.make_ndarray(predict.response.outputs["prediction"])
    np.testing.assert_array_equal(prediction, answer.outputs["prediction"])


def test_examples_stay_as_they_came():
    request, answer = of_examples(rows(3))
    (log,) = logs([entry(request, answer)])
    found = tf.make_ndarray(log.predict_log.request.inputs["examples"])
    assert found.tolist() == request.arrays["examples"].tolist()


def test_what_is_excluded_is_in_no_record():
    model = LoggedModel.of(Model(), exclude=("carrier",))
    batch = rows(20)
    whole = raw_arrays(batch, SCHEMA)
    features = Answer({"carrier": np.array([b"AA"] * 20, object)}, 20, 3, "transform", whole)
    entries = [entry(*of_rows(batch)), entry(*of_examples(batch))]
    entries.append(entry(of_rows(batch)[0], features))
    for record in logged_records(entries, model, 1.0):
        for secret in (b"carrier", b"AA", b"B6"):
            assert secret not in record
    by_rows, by_examples, transformed = logs(entries, model)
    assert not transformed.predict_log.response.outputs
    assert "o" in by_rows.predict_log.request.inputs
    assert b"trip miles" in by_examples.SerializeToString()


def test_what_was_refused_is_no_record():
    assert not logs([entry(Request(rows=[{}]), None, Code.UNAVAILABLE)])
