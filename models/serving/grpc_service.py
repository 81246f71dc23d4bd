"""TensorFlow Serving's gRPC services, answered by a served model."""

from __future__ import annotations

import functools
import logging
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError, Message
from tensorflow.core.example import example_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_management_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)
from tensorflow_serving.config import model_server_config_pb2

from skewless.models.serving.limits import Limits, check_instances
from skewless.models.serving.model import ServedModel
from skewless.models.serving.requests import Answer, Code, Deadline, Request, ServingError
from skewless.models.serving.servable import EXAMPLES
from skewless.models.serving.tensors import arrays_of, fill_tensor

__all__ = ["ModelService", "PredictionService", "handlers", "retry_after"]

_log = logging.getLogger(__name__)
_METADATA = "signature_def"
_LONGEST_LINE = 1000
# Longer than any wait that Python's locks take, in seconds.
_FOREVER = 1e9
_CLASSIFY, _REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


def handlers(servicer: PredictionService | ModelService) -> grpc.GenericRpcHandler:
    """Return what answers the calls of a service.

    Requests come as bytes and are parsed here: where gRPC parses them, it does so in the one
    thread that all calls go through, and calls malformed ones errors of the server.

    Args:
        servicer: Has a method for each of the service's.
    """
    methods = {
        name: grpc.unary_unary_rpc_method_handler(
            functools.partial(_answer, getattr(servicer, name), request_type)
        )
        for name, request_type in servicer.REQUESTS.items()
    }
    return grpc.method_handlers_generic_handler(servicer.NAME, methods)


def _answer(
    method: Callable[[Any, grpc.ServicerContext], Message],
    request_type: type[Message],
    body: bytes,
    context: grpc.ServicerContext,
) -> bytes:
    """Answer, or refuse as gRPC does: with a status and a line."""
    try:
        answer: bytes = method(request_type.FromString(body), context).SerializeToString()
        return answer
    except ServingError as error:
        if error.retry_after is not None:
            context.set_trailing_metadata(retry_after(error.retry_after))
        status, line = grpc.StatusCode[error.code.name], error.message
    except DecodeError:
        status = grpc.StatusCode.INVALID_ARGUMENT
        line = f"the request is no serialized {request_type.DESCRIPTOR.full_name}"
    except Exception:
        _log.exception("%s failed", method.__name__)
        status, line = grpc.StatusCode.INTERNAL, "internal error"
    # What a client gave may be in it: any text of any length.
    return context.abort(status, " ".join(line.split())[:_LONGEST_LINE])  # type: ignore[no-any-return]


def retry_after(seconds: float) -> tuple[tuple[str, str], ...]:
    """Return metadata that say in how many seconds a client may try again."""
    return (("retry-after", str(max(1, math.ceil(seconds)))),)


class _Service:
    def __init__(self, model: ServedModel, limits: Limits, timeout: float | None) -> None:
        self._model = model
        self._limits = limits
        self._timeout = timeout

    def _asked(self, spec: model_pb2.ModelSpec) -> dict[str, Any]:
        """Return which version is asked.

        Raises:
            ServingError: If another model is.
        """
        if spec.name != self._model.name:
            raise ServingError(
                Code.NOT_FOUND,
                f'there is no model "{spec.name[:80]}"; this server has "{self._model.name}"',
            )
        choice = spec.WhichOneof("version_choice")
        return {
            "version": spec.version.value if choice == "version" else None,
            "label": spec.version_label if choice == "version_label" else None,
        }

    def _deadline(self, context: grpc.ServicerContext) -> Deadline:
        # gRPC's word for never is a time without end.
        left = min(context.time_remaining(), self._timeout or math.inf)
        return time.monotonic() + left if left < _FOREVER else None


