"""Sums, means, variances, covariances: exact, and rounded once, at the end.

They stand for tf.Transform's own combiners, but take the values themselves, not what a
batch of them adds up to; so neither batches nor shards nor the order of the rows can
change a bit. What tf.Transform gives differs by its own rounding alone, but where a
docstring says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from skewless import exact
from skewless.errors import DataError
from skewless.transforms.analyze.combiner import Array, Combiner

__all__ = ["Covariance", "MeanAndVariance", "Pca", "Sum"]


class _Moments(NamedTuple):
    """Exact sums of finite values: of all (Python integers), or of each element (arrays)."""

    count: Any
    sums: exact.Scaled
    squares: exact.Scaled


class MeanAndVariance(Combiner):
    """Mean and population variance of the finite values; without any, both are 0.

    (tf.Transform has 0 or NaN for an element without any, as the batches fall.)

    Stands for `analyzers.WeightedMeanAndVarCombiner` without weights. The input is one
    array of floats in the dtype that tf.Transform casts to:

    - over everything (`shape` is ()): the values, of whatever shape. Of a sparse or ragged
      tensor that is its `values` or `flat_values`.
    - elementwise: [rows, *shape]. Of a sparse tensor it is dense, with NaN where there is
      no value, for NaN and infinity count as no value. (tf.Transform's variance of a
      sparse tensor takes one that is there but not finite for 0.)

    The results of one key are those of its rows. Two Python integers are kept for an
    element, of a few hundred bytes each at most.

    Args:
        dtype: float16, float32 or float64: of both outputs.
        shape: Of both outputs; a dimension that is None is as wide as the widest batch.
    """

    def __init__(self, dtype: Any, shape: Sequence[int | None] = ()) -> None:
        self._dtype = np.dtype(dtype)
        self._shape = tuple(shape)

    def create_accumulator(self) -> _Moments:
        """Return the accumulator of no rows."""
        if not self._shape:
            return _Moments(0, exact.Scaled(0, exact.FINEST), exact.Scaled(0, 2 * exact.FINEST))
        shape = [dimension or 0 for dimension in self._shape]
        return _Moments(np.zeros(shape, np.int64), *[exact.Scaled.zeros(*shape)] * 2)

    def add_input(self, accumulator: _Moments, batch_values: Sequence[Array]) -> _Moments:
        """Return the accumulator with the finite values of a batch added."""
        (values,) = batch_values
        return _plus(accumulator, _by_element(values) if self._shape else _of_all(values))

    def merge_accumulators(self, accumulators: Iterable[_Moments]) -> _Moments:
        """Return the accumulator of all rows."""
        merged = self.create_accumulator()
        for accumulator in accumulators:
            merged = _plus(merged, accumulator)
        return merged

    def extract_output(self, accumulator: _Moments) -> list[Array]:
        """Return mean and variance."""
        count, sums, squares = accumulator
        count = np.asarray(count, object)
        exponent = min(sums.exponent, squares.exponent // 2)
        # The variance is count * squares - sums**2, over count**2.
        deviations = count * squares.at(2 * exponent) - sums.at(exponent) ** 2
        found = [
            exact.ratios(sums, count, self._dtype),
            exact.ratios(exact.Scaled(deviations, 2 * exponent), count**2, self._dtype),
        ]
        # What is too large is the largest there is, as tf.Transform has it.
        return [np.nan_to_num(output) for output in found]


def _plus(one: _Moments, other: _Moments) -> _Moments:
    shape, other_shape = np.shape(one.count), np.shape(other.count)
    if shape != other_shape:
        widest = tuple(map(max, shape, other_shape))
        one, other = _pad(one, widest), _pad(other, widest)
    return _Moments(
        one.count + other.count, one.sums.plus(other.sums), one.squares.plus(other.squares)
    )


def _pad(moments: _Moments, shape: tuple[int, ...]) -> _Moments:
    def pad(array: Array) -> Array:
        # `np.pad` would put NumPy's integers, which overflow, among Python's.
        padded = np.zeros(shape, array.dtype)
        padded[tuple(map(slice, array.shape))] = array
        return padded

    sums, squares = (scaled._replace(totals=pad(scaled.totals)) for scaled in moments[1:])
    return _Moments(pad(moments.count), sums, squares)


def _of_all(values: Array) -> _Moments:
    values = values.ravel()
    finite = np.isfinite(values)
    if not finite.all():
        values = values[finite]
    total, squares = exact.exact_moments(values)
    return _Moments(
        len(values), exact.Scaled(total, exact.FINEST), exact.Scaled(squares, 2 * exact.FINEST)
    )


def _by_element(values: Array) -> _Moments:
    finite = np.isfinite(values)
    if not finite.all():
        values = np.where(finite, values, 0)
    shape = values.shape[1:]
    sums, squares = exact.column_moments(_flat(values))
    return _Moments(finite.sum(axis=0), _shaped(sums, shape), _shaped(squares, shape))


def _flat(values: Array) -> Array:
    return values.reshape(len(values), math.prod(values.shape[1:]))


def _shaped(sums: exact.Scaled, shape: tuple[int, ...]) -> exact.Scaled:
    return sums._replace(totals=sums.totals.reshape(shape))


class _Total(NamedTuple):
    """The exact sum of the finite values, and the floating-point sum of all others."""

    sums: exact.Scaled
    others: Any


class Sum(Combiner):
    """The sum of floats, of all or of each element; 0 without any.

    Stands for `analyzers.NumPyCombiner` with `np.sum` where floats are added. NaN and
    infinity make of a sum what they make of any. The input is one array of floats:

    - over everything (`shape` is ()): the values, of whatever shape. Of a sparse or ragged
      tensor that is its `values` or `flat_values`.
    - elementwise: [rows, *shape]. Of a sparse tensor it is dense, with 0 where there is no
      value.

    The accumulator is one Python integer of at most 320 bytes for an element.

    Args:
        dtype: float32 or float64: of the output.
        shape: Of the output; None where TensorFlow does not know it.
    """

    def __init__(self, dtype: Any, shape: Sequence[int] | None = ()) -> None:
        self._dtype = np.dtype(dtype)
        self._shape = None if shape is None else tuple(shape)

    def create_accumulator(self) -> _Total:
        """Return the accumulator of no rows."""
        if not self._shape:
            return _Total(exact.Scaled(0, 0), np.float64(0))
        return _Total(exact.Scaled.zeros(*self._shape), np.zeros(self._shape))

    def add_input(self, accumulator: _Total, batch_values: Sequence[Array]) -> _Total:
        """Return the accumulator with the values of a batch added."""
        (values,) = batch_values
        if self._shape == ():
            values = values.ravel()
        finite, others = np.isfinite(values), np.zeros(values.shape[1:])
        if not finite.all():
            with np.errstate(invalid="ignore"):
                others = np.where(finite, 0, values).astype(np.float64).sum(axis=0)
            values = np.where(finite, values, 0)
        if self._shape == ():
            sums = exact.Scaled(exact.exact_sum(values), exact.FINEST)
        else:
            sums = _shaped(exact.column_sums(_flat(values)), values.shape[1:])
        return self.merge_accumulators([accumulator, _Total(sums, others)])

    def merge_accumulators(self, accumulators: Iterable[_Total]) -> _Total:
        """Return the accumulator of all rows."""
        sums, others = self.create_accumulator()
        # Infinities of both signs are NaN, as they are in any sum.
        with np.errstate(invalid="ignore"):
            for accumulator in accumulators:
                sums, others = sums.plus(accumulator.sums), others + accumulator.others
        return _Total(sums, others)

    def extract_output(self, accumulator: _Total) -> list[Array]:
        """Return the sum."""
        others = np.asarray(accumulator.others)
        # The sign of NaN depends on the order in which they are added.
        others = np.where(np.isnan(others), np.nan, others)
        ones = np.ones(others.shape, object)
        sums = exact.ratios(accumulator.sums, ones, self._dtype)
        return [np.where(others == 0, sums, others).astype(self._dtype)]


class _CrossMoments(NamedTuple):
    """Exact sums of columns [k] and of products of columns [k, k] over the finite rows."""

    rows: int
    sums: exact.Scaled
    products: exact.Scaled
    lost: Array


class Covariance(Combiner):
    """The population covariance of columns, [k, k]; without rows it is 0.

    Stands for `analyzers.CovarianceCombiner`. The input is one array, [rows, k]. Where a
    column holds NaN or infinity its covariances are NaN. The accumulator is k * k Python
    integers, of 600 bytes each at the very most; of values that are alike, of about 50 bytes.

    Args:
        columns: k.
        dtype: float32 or float64: of the output.
    """

    def __init__(self, columns: int, dtype: Any = np.float64) -> None:
        self._columns = columns
        self._dtype = np.dtype(dtype)

    def create_accumulator(self) -> _CrossMoments:
        """Return the accumulator of no rows."""
        zeros = exact.Scaled.zeros
        lost = np.zeros(self._columns, np.bool_)
        return _CrossMoments(0, zeros(self._columns), zeros(self._columns, self._columns), lost)

    def add_input(self, accumulator: _CrossMoments, batch_values: Sequence[Array]) -> _CrossMoments:
        """Return the accumulator with the rows of a batch added."""
        (values,) = batch_values
        finite = np.isfinite(values)
        lost = np.logical_not(finite.all(axis=0))
        if lost.any():
            values = np.where(finite, values, 0)
        added = _CrossMoments(len(values), *exact.cross_moments(values), lost)
        return self.merge_accumulators([accumulator, added])

    def merge_accumulators(self, accumulators: Iterable[_CrossMoments]) -> _CrossMoments:
        """Return the accumulator of all rows."""
        rows, sums, products, lost = self.create_accumulator()
        for other in accumulators:
            rows += other.rows
            sums, products = sums.plus(other.sums), products.plus(other.products)
            lost = lost | other.lost
        return _CrossMoments(rows, sums, products, lost)

    def extract_output(self, accumulator: _CrossMoments) -> list[Array]:
        """Return the covariance."""
        return [self._covariance(accumulator)]

    def _covariance(self, accumulator: _CrossMoments) -> Array:
        rows, sums, products, lost = accumulator
        exponent = min(sums.exponent, products.exponent // 2)
        totals = sums.at(exponent)
        deviations = rows * products.at(2 * exponent) - np.outer(totals, totals)
        over = np.full(deviations.shape, rows**2, object)
        found = exact.ratios(exact.Scaled(deviations, 2 * exponent), over, self._dtype)
        found[lost, :] = found[:, lost] = np.nan
        return found


class Pca(Covariance):
    """The first principal components of columns, [k, components]: those of most variance.

    Stands for `analyzers.PCACombiner`: eigenvectors of the covariance, by NumPy. Without
    rows they are the first axes.

    Args:
        columns: k.
        components: How many; None for all.
        dtype: float32 or float64: of the output, and of the covariance.

    Raises:
        DataError: At the end, if a column holds NaN or infinity.
    """

    def __init__(
        self, columns: int, components: int | None = None, dtype: Any = np.float64
    ) -> None:
        super().__init__(columns, dtype)
        self._components = components

    def extract_output(self, accumulator: _CrossMoments) -> list[Array]:
        """Return the components, one in each column."""
        if accumulator.lost.any():
            column = int(np.flatnonzero(accumulator.lost)[0])
            raise DataError(
                f"pca: element {column} of the vectors is NaN or infinite in some row; "
                "replace such values, or drop the rows, before"
            )
        if not accumulator.rows:
            return [np.eye(self._columns, self._components, dtype=self._dtype)]
        variances, vectors = np.linalg.eigh(self._covariance(accumulator))
        return [vectors[:, np.argsort(variances)[::-1]][:, : self._components]]
