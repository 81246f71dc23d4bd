"""From a recipe's features and label to a `preprocessing_fn` of tf.Transform."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from skewless.errors import RecipeError, no_such_column
from skewless.schema import Feature, Schema, column_names, find_feature, is_list
from skewless.transforms.features.category import (
    encode,
    make_categories,
    make_category,
    make_cross,
    make_text,
)
from skewless.transforms.features.columns import (
    LABEL,
    Buckets,
    Categories,
    Category,
    Column,
    Cross,
    Cyclic,
    DateParts,
    Label,
    Numeric,
    Passthrough,
    Text,
    Vocabulary,
)
from skewless.transforms.features.dates import make_date_parts
from skewless.transforms.features.numeric import make_buckets, make_cyclic, make_numeric
from skewless.transforms.features.raw import Raw, kind_of, set_ids

__all__ = ["build_preprocessing_fn"]

PreprocessingFn = Callable[[Mapping[str, Any]], dict[str, Any]]


def build_preprocessing_fn(
    features: Mapping[str, Column], label: Label | None, schema: Schema
) -> PreprocessingFn:
    """Return the `preprocessing_fn` that computes `features` and `label`.

    Args:
        features: By the name of each feature, its column.
        label: What to predict, given out as `LABEL`; None for features alone.
        schema: The schema of the raw rows, label included.

    Returns:
        A picklable function from tf.Transform's raw tensors to features: float32 [rows],
        int64 ids [rows] with their `int_domain`, one-hot float32 [rows, ids], or ragged
        ids as SparseTensor.

    Raises:
        RecipeError: If a column does not exist or is of the wrong kind, if two features
            have the same name, or if a feature reads the column of the label.
    """
    if not features:
        raise RecipeError("features: there is none; add at least one column")
    owners: dict[str, str] = {}
    for key, column in features.items():
        where = f'features["{key}"]'
        if not isinstance(column, Column):
            raise RecipeError(f"{where}: got {column!r}; expected a column such as numeric(...)")
        for name in column.output_names(key):
            if name == LABEL:
                raise RecipeError(f'{where}: "{LABEL}" is the label\'s name; rename the feature')
            if name in owners:
                raise RecipeError(
                    f'{where} and features["{owners[name]}"] both make the feature "{name}"; '
                    "rename one of them"
                )
            owners[name] = key
        _check_inputs(column, schema, where)
        if label is not None and label.column in column.inputs:
            raise RecipeError(
                f'{where}: "{label.column}" is the label\'s column, which is not known when '
                "predicting; leave it out of the features"
            )
    if label is not None:
        _check_inputs(label, schema, "label")
        _check_comparison(label, _feature(schema, label.column, "label"))
    return _PreprocessingFn(dict(features), label, schema)


# Compared by identity, because `tf.function` keeps what it traces by hash.
@dataclasses.dataclass(frozen=True, eq=False)
class _PreprocessingFn:
    features: dict[str, Column]
    label: Label | None
    schema: Schema

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        raw = Raw(inputs, self.schema)
        outputs: dict[str, Any] = {}
        for key, column in self.features.items():
            outputs.update(_MAKERS[type(column)](column, key, raw))
        if self.label is not None:
            outputs[LABEL] = _make_label(self.label, raw)
        return outputs


def _make_passthrough(column: Passthrough, key: str, raw: Raw) -> dict[str, Any]:
    """Return the raw column, float32, int64 or string: [rows], or SparseTensor for lists."""
    if is_list(raw.feature(column.column)):
        return {key: raw.ragged(column.column).to_sparse()}
    return {key: raw.scalar(column.column)[0]}


def _make_label(label: Label, raw: Raw) -> tf.Tensor:
    """Return the label, [rows]: float32, or int64 with an `int_domain` where it is a class."""
    values, present = raw.scalar(label.column)
    if label.comparison:
        classes = tf.cast(_compare(label, values), tf.int64)
        set_ids(classes, 2)
        return classes
    if values.dtype == tf.string:
        known = tf.boolean_mask(values, present)
        source = f'label: column "{label.column}"'
        classes, count = encode(values, known, Vocabulary(oov=1), LABEL, source)
        classes = tf.identity(classes)
        set_ids(classes, count)
        return classes
    domain = raw.feature(label.column).int_domain
    if domain.HasField("max") and domain.min == 0:
        values = tf.identity(values)
        set_ids(values, domain.max + 1)
    return values


def _compare(label: Label, values: tf.Tensor) -> tf.Tensor:
    value: Any = label.value
    if values.dtype == tf.int64 and value != int(value):
        values = tf.cast(values, tf.float64)
    elif values.dtype == tf.int64:
        value = int(value)
    # A float32 column is compared with the float32 nearest to the bound: 0.1 equals 0.1.
    return _COMPARISONS[label.comparison](values, tf.constant(value, values.dtype))


def _feature(schema: Schema, name: str, where: str) -> Feature:
    feature = find_feature(schema, name)
    if feature is None:
        raise no_such_column(name, column_names(schema), where)
    return feature


def _check_inputs(column: Column, schema: Schema, where: str) -> None:
    for name in column.inputs:
        feature = _feature(schema, name, where)
        listed = is_list(feature)
        if column.takes_lists is not None and listed != column.takes_lists:
            repair = "use categories(...)" if listed else "use category(...)"
            found, wanted = ("lists", "one value") if listed else ("one value", "lists")
            raise RecipeError(
                f'{where}: column "{name}" holds {found} a row, not {wanted}; {repair}'
            )
        kind = kind_of(feature)
        if kind not in column.kinds:
            raise RecipeError(
                f'{where}: column "{name}" is of kind {kind}; {type(column).__name__.lower()} '
                f"takes {' or '.join(sorted(column.kinds))}"
            )


def _check_comparison(label: Label, feature: Feature) -> None:
    if not label.comparison:
        return
    is_text = kind_of(feature) == "string"
    if is_text != isinstance(label.value, str) or (is_text and label.comparison != "equals"):
        raise RecipeError(
            f'label: column "{label.column}" is of kind {kind_of(feature)} and cannot be '
            f"compared by {label.comparison}({label.value!r})"
        )


_COMPARISONS = {"greater_than": tf.greater, "less_than": tf.less, "equals": tf.equal}

_MAKERS: dict[type[Column], Callable[..., dict[str, Any]]] = {
    Buckets: make_buckets,
    Categories: make_categories,
    Category: make_category,
    Cross: make_cross,
    Cyclic: make_cyclic,
    DateParts: make_date_parts,
    Numeric: make_numeric,
    Passthrough: _make_passthrough,
    Text: make_text,
}
