"""What no stock client sends, and models that do not answer as the small one does."""

import concurrent.futures
import math
import threading
import time
import types

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow.core.framework import types_pb2
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

from skewless.errors import RecipeError
from skewless.models.serving.grpc_server import GrpcServer
from skewless.models.serving.limits import Limits
from skewless.models.serving.requests import Answer, Code, ServingError
from tests.models.serving.asked import ROWS, example, serialized

INVALID = grpc.StatusCode.INVALID_ARGUMENT
PREDICTION, MODELS = "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"


class Answering:
    """A model that answers what it is told to."""

    name = "small"
    ready = True

    def __init__(self, answer=None, task="binary", class_names=("0", "1")):
        self._answer = answer
        self._servable = types.SimpleNamespace(task=task, class_names=class_names, version=3)
        self.asked = []

    def servable(self, version=None, label=None):
        return self._servable

    def answer(self, request):
        self.asked.append(request)
        outputs = self._answer(request) if callable(self._answer) else self._answer
        return Answer(outputs, 1, 3, request.signature or "serving_default")


class Asking:
    """A server of a model, and who asks it."""

    def __init__(self, model, **options):
        self.server = GrpcServer(model, **options)
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.server.start()}")
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def raw(self, method, service=PREDICTION):
        return self.channel.unary_unary(f"/{service}/{method}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()
        self.server.stop(1)


@pytest.fixture(scope="module")
def asking(served):
    with Asking(served, limits=Limits(body_bytes=2**22, instances=1000)) as asking:
        yield asking


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


def inference_request(*methods):
    request = inference_pb2.MultiInferenceRequest()
    request.input.example_list.examples.append(example(ROWS[0]))
    for method in methods:
        request.tasks.add(method_name=f"tensorflow/serving/{method}").model_spec.name = "small"
    return request


def refused(call, request, code, line, **options):
    with pytest.raises(grpc.RpcError, match=line) as error:
        call(request, timeout=20, **options)
    assert error.value.code() is code
    assert "\n" not in error.value.details()
    return error.value


def test_what_is_no_request_is_the_clients_mistake(asking):
    line = r"no serialized tensorflow\.serving\.PredictRequest"
    refused(asking.raw("Predict"), b"\xff\xff", INVALID, line)
    refused(asking.raw("GetModelStatus", MODELS), b"\x0a\xff", INVALID, "GetModelStatusRequest")
    refused(asking.raw("Nope"), b"", grpc.StatusCode.UNIMPLEMENTED, "not found")


def test_a_small_request_cannot_ask_for_much_memory(asking):
    wide = predict("predict_rows", x=np.array([1.0], np.float32))
    shape = wide.inputs["x"].tensor_shape
    shape.dim[0].size = 2**23
    refused(asking.prediction.Predict, wide, INVALID, "send fewer rows at a time")
    shape.dim[0].size = 1001
    refused(asking.prediction.Predict, wide, INVALID, "1001 instances; expected at most 1000")
    for _ in range(200_000):
        shape.dim.add(size=2**62)
    start = time.monotonic()
    refused(asking.prediction.Predict, wide, INVALID, "has 200001 dimensions")
    assert time.monotonic() - start < 10


def test_a_context_is_not_written_out_without_end(asking):
    request = regression_pb2.RegressionRequest()
    request.model_spec.name = "small"
    both = request.input.example_list_with_context
    both.context.features.feature["tags"].bytes_list.value.append(b"x" * 10_000)
    for _ in range(500):
        both.examples.add()
    refused(asking.prediction.Regress, request, INVALID, "once for each of 500 examples")
    for _ in range(501):
        both.examples.add()
    refused(asking.prediction.Regress, request, INVALID, "1001 instances")


def test_each_task_is_asked_once(asking):
    two = inference_request("classify", "classify")
    refused(asking.prediction.MultiInference, two, INVALID, "two tasks are the same")
    refused(asking.prediction.MultiInference, inference_request(), INVALID, "no tasks")


def test_one_line_of_some_length_whatever_was_sent(asking):
    request = predict("a\nb" * 9000, x=[1.0])
    request.output_filter.append("\r\n")
    told = refused(asking.prediction.Predict, request, INVALID, "there is no signature")
    assert len(told.details()) < 1001
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["x\n" * 10**5] * 9)
    metadata.model_spec.name = "small"
    refused(asking.prediction.GetModelMetadata, metadata, INVALID, "metadata_field is x x")


