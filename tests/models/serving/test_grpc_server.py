"""Stock stubs of tensorflow-serving-api, as in TensorFlow Serving's own examples of clients."""

import pathlib
import time

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from skewless.errors import RecipeError, RunError
from skewless.models.serving.grpc_server import GrpcServer
from skewless.models.serving.limits import Limits
from tests.models.serving.asked import ROWS, example, serialized
from tests.models.serving.certificates import certificate


@pytest.fixture(scope="module")
def port(served):
    server = GrpcServer(served, limits=Limits(instances=100))
    yield server.start()
    server.stop(1)


@pytest.fixture(scope="module")
def channel(port):
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def models(channel):
    return model_service_pb2_grpc.ModelServiceStub(channel)


@pytest.fixture(scope="module")
def expected(predictor):
    return predictor.predict_examples(serialized(ROWS))["prediction"]


def predict(signature="", **inputs):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "small"
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def examples_request(kind, rows=ROWS):
    request = kind()
    request.model_spec.name = "small"
    request.input.example_list.examples.extend(example(row) for row in rows)
    return request


def refused(call, request, code, line, **options):
    with pytest.raises(grpc.RpcError, match=line) as error:
        call(request, timeout=30, **options)
    assert error.value.code() is code
    assert "\n" not in error.value.details()
    return error.value


def test_predict_takes_examples(stub, expected):
    response = stub.Predict(predict(examples=serialized(ROWS)), timeout=30)
    assert tf.make_ndarray(response.outputs["prediction"]).tolist() == expected.tolist()
    assert response.model_spec.version.value == 1
    assert response.model_spec.signature_name == "serving_default"


def test_predict_takes_columns_and_columns_may_be_left_out(stub, expected):
    request = predict(
        "predict_rows",
        x=np.array([2.0], np.float32),
        n=np.array([1]),
        tags=np.array([[b"blue"]]),
    )
    response = stub.Predict(request, timeout=30)
    assert tf.make_ndarray(response.outputs["prediction"]).tolist() == expected[2:].tolist()


def test_transform_answers_features_and_a_filter_chooses(stub, predictor):
    request = predict("transform", x=np.array([0.5, 2.0], np.float32))
    features = stub.Predict(request, timeout=30).outputs
    assert {"x_scaled", "tags/values", "tags/row_lengths"} <= set(features)
    request.output_filter.append("x_pair")
    chosen = stub.Predict(request, timeout=30).outputs
    assert list(chosen) == ["x_pair"]
    assert chosen["x_pair"] == features["x_pair"]
    request.output_filter.append("nope")
    refused(stub.Predict, request, grpc.StatusCode.INVALID_ARGUMENT, 'no output "nope"')


def test_classify_and_regress(stub, expected):
    response = stub.Classify(examples_request(classification_pb2.ClassificationRequest))
    found = [
        {one.label: one.score for one in each.classes} for each in response.result.classifications
    ]
    assert [one["1"] for one in found] == expected.tolist()
    assert [one["0"] for one in found] == (np.float32(1) - expected).tolist()
    response = stub.Regress(examples_request(regression_pb2.RegressionRequest))
    assert [one.value for one in response.result.regressions] == expected.tolist()


def test_a_context_is_merged_into_each_example(stub, expected):
    request = regression_pb2.RegressionRequest()
    request.model_spec.name = "small"
    both = request.input.example_list_with_context
    both.context.CopyFrom(example({"x": 2.0, "n": 7}))
    both.examples.extend([example({"n": 1, "tags": ["blue"]})])
    response = stub.Regress(request)
    assert response.result.regressions[0].value == expected[2]


def test_multi_inference(stub, expected):
    request = inference_pb2.MultiInferenceRequest()
    request.input.example_list.examples.append(example(ROWS[0]))
    for method in ("classify", "regress"):
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name = "small"
    one, two = stub.MultiInference(request).results
    assert one.classification_result.classifications[0].classes[1].score == expected[0]
    assert two.regression_result.regressions[0].value == expected[0]
    request.tasks[0].method_name = "nope"
    refused(stub.MultiInference, request, grpc.StatusCode.INVALID_ARGUMENT, "expected tensorflow")


