"""From tokens and their counts to a vocabulary file: prune, order, format, write.

What `beam.analyzer_impls` of tf.Transform does with a PCollection of (count, token) pairs,
as plain functions of whole columns; the bytes of the file are the same.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from skewless.storage import local_output, path_of

__all__ = ["Arm", "Vocabulary", "lines", "order", "prune", "size", "write_vocabulary"]

Indices = npt.NDArray[np.int64]

# What stands in for an empty vocabulary, whose lookup table TensorFlow could not make; see
# `analyzers.get_empy_vocabulary_dummy_value`.
_NO_TEXT = b"49d0cd50-04bb-48c0-bc6f-5b575dce351a"
_NO_NUMBER = b"-1"


class Vocabulary(NamedTuple):
    """Distinct tokens and what they are ordered by.

    Attributes:
        tokens: bytes; integers as long as it is not pruned.
        counts: A number for each token: how often it was seen, its weight, or how much it
            says of the label.
        frequencies: How often each token was seen, where `counts` says something else.
    """

    tokens: Sequence[Any]
    counts: Sequence[Any]
    frequencies: Sequence[Any] | None = None

    def take(self, at: Iterable[int]) -> Vocabulary:
        """Return the tokens at some places, with their counts."""
        places = list(at)
        tokens, counts = ([column[place] for place in places] for column in self[:2])
        return Vocabulary(tokens, counts)


class Arm(NamedTuple):
    """What a token must have to stay.

    Attributes:
        top_k: To be among so many; None for all.
        frequency: To be seen at least so often.
        informativeness: To say at least so much of the label, where there is one.
    """

    top_k: int | None = None
    frequency: float = 0
    informativeness: float = -math.inf


def prune(
    vocabulary: Vocabulary,
    arm: Arm,
    *,
    of_text: bool,
    key_fn: Callable[[bytes], Any] | None = None,
    coverage: Arm | None = None,
) -> Vocabulary:
    """Return the tokens that stay; of equal ones, the greatest bytes are first.

    Args:
        vocabulary: All tokens.
        arm: What a token must have.
        of_text: Whether the tokens are bytes; integers become their digits.
        key_fn: To cover each of its results with some tokens, too.
        coverage: What these must have among the tokens of the same key; with `key_fn`.

    Returns:
        Tokens as bytes. Where there is a `top_k` that leaves none, one that stands in.

    >>> prune(Vocabulary([7, 8, 10], [1, 2, 2]), Arm(top_k=2), of_text=False)
    Vocabulary(tokens=[b'8', b'10'], counts=[2, 2], frequencies=None)
    """
    if not of_text:
        digits = [str(token).encode() for token in vocabulary.tokens]
        vocabulary = vocabulary._replace(tokens=digits)
    at = _largest(vocabulary, _over(vocabulary, arm), arm.top_k)
    # tf.Transform puts it in whether or not the other arm finds any.
    missing = arm.top_k is not None and not len(at)
    if key_fn is not None:
        at = np.union1d(at, _largest_by_key(vocabulary, coverage or Arm(), key_fn))
    kept = vocabulary.take(at.tolist())
    return _with_stand_in(kept, of_text) if missing else kept


def order(
    vocabulary: Vocabulary,
    *,
    of_text: bool,
    reserved: Sequence[bytes] | None = None,
    shuffle: bool = False,
) -> Vocabulary:
    """Return pruned tokens as the file has them: reserved, greatest counts, greatest bytes.

    Args:
        vocabulary: Pruned tokens, in any order.
        of_text: Whether the tokens were bytes before.
        reserved: Tokens that come first whether they were seen or not, with a count of -1.
        shuffle: To order by the SHA-1 of the token instead.
    """
    if reserved is not None:
        first = set(reserved)
        vocabulary = vocabulary.take(
            at for at, token in enumerate(vocabulary.tokens) if token not in first
        )
    if shuffle:
        digests = [hashlib.sha1(token).digest() for token in vocabulary.tokens]
        vocabulary = vocabulary.take(sorted(range(len(digests)), key=digests.__getitem__))
    else:
        vocabulary = vocabulary.take(_sorted(_table(vocabulary)).tolist())
    if reserved is not None:
        vocabulary = Vocabulary(
            [*reserved, *vocabulary.tokens], [*[-1] * len(reserved), *vocabulary.counts]
        )
    return vocabulary if vocabulary.tokens else _with_stand_in(vocabulary, of_text)


def size(vocabulary: Vocabulary) -> npt.NDArray[np.int64]:
    """Return how many tokens there are; none is one, for one will stand in."""
    return np.asarray(max(len(vocabulary.tokens), 1), np.int64)


def lines(vocabulary: Vocabulary, *, store_frequency: bool) -> Sequence[bytes]:
    """Return the records of the file: the tokens, if asked for after their counts.

    >>> lines(Vocabulary([b"a", b"b"], [2.0, 1.5]), store_frequency=True)
    [b'2.0 a', b'1.5 b']
    """
    if not store_frequency:
        return vocabulary.tokens
    pairs = zip(vocabulary.counts, vocabulary.tokens, strict=True)
    return [f"{count} ".encode() + token for count, token in pairs]


def write_vocabulary(path: str, records: Sequence[bytes], file_format: str) -> str:
    """Write a vocabulary; the same records are the same bytes.

    Args:
        path: On any Beam file system.
        records: Of the file, in order.
        file_format: `text` or `tfrecord_gzip`.

    Returns:
        The path of the file: TFRecords have the suffix that tf.Transform gives them.
    """
    path += "" if file_format == "text" else ".tfrecord.gz"
    with local_output(path_of(path)) as local:
        local.parent.mkdir(parents=True, exist_ok=True)
        if file_format == "text":
            local.write_bytes(b"".join(_ended(records)))
            return path
        options = tf.io.TFRecordOptions(compression_type="GZIP")
        with tf.io.TFRecordWriter(str(local), options) as writer:
            for record in records:
                writer.write(record)
    return path


def _ended(records: Iterable[bytes]) -> Iterator[bytes]:
    for record in records:
        yield record
        yield b"\n"


def _with_stand_in(vocabulary: Vocabulary, of_text: bool) -> Vocabulary:
    token = _NO_TEXT if of_text else _NO_NUMBER
    return Vocabulary([*vocabulary.tokens, token], [*vocabulary.counts, 1])


def _over(vocabulary: Vocabulary, arm: Arm) -> Indices:
    """Return where the thresholds are met."""
    counts = np.asarray(vocabulary.counts)
    met = np.ones(len(counts), np.bool_)
    if arm.frequency > 0 or arm.informativeness > -math.inf:
        if vocabulary.frequencies is None:
            met = counts >= arm.frequency
        else:
            frequent = np.asarray(vocabulary.frequencies) >= arm.frequency
            met = frequent & (counts >= arm.informativeness)
    return np.flatnonzero(met)


_GREATEST_FIRST = [("count", "descending"), ("token", "descending")]


def _table(vocabulary: Vocabulary) -> pa.Table:
    counts = pa.array(np.asarray(vocabulary.counts))
    return pa.table({"count": counts, "token": pa.array(vocabulary.tokens, pa.large_binary())})


def _sorted(pairs: pa.Table) -> Indices:
    found: Indices = np.asarray(pc.sort_indices(pairs, sort_keys=_GREATEST_FIRST), np.int64)
    return found


def _largest(vocabulary: Vocabulary, at: Indices, top_k: int | None) -> Indices:
    """Return which of the places hold the greatest pairs of count and token."""
    if top_k is None or top_k >= len(at):
        return at
    pairs = _table(vocabulary.take(at.tolist()))
    found = pc.select_k_unstable(pairs, top_k, sort_keys=_GREATEST_FIRST)
    kept: Indices = at[found.to_numpy()]
    return kept


def _largest_by_key(vocabulary: Vocabulary, arm: Arm, key_fn: Callable[[bytes], Any]) -> Indices:
    at = _over(vocabulary, arm)
    if arm.top_k is None:
        return at
    groups: dict[Any, list[int]] = {}
    for place in at.tolist():
        groups.setdefault(key_fn(vocabulary.tokens[place]), []).append(place)
    found = [_largest(vocabulary, np.array(places), arm.top_k) for places in groups.values()]
    return np.concatenate([np.zeros(0, np.int64), *found])