def reload(**config):
    request = model_management_pb2.ReloadConfigRequest()
    request.config.model_config_list.config.add(name="small", **config)
    return request


def test_labels_change_and_nothing_else(asking, model_dir):
    change = asking.models.HandleReloadConfigRequest
    stock = reload(
        base_path=str(model_dir), model_platform="tensorflow", version_labels={"canary": 1}
    )
    assert change(stock, timeout=20).status.error_code == 0
    refused(change, reload(base_path="/other"), INVALID, "base_path is given")
    refused(change, reload(model_platform="onnx"), INVALID, "model_platform is given")
    kept = reload(version_labels={"canary": 1})
    policy = kept.config.model_config_list.config[0].model_version_policy
    policy.specific.versions.append(1)
    refused(change, kept, INVALID, "model_version_policy is given")
    kept = reload(version_labels={"canary": 1})
    kept.metric_names.append("x")
    refused(change, kept, INVALID, "metric_names is given")
    refused(change, model_management_pb2.ReloadConfigRequest(), INVALID, "model_config_list")
    assert change(reload(), timeout=20).status.error_code == 0


def test_all_classes_by_name_and_numbers_by_regress():
    scores = np.array([[0.25, 0.5, 0.25]], np.float32)
    many = Answering({"prediction": scores}, "multiclass", ("a", "b", "c"))
    with Asking(many) as asking:
        request = examples_request(classification_pb2.ClassificationRequest, ROWS[:1])
        (found,) = asking.prediction.Classify(request).result.classifications
        assert [(one.label, one.score) for one in found.classes] == [
            ("a", 0.25),
            ("b", 0.5),
            ("c", 0.25),
        ]
        request = examples_request(regression_pb2.RegressionRequest, ROWS[:1])
        refused(asking.prediction.Regress, request, INVALID, "predicts classes; ask Classify")
    number = Answering({"prediction": np.array([-7.5], np.float32)}, "regression", ())
    with Asking(number) as asking:
        response = asking.prediction.Regress(request)
        assert response.result.regressions[0].value == -7.5
        assert response.model_spec.version.value == 3
        request = examples_request(classification_pb2.ClassificationRequest, ROWS[:1])
        refused(asking.prediction.Classify, request, INVALID, "predicts numbers; ask Regress")


def test_names_of_classes():
    named = Answering({"prediction": np.array([0.75], np.float32)}, "binary", ("on time", "late"))
    with Asking(named) as asking:
        request = examples_request(classification_pb2.ClassificationRequest, ROWS[:1])
        (found,) = asking.prediction.Classify(request).result.classifications
        assert {one.label: one.score for one in found.classes} == {"on time": 0.25, "late": 0.75}


def fail(request):
    raise RuntimeError("secret of /some/where")


def refuse(request):
    raise ServingError(Code.RESOURCE_EXHAUSTED, "too\nmuch", retry_after=0.2)


def test_errors_say_no_more_than_they_should(caplog):
    with Asking(Answering(fail)) as asking:
        told = refused(
            asking.prediction.Predict, predict(), grpc.StatusCode.INTERNAL, "internal error"
        )
        assert told.details() == "internal error"
    assert "secret" in caplog.text
    with Asking(Answering(refuse)) as asking:
        exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
        told = refused(asking.prediction.Predict, predict(), exhausted, "too much")
        assert ("retry-after", "1") in [tuple(pair) for pair in told.trailing_metadata()]