def test_metadata(stub, served):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "small"
    response = stub.GetModelMetadata(request)
    found = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(found)
    assert dict(found.signature_def) == dict(served.servable().signature_defs)
    request.metadata_field[:] = ["nope"]
    refused(stub.GetModelMetadata, request, grpc.StatusCode.INVALID_ARGUMENT, "signature_def")


def test_states_and_labels(models, stub, expected):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "small"
    (status,) = models.GetModelStatus(request).model_version_status
    assert (status.version, status.state) == (1, 30)
    reload = model_management_pb2.ReloadConfigRequest()
    config = reload.config.model_config_list.config.add(name="small")
    config.version_labels["stable"] = 1
    assert models.HandleReloadConfigRequest(reload).status.error_code == 0
    asked = predict(examples=serialized(ROWS))
    asked.model_spec.version_label = "stable"
    response = stub.Predict(asked, timeout=30)
    assert tf.make_ndarray(response.outputs["prediction"]).tolist() == expected.tolist()
    config.version_labels["stable"] = 9
    refused(
        models.HandleReloadConfigRequest,
        reload,
        grpc.StatusCode.FAILED_PRECONDITION,
        "version 9 is not served",
    )
    config.name = "other"
    refused(
        models.HandleReloadConfigRequest, reload, grpc.StatusCode.INVALID_ARGUMENT, "cannot take up"
    )


def test_what_is_not_there_is_not_found(stub):
    request = predict(examples=serialized(ROWS))
    request.model_spec.version.value = 9
    refused(stub.Predict, request, grpc.StatusCode.NOT_FOUND, "versions 1 are")
    request.model_spec.name = "other"
    refused(stub.Predict, request, grpc.StatusCode.NOT_FOUND, 'this server has "small"')


def test_wrong_requests_are_refused(stub):
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    refused(stub.Predict, predict(examples=[b"\xff"]), invalid, "cannot take the inputs")
    refused(stub.Predict, predict("nope", x=[1.0]), invalid, 'no signature "nope"')
    refused(stub.Predict, predict("transform", x=["a"]), invalid, r"expected float32 \[rows\]")
    refused(stub.Predict, predict("transform", x=1.0), invalid, r"of shape \[\]")
    refused(stub.Predict, predict(examples=[b""] * 101), invalid, "100")
    refused(
        stub.Classify, classification_pb2.ClassificationRequest(), grpc.StatusCode.NOT_FOUND, ""
    )
    nothing = examples_request(classification_pb2.ClassificationRequest, [])
    refused(stub.Classify, nothing, invalid, "no rows")


def test_a_deadline_is_kept(served):
    server = GrpcServer(served, timeout=1e-7)
    with grpc.insecure_channel(f"127.0.0.1:{server.start()}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = predict(examples=serialized(ROWS))
        refused(stub.Predict, request, grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed")
    server.stop(1)


def test_health_follows_the_model(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for _ in range(100):
        found = health.Check(health_pb2.HealthCheckRequest(service=""))
        if found.status == health_pb2.HealthCheckResponse.SERVING:
            break
        time.sleep(0.05)
    assert found.status == health_pb2.HealthCheckResponse.SERVING


def test_tls_and_token(served, expected, tmp_path):
    cert, key = certificate(tmp_path)
    server = GrpcServer(served, certfile=cert, keyfile=key, token="s3cret")
    port = server.start()
    credentials = grpc.ssl_channel_credentials(pathlib.Path(cert).read_bytes())
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = predict(examples=serialized(ROWS))
        unauthenticated = grpc.StatusCode.UNAUTHENTICATED
        refused(stub.Predict, request, unauthenticated, "Bearer <token>")
        wrong = [("authorization", "Bearer other")]
        refused(stub.Predict, request, unauthenticated, "Bearer", metadata=wrong)
        right = [("authorization", "Bearer s3cret")]
        response = stub.Predict(request, timeout=30, metadata=right)
        assert tf.make_ndarray(response.outputs["prediction"]).tolist() == expected.tolist()
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(service="")).status
    server.stop(1)


def test_what_cannot_be_listened_on_is_said(served, port, tmp_path):
    with pytest.raises(RunError, match="cannot listen on"):
        GrpcServer(served, port=port).start()
    with pytest.raises(RecipeError, match="cannot be read"):
        GrpcServer(served, certfile=str(tmp_path / "no.pem")).start()