class PredictionService(_Service):
    """Answers TensorFlow Serving's `PredictionService`.

    Args:
        model: The model.
        limits: How much a request may hold.
        timeout: For how many seconds an answer is wanted, at most; None as the client says.

    Attributes:
        NAME: The service's full name.
        REQUESTS: What each of its methods is asked with.
    """

    NAME = "tensorflow.serving.PredictionService"
    REQUESTS: Mapping[str, type[Message]] = {
        "Predict": predict_pb2.PredictRequest,
        "Classify": classification_pb2.ClassificationRequest,
        "Regress": regression_pb2.RegressionRequest,
        "MultiInference": inference_pb2.MultiInferenceRequest,
        "GetModelMetadata": get_model_metadata_pb2.GetModelMetadataRequest,
    }

    def Predict(  # noqa: N802 - gRPC's name
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        """Answer named tensors with the outputs of a signature."""
        spec = request.model_spec
        asked = self._asked(spec)
        arrays = arrays_of(request.inputs, self._limits.body_bytes)
        for array in arrays.values():
            check_instances(len(array) if array.ndim else 1, self._limits)
        answer = self._model.answer(
            Request(
                arrays=arrays,
                signature=spec.signature_name,
                protocol="grpc",
                deadline=self._deadline(context),
                trace=_trace(context),
                **asked,
            )
        )
        response = predict_pb2.PredictResponse()
        self._fill(response.model_spec, answer)
        for name in _wanted(request.output_filter, answer):
            fill_tensor(response.outputs[name], answer.outputs[name])
        return response

    def Classify(  # noqa: N802
        self, request: classification_pb2.ClassificationRequest, context: grpc.ServicerContext
    ) -> classification_pb2.ClassificationResponse:
        """Answer Examples with the score of each class."""
        answer, names = self._ask(request.model_spec, request.input, context, "classify")
        response = classification_pb2.ClassificationResponse()
        self._fill(response.model_spec, answer)
        _classify(response.result, answer, names)
        return response

    def Regress(  # noqa: N802
        self, request: regression_pb2.RegressionRequest, context: grpc.ServicerContext
    ) -> regression_pb2.RegressionResponse:
        """Answer Examples with a number each."""
        answer, _ = self._ask(request.model_spec, request.input, context, "regress")
        response = regression_pb2.RegressionResponse()
        self._fill(response.model_spec, answer)
        _regress(response.result, answer)
        return response

    def MultiInference(  # noqa: N802
        self, request: inference_pb2.MultiInferenceRequest, context: grpc.ServicerContext
    ) -> inference_pb2.MultiInferenceResponse:
        """Answer Examples in several ways at once."""
        response = inference_pb2.MultiInferenceResponse()
        if not request.tasks:
            raise _invalid("there are no tasks; expected at least one")
        # Each is a call of the model: a small request may ask for any number of them.
        if len({_task(task) for task in request.tasks}) < len(request.tasks):
            raise _invalid("two tasks are the same; expected each once")
        for task in request.tasks:
            if task.method_name not in (_CLASSIFY, _REGRESS):
                raise _invalid(
                    f'method_name "{task.method_name[:80]}"; expected {_CLASSIFY} or {_REGRESS}'
                )
            method = task.method_name.rpartition("/")[2]
            answer, names = self._ask(task.model_spec, request.input, context, method)
            result = response.results.add()
            self._fill(result.model_spec, answer)
            if method == "classify":
                _classify(result.classification_result, answer, names)
            else:
                _regress(result.regression_result, answer)
        return response

    def GetModelMetadata(  # noqa: N802
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, _: grpc.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Return the signatures of a version."""
        servable = self._model.servable(**self._asked(request.model_spec))
        if list(request.metadata_field) != [_METADATA]:
            given = ", ".join(request.metadata_field[:8])
            raise _invalid(f'metadata_field is {given[:80] or "empty"}; expected "{_METADATA}"')
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = self._model.name
        response.model_spec.version.value = servable.version
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in servable.signature_defs.items():
            signatures.signature_def[name].CopyFrom(signature)
        response.metadata[_METADATA].Pack(signatures)
        return response

    def _ask(
        self,
        spec: model_pb2.ModelSpec,
        given: input_pb2.Input,
        context: grpc.ServicerContext,
        method: str,
    ) -> tuple[Answer, Sequence[str]]:
        """Return the answer to Examples, and the names of the classes."""
        asked = self._asked(spec)
        servable = self._model.servable(**asked)
        task = servable.task
        if method == "classify" and task == "regression":
            raise _invalid("the model predicts numbers; ask Regress")
        if method == "regress" and task == "multiclass":
            raise _invalid("the model predicts classes; ask Classify")
        if spec.signature_name not in ("", EXAMPLES):
            raise _invalid(
                f'signature_name "{spec.signature_name[:80]}"; expected "{EXAMPLES}" or none'
            )
        examples = _examples(given, self._limits)
        answer = self._model.answer(
            Request(
                arrays={"examples": np.array(examples, np.object_)},
                protocol="grpc",
                method=method,
                deadline=self._deadline(context),
                trace=_trace(context),
                **asked,
            )
        )
        if answer.version != servable.version:
            # A newer one took its place meanwhile.
            servable = self._model.servable(answer.version)
        return answer, servable.class_names

    def _fill(self, spec: model_pb2.ModelSpec, answer: Answer) -> None:
        spec.name = self._model.name
        spec.version.value = answer.version
        spec.signature_name = answer.signature


class ModelService(_Service):
    """Answers TensorFlow Serving's `ModelService`: states, and labels."""

    NAME = "tensorflow.serving.ModelService"
    REQUESTS: Mapping[str, type[Message]] = {
        "GetModelStatus": get_model_status_pb2.GetModelStatusRequest,
        "HandleReloadConfigRequest": model_management_pb2.ReloadConfigRequest,
    }

    def GetModelStatus(  # noqa: N802
        self, request: get_model_status_pb2.GetModelStatusRequest, _: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """Return the states of versions."""
        response = get_model_status_pb2.GetModelStatusResponse()
        states = get_model_status_pb2.ModelVersionStatus.State
        for status in self._model.status(**self._asked(request.model_spec)):
            one = response.model_version_status.add()
            one.version = status.version
            one.state = states.Value(status.state)
            code = grpc.StatusCode[status.error_code]
            one.status.error_code = code.value[0]
            one.status.error_message = status.error_message
        return response

    def HandleReloadConfigRequest(  # noqa: N802
        self, request: model_management_pb2.ReloadConfigRequest, _: grpc.ServicerContext
    ) -> model_management_pb2.ReloadConfigResponse:
        """Let labels stand for other versions."""
        configs = request.config.model_config_list.config
        if len(configs) != 1 or configs[0].name != self._model.name:
            raise _invalid(
                f'expected a model_config_list of one model, "{self._model.name}"; '
                "this server cannot take up others"
            )
        self._check_same(configs[0])
        if request.metric_names:
            raise _invalid("metric_names is given; this server has no metrics to answer with")
        self._model.set_labels(dict(configs[0].version_labels))
        return model_management_pb2.ReloadConfigResponse()

    def _check_same(self, config: model_server_config_pb2.ModelConfig) -> None:
        """Refuse all that would change something other than labels."""
        version = pathlib.Path(self._model.servable().path).absolute()
        same = {"name", "version_labels"}
        if config.model_platform == "tensorflow":
            same.add("model_platform")
        if pathlib.Path(config.base_path).absolute() in (version, version.parent):
            same.add("base_path")
        other = [field.name for field, _ in config.ListFields() if field.name not in same]
        if other:
            raise _invalid(
                f"{other[0]} is given; this server changes version_labels only, so leave "
                f"{other[0]} out, and start a server with it"
            )


def _wanted(chosen: Sequence[str], answer: Answer) -> list[str]:
    for name in chosen:
        if name not in answer.outputs:
            raise _invalid(
                f'output_filter: {answer.signature} has no output "{name[:80]}"; '
                f"its outputs are {', '.join(sorted(answer.outputs))[:400]}"
            )
    return list(chosen) or list(answer.outputs)


def _task(task: inference_pb2.InferenceTask) -> tuple[Any, ...]:
    spec = task.model_spec
    return task.method_name, spec.signature_name, spec.version.value, spec.version_label


def _classify(
    result: classification_pb2.ClassificationResult, answer: Answer, names: Sequence[str]
) -> None:
    scores = answer.outputs["prediction"]
    if scores.ndim == 1:
        # The probability of the other class, in the precision of the answer.
        scores = np.stack([1 - scores, scores], axis=1)
    for row in scores.tolist():
        classes = result.classifications.add().classes
        for label, score in zip(names, row, strict=True):
            classes.add(label=label, score=score)


def _regress(result: regression_pb2.RegressionResult, answer: Answer) -> None:
    for value in answer.outputs["prediction"].tolist():
        result.regressions.add(value=value)


def _examples(given: input_pb2.Input, limits: Limits) -> list[bytes]:
    """Return serialized Examples, the context merged into each."""
    kind = given.WhichOneof("kind")
    if kind is None:
        raise _invalid("the request has no Examples; give some")
    if kind == "example_list":
        check_instances(len(given.example_list.examples), limits)
        return [example.SerializeToString() for example in given.example_list.examples]
    both = given.example_list_with_context
    count = len(both.examples)
    check_instances(count, limits)
    # What is sent once is written out for each: a small request may become a huge one.
    if both.context.ByteSize() * count > limits.body_bytes:
        raise _invalid(
            f"the context, once for each of {count} examples, is larger than "
            f"{limits.body_bytes} bytes; send fewer examples at a time"
        )
    found = []
    for example in both.examples:
        merged = example_pb2.Example()
        merged.CopyFrom(both.context)
        for name, feature in example.features.feature.items():
            merged.features.feature[name].CopyFrom(feature)
        found.append(merged.SerializeToString())
    return found


def _trace(context: grpc.ServicerContext) -> str:
    for key, value in context.invocation_metadata():
        if key == "traceparent":
            return str(value)
    return ""


def _invalid(message: str) -> ServingError:
    return ServingError(Code.INVALID_ARGUMENT, message)