def test_deadlines_are_those_of_the_client_and_of_the_server():
    model = Answering({})
    with Asking(model) as asking:
        asking.prediction.Predict(predict())
        asking.prediction.Predict(predict(), timeout=5)
    with Asking(model, timeout=2.0) as asking:
        asking.prediction.Predict(predict())
    first, second, last = (request.deadline for request in model.asked)
    assert first is None
    assert math.isclose(second - time.monotonic(), 5, abs_tol=4)
    assert last - time.monotonic() <= 2


def test_what_is_too_much_is_refused_and_health_still_answers():
    let, taken = threading.Event(), threading.Semaphore(0)

    def wait(request):
        taken.release()
        let.wait(20)
        return {}

    model = Answering(wait)
    with Asking(model, most_calls=2) as asking:
        held = [asking.prediction.Predict.future(predict(), timeout=20) for _ in range(2)]
        for _ in held:
            assert taken.acquire(timeout=20)
        told = refused(
            asking.prediction.Predict,
            predict(),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "too many calls at a time",
        )
        assert ("retry-after", "1") in [tuple(pair) for pair in told.trailing_metadata()]
        assert asking.health.Check(health_pb2.HealthCheckRequest(), timeout=20).status
        let.set()
        assert all(one.result(20) for one in held)
        # The threads count down a moment after their answers are there.
        until = time.monotonic() + 20
        while asking.prediction.Predict.future(predict(), timeout=20).exception():
            assert time.monotonic() < until


def test_at_least_one_call():
    with pytest.raises(RecipeError, match=r"most_calls=0.*at least 1"):
        GrpcServer(Answering(), most_calls=0)


