"""TensorFlow Serving's JSON as requests and answers; no HTTP.

The forms are those of TensorFlow Serving's REST API, and one more: where no signature is
named, objects of raw fields are rows for `predict_rows`. Rows and columns of raw fields may
leave fields out. `NaN`, `Infinity` and `-Infinity` are read and written as these words: JSON
has none, but TensorFlow Serving, Python's json and JavaScript's numbers do.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import orjson
from tensorflow.core.protobuf.meta_graph_pb2 import TensorInfo

from skewless.arrays import argument_names
from skewless.models.serving.json_tensors import dumps, is_bytes, read_tensor, shown, writable
from skewless.models.serving.limits import Limits, check_depth, check_instances
from skewless.models.serving.requests import (
    ROW_SIGNATURES,
    Answer,
    Arrays,
    Code,
    Deadline,
    Request,
    ServingError,
)
from skewless.models.serving.servable import Servable
from skewless.schema import is_list

__all__ = [
    "ANY",
    "Interface",
    "Target",
    "is_columnar",
    "read_document",
    "read_examples",
    "read_predict",
    "write_classes",
    "write_predictions",
    "write_values",
]

Document = dict[str, Any]
Rows = list[Mapping[str, Any]]
_DEFAULT = "serving_default"
_ROWS = ROW_SIGNATURES[0]
_VALUES, _LENGTHS = "/values", "/row_lengths"


@dataclasses.dataclass(frozen=True)
class Interface:
    """What a version of a model can be asked.

    Attributes:
        inputs: The inputs of each signature.
        lists: For each raw column, by its name and by its argument's, whether it holds lists.
        task: `binary`, `multiclass` or `regression`.
        class_names: The names of the classes; empty for regression.
    """

    inputs: Mapping[str, Mapping[str, TensorInfo]]
    lists: Mapping[str, bool]
    task: str
    class_names: tuple[str, ...] = ()

    @classmethod
    def of(cls, servable: Servable) -> Interface:
        """Return what a loaded version can be asked."""
        schema, signatures = servable.schema, servable.signature_defs
        names = argument_names(schema)
        lists = {name: is_list(f) for f in schema.feature for name in (names[f.name], f.name)}
        inputs = {name: dict(one.inputs) for name, one in signatures.items()}
        return cls(inputs, lists, servable.task, servable.class_names)

    def inputs_of(self, signature: str) -> Mapping[str, TensorInfo]:
        """Return the inputs of a signature.

        Raises:
            ServingError: If there is no such signature.
        """
        inputs = self.inputs.get(signature)
        if not inputs:
            known = ", ".join(sorted(name for name, found in self.inputs.items() if found))
            raise _invalid(f"signature_name is {shown(signature)}; the signatures are {known}")
        return inputs


class Target(NamedTuple):
    """Which version a request is for, and until when; see `Request`."""

    version: int | None = None
    label: str | None = None
    deadline: Deadline = None
    trace: str = ""


ANY = Target()


def read_document(body: bytes, limits: Limits) -> Document:
    """Return the JSON object that a body is.

    Raises:
        ServingError: If it is none, or too deep.
    """
    check_depth(body, limits)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if b"NaN" not in body and b"Infinity" not in body:
            raise _invalid(f"the body is not JSON: {error}") from None
        document = _read_with_words(body)
    if type(document) is not dict:
        raise _invalid(f"the body is {shown(document)}; expected an object")
    return document


def _read_with_words(body: bytes) -> Any:
    """Return JSON that has NaN and Infinity, otherwise as strict as orjson."""
    try:
        document = json.loads(body.decode(), parse_int=_integer, parse_float=_finite)
        # A lone surrogate is no text.
        json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise _invalid(f"the body is not JSON: {reason}") from None
    return document


def _integer(digits: str) -> int | float:
    # Python makes no integer of thousands of digits, and orjson none beyond 64 bits.
    value = int(digits) if len(digits) < 25 else None
    return _finite(digits) if value is None or not -(2**63) <= value < 2**64 else value


def _finite(digits: str) -> float:
    value = float(digits)
    if np.isinf(value):
        raise ValueError(f"{digits[:20]} is too large a number")
    return value


def read_predict(
    document: Document, interface: Interface, limits: Limits, target: Target = ANY
) -> Request:
    """Return what the body of a `:predict` asks.

    Args:
        document: The body.
        interface: What the version can be asked.
        limits: How many rows there may be.
        target: For the request.

    Raises:
        ServingError: If the model cannot be asked this.
    """
    columnar = is_columnar(document)
    given = document["inputs" if columnar else "instances"]
    signature = _signature_name(document) or _default_signature(given, columnar, interface)
    inputs = interface.inputs_of(signature)
    rows: Rows | None = None
    arrays: Arrays | None = None
    if not columnar and (type(given) is not list or not given):
        raise _invalid(f"instances is {shown(given)}; expected a list of at least one")
    if signature in ROW_SIGNATURES:
        rows = _rows_of_columns(given, inputs) if columnar else _rows(given, inputs)
        count = len(rows)
    else:
        named = _named(given, inputs) if columnar else _named_instances(given, inputs)
        if named.keys() != inputs.keys():
            raise _invalid(f"inputs is {shown(given)}; expected an object of {', '.join(inputs)}")
        arrays = {name: read_tensor(named[name], inputs[name].dtype, name) for name in inputs}
        count = max(len(array) if array.ndim else 1 for array in arrays.values())
    check_instances(count, limits)
    return Request(arrays, rows, signature, *target[:2], "rest", "predict", *target[2:])


def is_columnar(document: Document) -> bool:
    """Say whether the body of a `:predict` has columns, and so wants columns, not rows.

    Raises:
        ServingError: If it has both, or neither.
    """
    columnar = "inputs" in document
    if columnar == ("instances" in document):
        found = "both" if columnar else "neither"
        raise _invalid(f'the body has {found} of "instances" and "inputs"; expected one')
    return columnar


def _signature_name(document: Document) -> str:
    name = document.get("signature_name", "")
    if type(name) is not str:
        raise _invalid(f"signature_name is {shown(name)}; expected text")
    return name


def _default_signature(given: Any, columnar: bool, interface: Interface) -> str:
    first = given if columnar else given[0] if type(given) is list and given else None
    if not _is_object(first):
        return _DEFAULT
    # Serialized Examples by the name of their input, unless that is a column's too.
    names = set(first)
    of_default = names == set(interface.inputs.get(_DEFAULT, ()))
    return _DEFAULT if of_default and not names <= set(interface.lists) else _ROWS


def _is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    return type(value) is dict and not is_bytes(value)


def _rows(given: list[Any], inputs: Mapping[str, TensorInfo]) -> Rows:
    if not _is_object(given[0]) and len(inputs) == 1:
        return [{name: value} for value in given for name in inputs]
    for i, row in enumerate(given):
        if type(row) is not dict:
            raise _invalid(f"instances[{i}] is {shown(row)}; expected an object of raw fields")
    return given


def _rows_of_columns(given: Any, inputs: Mapping[str, TensorInfo]) -> Rows:
    columns = _named(given, inputs)
    if not columns:
        raise _invalid("inputs is an empty object; expected at least one column")
    lengths = {}
    for name, values in columns.items():
        if type(values) is not list:
            raise _invalid(f"inputs[{shown(name)}] is {shown(values)}; expected a list, one a row")
        lengths[len(values)] = name
    if len(lengths) > 1:
        (some, one), (others, other) = list(lengths.items())[:2]
        raise _invalid(
            f"inputs[{shown(one)}] has {some} rows, but inputs[{shown(other)}] has {others}; "
            "expected as many in each column"
        )
    if 0 in lengths:
        raise _invalid("inputs has no rows; expected at least one")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _named(given: Any, inputs: Mapping[str, TensorInfo]) -> Mapping[str, Any]:
    """Return columns by the names of their inputs; a signature's only one needs no name."""
    if _is_object(given):
        return dict(given)
    return {_only(inputs, "inputs", given): given}


