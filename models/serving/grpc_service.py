"""TensorFlow Serving's gRPC services, answered by a served model."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import numpy as np
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

from skewless.models.serving.limits import Limits, check_instances
from skewless.models.serving.model import ServedModel
from skewless.models.serving.requests import Answer, Code, Deadline, Request, ServingError
from skewless.models.serving.servable import EXAMPLES
from skewless.models.serving.tensors import array_of, tensor_of

__all__ = ["ModelService", "PredictionService"]

_log = logging.getLogger(__name__)
_METADATA = "signature_def"
_CLASSIFY, _REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


def _answered(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a method refuse as gRPC does: a status and a line."""

    @functools.wraps(function)
    def method(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return function(self, request, context)
        except ServingError as error:
            if error.retry_after is not None:
                context.set_trailing_metadata((("retry-after", f"{error.retry_after:.0f}"),))
            status, line = grpc.StatusCode[error.code.name], error.message
        except Exception:
            _log.exception("%s failed", function.__name__)
            status, line = grpc.StatusCode.INTERNAL, "internal error"
        return context.abort(status, line)

    return method


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
        left = context.time_remaining()
        if left is None or (self._timeout is not None and left > self._timeout):
            left = self._timeout
        return None if left is None else time.monotonic() + left


class PredictionService(_Service):
    """Answers TensorFlow Serving's `PredictionService`.

    Args:
        model: The model.
        limits: How much a request may hold.
        timeout: For how many seconds an answer is wanted, at most; None as the client says.
    """

    @_answered
    def Predict(  # noqa: N802 - gRPC's name
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        """Answer named tensors with the outputs of a signature."""
        spec = request.model_spec
        asked = self._asked(spec)
        arrays = {name: array_of(name, tensor) for name, tensor in request.inputs.items()}
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
            response.outputs[name].CopyFrom(tensor_of(answer.outputs[name]))
        return response

    @_answered
    def Classify(  # noqa: N802
        self, request: classification_pb2.ClassificationRequest, context: grpc.ServicerContext
    ) -> classification_pb2.ClassificationResponse:
        """Answer Examples with the score of each class."""
        answer = self._ask(request.model_spec, request.input, context, "classify")
        response = classification_pb2.ClassificationResponse()
        self._fill(response.model_spec, answer)
        self._classify(response.result, answer)
        return response

    @_answered
    def Regress(  # noqa: N802
        self, request: regression_pb2.RegressionRequest, context: grpc.ServicerContext
    ) -> regression_pb2.RegressionResponse:
        """Answer Examples with a number each."""
        answer = self._ask(request.model_spec, request.input, context, "regress")
        response = regression_pb2.RegressionResponse()
        self._fill(response.model_spec, answer)
        self._regress(response.result, answer)
        return response

    @_answered
    def MultiInference(  # noqa: N802
        self, request: inference_pb2.MultiInferenceRequest, context: grpc.ServicerContext
    ) -> inference_pb2.MultiInferenceResponse:
        """Answer Examples in several ways at once."""
        response = inference_pb2.MultiInferenceResponse()
        if not request.tasks:
            raise ServingError(Code.INVALID_ARGUMENT, "there are no tasks; expected at least one")
        for task in request.tasks:
            result = response.results.add()
            if task.method_name not in (_CLASSIFY, _REGRESS):
                raise ServingError(
                    Code.INVALID_ARGUMENT,
                    f'method_name "{task.method_name[:80]}"; expected {_CLASSIFY} or {_REGRESS}',
                )
            method = task.method_name.rpartition("/")[2]
            answer = self._ask(task.model_spec, request.input, context, method)
            self._fill(result.model_spec, answer)
            if method == "classify":
                self._classify(result.classification_result, answer)
            else:
                self._regress(result.regression_result, answer)
        return response

    @_answered
    def GetModelMetadata(  # noqa: N802
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, _: grpc.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Return the signatures of a version."""
        servable = self._model.servable(**self._asked(request.model_spec))
        if list(request.metadata_field) != [_METADATA]:
            raise ServingError(
                Code.INVALID_ARGUMENT,
                f"metadata_field {list(request.metadata_field)[:8]}; expected [{_METADATA!r}]",
            )
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
    ) -> Answer:
        asked = self._asked(spec)
        task = self._model.servable(**asked).task
        if method == "classify" and task == "regression":
            raise ServingError(Code.INVALID_ARGUMENT, "the model predicts numbers; ask Regress")
        if method == "regress" and task == "multiclass":
            raise ServingError(Code.INVALID_ARGUMENT, "the model predicts classes; ask Classify")
        if spec.signature_name not in ("", EXAMPLES):
            raise ServingError(
                Code.INVALID_ARGUMENT,
                f'signature_name "{spec.signature_name[:80]}"; expected "{EXAMPLES}" or none',
            )
        examples = _examples(given)
        check_instances(len(examples), self._limits)
        return self._model.answer(
            Request(
                arrays={"examples": np.array(examples, np.object_)},
                protocol="grpc",
                method=method,
                deadline=self._deadline(context),
                trace=_trace(context),
                **asked,
            )
        )

    def _fill(self, spec: model_pb2.ModelSpec, answer: Answer) -> None:
        spec.name = self._model.name
        spec.version.value = answer.version
        spec.signature_name = answer.signature

    def _classify(self, result: classification_pb2.ClassificationResult, answer: Answer) -> None:
        scores, names = answer.outputs["prediction"], answer.outputs.get("classes")
        labels = self._model.servable(answer.version).class_names or ("0", "1")
        for i, score in enumerate(scores):
            one = result.classifications.add()
            if names is not None:
                pairs = zip(names[i].tolist(), score.tolist(), strict=True)
            else:
                # The probability of the other class, in the precision of the answer.
                pairs = zip(labels, (float(np.float32(1) - score), float(score)), strict=True)
            for label, value in pairs:
                one.classes.add(label=label, score=value)

    def _regress(self, result: regression_pb2.RegressionResult, answer: Answer) -> None:
        for value in answer.outputs["prediction"].tolist():
            result.regressions.add(value=value)


class ModelService(_Service):
    """Answers TensorFlow Serving's `ModelService`: states, and labels."""

    @_answered
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

    @_answered
    def HandleReloadConfigRequest(  # noqa: N802
        self, request: model_management_pb2.ReloadConfigRequest, _: grpc.ServicerContext
    ) -> model_management_pb2.ReloadConfigResponse:
        """Let labels stand for other versions."""
        configs = list(request.config.model_config_list.config)
        if len(configs) != 1 or configs[0].name != self._model.name:
            raise ServingError(
                Code.INVALID_ARGUMENT,
                f'expected a model_config_list of one model, "{self._model.name}"; '
                "this server cannot take up others",
            )
        self._model.set_labels(dict(configs[0].version_labels))
        return model_management_pb2.ReloadConfigResponse()


def _wanted(chosen: Sequence[str], answer: Answer) -> list[str]:
    for name in chosen:
        if name not in answer.outputs:
            raise ServingError(
                Code.INVALID_ARGUMENT,
                f'output_filter: {answer.signature} has no output "{name[:80]}"; '
                f"its outputs are {', '.join(sorted(answer.outputs))[:400]}",
            )
    return list(chosen) or list(answer.outputs)


def _examples(given: input_pb2.Input) -> list[bytes]:
    kind = given.WhichOneof("kind")
    if kind == "example_list":
        return [example.SerializeToString() for example in given.example_list.examples]
    if kind != "example_list_with_context":
        raise ServingError(Code.INVALID_ARGUMENT, "the request has no Examples; give some")
    both = given.example_list_with_context
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