def test_health_is_as_the_model_is_now_and_those_who_watch_are_told():
    model = Answering()
    serving, not_serving = 1, 2
    with Asking(model) as asking:
        request = health_pb2.HealthCheckRequest(service=PREDICTION)
        watching = asking.health.Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert next(watching).status == serving
        assert asking.health.Check(request, timeout=20).status == serving
        model.ready = False
        assert asking.health.Check(request, timeout=20).status == not_serving
        assert next(watching).status == not_serving
        nobody = health_pb2.HealthCheckRequest(service="nobody")
        refused(asking.health.Check, nobody, grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
        watching.cancel()


def test_a_token_is_taken_as_http_takes_it():
    with Asking(Answering({}), token=" s3cret\n") as asking:
        for given in ("Bearer s3cret", "bearer  s3cret"):
            asking.prediction.Predict(predict(), metadata=[("authorization", given)])
        for given in ("s3cret", "Bearer", "Basic s3cret", "Bearer s3cret2"):
            metadata = [("authorization", given)]
            refused(
                asking.prediction.Predict,
                predict(),
                grpc.StatusCode.UNAUTHENTICATED,
                "Bearer <token>",
                metadata=metadata,
            )


@pytest.mark.integration
def test_ten_thousand_malformed_requests(asking, predictor):
    """No crash, no internal error, no hang; and a good request is answered as before."""
    random = np.random.default_rng(6)
    states = get_model_status_pb2.GetModelStatusRequest()
    states.model_spec.name = "small"
    good = {
        (PREDICTION, "Predict"): [
            predict(examples=serialized(ROWS)),
            predict("transform", x=np.array([0.5, 2.0], np.float32), n=np.array([1, 2])),
            predict("predict_rows", x=np.array([2.0], np.float32), tags=np.array([[b"new"]])),
        ],
        (PREDICTION, "Classify"): [examples_request(classification_pb2.ClassificationRequest)],
        (PREDICTION, "Regress"): [examples_request(regression_pb2.RegressionRequest)],
        (PREDICTION, "MultiInference"): [inference_request("classify", "regress")],
        (PREDICTION, "GetModelMetadata"): [
            get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        ],
        (MODELS, "GetModelStatus"): [states],
        (MODELS, "HandleReloadConfigRequest"): [reload(model_platform="x")],
    }
    names = list(good)
    raw = {name: asking.raw(name[1], name[0]) for name in names}
    allowed = {
        INVALID,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
    }

    def body(i):
        name = names[0] if i % 2 else names[random.integers(len(names))]
        message = good[name][random.integers(len(good[name]))]
        if i % 10 == 0:
            return name, random.bytes(int(random.integers(0, 200)))
        if name == names[0] and i % 4 != 1:
            return name, odd_tensors(message, random).SerializeToString()
        if name[1] in ("Classify", "Regress") and i % 4:
            return name, odd_examples(message, random).SerializeToString()
        flipped = bytearray(message.SerializeToString())
        for _ in range(int(random.integers(1, 4))):
            flipped[int(random.integers(len(flipped)))] = int(random.integers(256))
        return name, bytes(flipped if i % 3 else flipped[: int(random.integers(len(flipped)))])

    def send(asked):
        name, sent = asked
        try:
            raw[name](sent, timeout=20)
        except grpc.RpcError as error:
            wrong = error.code() not in allowed or "\n" in error.details()
            return (name, error.code(), error.details(), sent) if wrong else None
        return None

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        odd = [found for found in pool.map(send, [body(i) for i in range(10_000)]) if found]
    assert odd == []
    response = asking.prediction.Predict(predict(examples=serialized(ROWS)), timeout=20)
    expected = predictor.predict_examples(serialized(ROWS))["prediction"]
    assert tf.make_ndarray(response.outputs["prediction"]).tolist() == expected.tolist()


def odd_tensors(message, random):
    """Return a `PredictRequest` with a few things that are wrong, or might be."""
    request = predict_pb2.PredictRequest()
    request.CopyFrom(message)
    for _ in range(int(random.integers(1, 3))):
        if not request.inputs:
            return request
        name = list(request.inputs)[random.integers(len(request.inputs))]
        tensor = request.inputs[name]
        dims = tensor.tensor_shape.dim
        match random.integers(11):
            case 0:
                tensor.dtype = int(random.integers(0, 130))
            case 1:
                dims.add(size=int(random.choice([-3, 0, 1, 2**20, 2**40, 2**62])))
            case 2:
                tensor.tensor_content = random.bytes(int(random.integers(20)))
            case 3:
                name = random.choice(["odd", "a\nb", "x", "n", "tags", "carrier", "examples", ""])
                request.inputs[str(name)].CopyFrom(tensor)
            case 4:
                tensor.tensor_shape.unknown_rank = True
            case 5:
                del request.inputs[name]
            case 6:
                tensor.string_val.append(odd_example(random).SerializeToString())
                tensor.dtype = types_pb2.DT_STRING
            case 7:
                dims.extend([dims[0]] * int(random.integers(70)) if dims else [])
            case 8:
                del dims[:]
            case 9:
                request.model_spec.signature_name = str(random.choice(["", "transform", "x\n"]))
            case _:
                size = dims[0].size if dims else 0
                values = serialized(ROWS) * 9
                tensor.string_val[:] = values[: max(0, size)]
                request.output_filter.append("prediction")
    return request


def odd_examples(message, random):
    """Return a request of Examples that may be none of this model."""
    request = type(message)()
    request.CopyFrom(message)
    made = [odd_example(random) for _ in range(int(random.integers(4)))]
    if random.integers(2):
        request.input.example_list.examples.extend(made)
    else:
        request.input.example_list_with_context.examples.extend(made)
        request.input.example_list_with_context.context.CopyFrom(odd_example(random))
    if not random.integers(4):
        request.model_spec.version.value = int(random.integers(-2, 3))
    return request


def odd_example(random):
    made = tf.train.Example()
    for _ in range(int(random.integers(5))):
        name = str(random.choice(["x", "o", "n", "carrier", "tags", "late", "", "é\n"]))
        feature = made.features.feature[name]
        count = int(random.integers(4))
        match random.integers(4):
            case 0:
                feature.int64_list.value.extend(random.integers(-(2**62), 2**62, count).tolist())
            case 1:
                feature.float_list.value.extend(random.normal(size=count) * 1e30)
            case 2:
                feature.bytes_list.value.extend(random.bytes(3) for _ in range(count))
            case _:
                feature.float_list.value.extend([math.nan, math.inf][:count])
    return made