def _named_instances(given: list[Any], inputs: Mapping[str, TensorInfo]) -> Mapping[str, Any]:
    """Return instances as columns by the names of their inputs."""
    if not _is_object(given[0]):
        return {_only(inputs, "instances[0]", given[0]): given}
    for i, one in enumerate(given):
        if type(one) is not dict or one.keys() != inputs.keys():
            raise _invalid(
                f"instances[{i}] is {shown(one)}; expected an object of {', '.join(inputs)}"
            )
    return {name: [one[name] for one in given] for name in inputs}


def _only(inputs: Mapping[str, TensorInfo], where: str, given: Any) -> str:
    if len(inputs) > 1:
        raise _invalid(f"{where} is {shown(given)}; expected an object of {', '.join(inputs)}")
    return next(iter(inputs))


def read_examples(
    document: Document,
    interface: Interface,
    limits: Limits,
    method: str,
    target: Target = ANY,
) -> Request:
    """Return what the body of a `:classify` or `:regress` asks.

    Args:
        document: The body.
        interface: What the version can be asked.
        limits: How many rows there may be.
        method: `classify` or `regress`.
        target: For the request.

    Raises:
        ServingError: If the model cannot be asked this.
    """
    unfit, other = ("regression", "regress") if method == "classify" else ("multiclass", "classify")
    if interface.task == unfit:
        raise _invalid(f"the model's task is {unfit}, so there is no :{method}; use :{other}")
    signature = _signature_name(document)
    if signature not in ("", _DEFAULT, _ROWS):
        raise _invalid(f"signature_name is {shown(signature)}; leave it out for :{method}")
    context, examples = document.get("context", {}), document.get("examples")
    if type(context) is not dict:
        raise _invalid(f"context is {shown(context)}; expected an object of features")
    if type(examples) is not list or not examples:
        raise _invalid(f"examples is {shown(examples)}; expected a list of at least one")
    check_instances(len(examples), limits)
    rows = [_row_of_example(i, one, context, interface.lists) for i, one in enumerate(examples)]
    return Request(None, rows, _ROWS, *target[:2], "rest", method, *target[2:])


