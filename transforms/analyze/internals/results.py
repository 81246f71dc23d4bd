"""What becomes of folded results: pure functions for the operations that follow the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from skewless.transforms.analyze.combiner import Array
from skewless.transforms.analyze.vocabulary_file import (
    Vocabulary,
    lines,
    order,
    prune,
    size,
    write_vocabulary,
)

__all__ = ["given", "keyed_lines", "keys_and_outputs", "pruned", "sized", "written"]


def pruned(vocabulary: Vocabulary, **how: Any) -> Sequence[Vocabulary]:
    """Return the tokens that a vocabulary keeps, see `prune`."""
    return [prune(vocabulary, **how)]


def sized(vocabulary: Vocabulary) -> Sequence[Array]:
    """Return how many tokens a vocabulary has."""
    return [size(vocabulary)]


def written(
    vocabulary: Vocabulary,
    reserved: Sequence[bytes] | None = None,
    *,
    path: str,
    file_format: str,
    of_text: bool,
    store_frequency: bool,
    shuffle: bool,
) -> Sequence[str]:
    """Write a vocabulary in its order and return the path of its file."""
    ordered = order(vocabulary, of_text=of_text, reserved=reserved, shuffle=shuffle)
    records = lines(ordered, store_frequency=store_frequency)
    return [write_vocabulary(path, records, file_format)]


def given(outputs: Sequence[Any]) -> Sequence[Any]:
    """Return what was known before."""
    return outputs


def keys_and_outputs(
    dtypes: Sequence[Any], of_keys: Sequence[tuple[Any, Sequence[Any]]]
) -> Sequence[Array]:
    """Return the keys, and each output stacked in their order (`_merge_outputs_by_key`)."""
    keys = np.array([key for key, _ in of_keys], dtype=object)
    columns = [[outputs[at] for _, outputs in of_keys] for at in range(len(dtypes) - 1)]
    return [keys, *(np.array(c, dtype=d) for c, d in zip(columns, dtypes[1:], strict=True))]


def keyed_lines(of_keys: Sequence[tuple[Any, Sequence[Any]]]) -> Sequence[Vocabulary]:
    """Return the keys as a vocabulary, with their outputs as text for counts."""
    text = tf.compat.as_str_any
    outputs = [",".join(map(text, outputs)) for _, outputs in of_keys]
    return [Vocabulary([key for key, _ in of_keys], outputs)]