def _row_of_example(
    i: int, example: Any, context: Mapping[str, Any], lists: Mapping[str, bool]
) -> Mapping[str, Any]:
    """Return an Example, in which a value may stand for a list of one, and the reverse."""
    if type(example) is not dict:
        raise _invalid(f"examples[{i}] is {shown(example)}; expected an object of features")
    if both := context.keys() & example.keys():
        raise _invalid(
            f"examples[{i}] has {shown(min(both))}, and so has the context; expected it in one"
        )
    row = {**context, **example}
    for name, value in row.items():
        if type(value) is list:
            if lists.get(name, True):
                continue
            if len(value) > 1:
                raise _invalid(
                    f"examples[{i}][{shown(name)}] is {shown(value)}; expected one value"
                )
            row[name] = value[0] if value else None
        elif value is not None and lists.get(name):
            row[name] = [value]
    return row


def write_predictions(answer: Answer, columnar: bool) -> bytes:
    """Return the body that answers a `:predict`.

    Of several outputs, rows are objects. A feature of any number of values, which `transform`
    gives as `<name>/values` and `<name>/row_lengths`, is one list a row by its name.

    Args:
        answer: The answer.
        columnar: Whether the request was; see `is_columnar`.

    Raises:
        ServingError: If JSON has no form for an output, or it is not one value a row.

    >>> answer = Answer({"p": np.array([0.1, np.nan], np.float32)}, 2, 1, "predict_rows")
    >>> write_predictions(answer, columnar=False)
    b'{"predictions":[0.1,NaN]}'
    """
    outputs = {name: writable(name, array) for name, array in answer.outputs.items()}
    if columnar:
        return dumps({"outputs": outputs if len(outputs) > 1 else next(iter(outputs.values()))})
    columns = _with_ragged(outputs, answer)
    if len(columns) == 1:
        return dumps({"predictions": next(iter(columns.values()))})
    rows = zip(*columns.values(), strict=True)
    return dumps({"predictions": [dict(zip(columns, row, strict=True)) for row in rows]})


def _with_ragged(outputs: Mapping[str, Any], answer: Answer) -> dict[str, Sequence[Any]]:
    """Return outputs as one value a row."""
    columns = {}
    for name, values in outputs.items():
        if name.endswith(_LENGTHS) and name.removesuffix(_LENGTHS) + _VALUES in outputs:
            continue
        base = name.removesuffix(_VALUES)
        lengths = answer.outputs.get(base + _LENGTHS) if base != name else None
        if lengths is not None:
            ends = np.cumsum(lengths).tolist()
            starts = [0, *ends[:-1]]
            name, values = base, [values[a:b] for a, b in zip(starts, ends, strict=True)]
        if type(values) not in (list, np.ndarray) or len(values) != answer.rows:
            raise _invalid(f'output "{name}" is not one value a row; ask with "inputs"')
        columns[name] = values
    return columns


def write_classes(answer: Answer, class_names: Sequence[str]) -> bytes:
    """Return the body that answers a `:classify`: for each row, each class with its score.

    >>> answer = Answer({"prediction": np.array([0.25], np.float32)}, 1, 1, "predict_rows")
    >>> write_classes(answer, ["on time", "late"])
    b'{"results":[[["on time",0.75],["late",0.25]]]}'
    """
    scores = answer.outputs["prediction"]
    if scores.ndim == 1:
        scores = np.stack([1 - scores, scores], axis=1)
    rows = writable("prediction", scores)
    return dumps({"results": [list(zip(class_names, row, strict=True)) for row in rows]})


def write_values(answer: Answer) -> bytes:
    """Return the body that answers a `:regress`: a number for each row."""
    return dumps({"results": writable("prediction", answer.outputs["prediction"])})


def _invalid(message: str) -> ServingError:
    return ServingError(Code.INVALID_ARGUMENT, message)
