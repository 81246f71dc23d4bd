import gzip
import hashlib
import math
import pickle
import random
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_transform import analyzer_nodes
from tensorflow_transform.beam import analyzer_impls

from skewless.transforms.analyze.vocabulary_file import (
    Arm,
    Vocabulary,
    lines,
    order,
    prune,
    size,
    write_vocabulary,
)

COUNTS = {b"b": 2, b"a": 2, b"\xc3\xa9": 2, b"zz z": 5, b"x1": 1, b"x2": 3, b"x10": 3, b"y": 1}
NUMBERS = {7: 2, 10: 2, -3: 2, 8: 9, 123456789012345: 1}
WEIGHTS = {b"b": 2.5, b"a": 0.1 + 0.2, b"c": 1e22, b"d": 2.5, b"e": 3.0, b"f": -1.0}
# (mutual information, frequency), as the formula leaves them.
INFORMATION = {
    b"b": (np.float64(0.5), np.float64(4)),
    b"a": (0, np.float64(9)),
    b"c": (np.float64(1.25), np.float64(1)),
    b"d": (np.float64(0.5), np.float64(2)),
}


def first_byte(token):
    return token[:1]


# What is asked for, in the words of tf.Transform's nodes.
PRUNING = {
    "all": {},
    "top": {"top_k": 3},
    "often, top": {"frequency_threshold": 2, "top_k": 2},
    "none": {"frequency_threshold": 1e30},
    "none, top": {"frequency_threshold": 1e30, "top_k": 2},
    "covered": {"top_k": 1, "coverage_top_k": 1, "key_fn": first_byte},
    "covered, often": {
        "frequency_threshold": 5,
        "coverage_frequency_threshold": 2.0,
        "key_fn": first_byte,
    },
    "covered, none": {
        "frequency_threshold": 1e30,
        "top_k": 1,
        "coverage_top_k": 1,
        "key_fn": first_byte,
    },
    "informative": {"informativeness_threshold": 0.5, "top_k": 2},
}
WRITING = {
    "plain": {},
    "counted": {"store_frequency": True},
    "shuffled": {"fingerprint_shuffle": True, "store_frequency": True},
    "reserved": {"store_frequency": True, "reserved": [b"a", b"[UNK]", b"8"]},
}
FOUND = {
    "counts": COUNTS,
    "numbers": NUMBERS,
    "weights": WEIGHTS,
    "information": INFORMATION,
    "nothing": {},
}
# Every way to prune, every kind of token, every way to write; not all with all.
CASES = [
    *(("counts", pruning, "plain") for pruning in PRUNING if pruning != "informative"),
    *(("counts", "top", writing) for writing in WRITING),
    ("counts", "none", "reserved"),
    ("numbers", "all", "reserved"),
    ("numbers", "top", "counted"),
    ("weights", "often, top", "counted"),
    ("weights", "covered", "counted"),
    ("information", "informative", "counted"),
    ("nothing", "all", "counted"),
    ("nothing", "all", "shuffled"),
]


def pruned_by_tf_transform(begin, what, pruning, path):
    """Leave the pairs that tf.Transform keeps in a file."""
    node = analyzer_nodes.VocabularyPrune(
        input_dtype="int64" if what == "numbers" else "string",
        **{"top_k": None, "frequency_threshold": 0, **PRUNING[pruning]},
    )
    pairs = [(count, token) for token, count in FOUND[what].items()]
    label = f"{what}, {pruning}: "
    (
        (begin | f"{label}Create" >> beam.Create(pairs, reshuffle=False),)
        | f"{label}Prune" >> analyzer_impls._VocabularyPruneImpl(node, None)
        | f"{label}Gather" >> beam.combiners.ToList()
        | f"{label}Save" >> beam.Map(lambda kept: path.write_bytes(pickle.dumps(kept)))
    )


def ordered_by_tf_transform(kept, case):
    what, writing = case[0], WRITING[case[2]]
    by = {"reverse": True}
    if writing.get("fingerprint_shuffle"):
        by = {"key": lambda pair: hashlib.sha1(pair[1]).digest()}
    dtype = "int64" if what == "numbers" else "string"
    orders = analyzer_impls._OrderElementsFn(writing.get("store_frequency", False), by, dtype)
    reserved = [writing["reserved"]] if "reserved" in writing else None
    return list(orders.process(None, [kept], reserved))


def vocabulary_of(found):
    counts = list(found.values())
    if counts and isinstance(counts[0], tuple):
        information, frequencies = zip(*counts, strict=True)
        return Vocabulary(list(found), information, frequencies)
    return Vocabulary(list(found), counts)


def ours(case, found=None):
    what, pruning, writing = case[0], PRUNING[case[1]], WRITING[case[2]]
    arms = [
        Arm(
            pruning.get(f"{name}top_k"),
            pruning.get(f"{name}frequency_threshold", 0),
            pruning.get(f"{name}informativeness_threshold", -math.inf),
        )
        for name in ("", "coverage_")
    ]
    of_text = what != "numbers"
    kept = prune(
        vocabulary_of(FOUND[what] if found is None else found),
        arms[0],
        of_text=of_text,
        key_fn=pruning.get("key_fn"),
        coverage=arms[1],
    )
    ordered = order(
        kept,
        of_text=of_text,
        reserved=writing.get("reserved"),
        shuffle=writing.get("fingerprint_shuffle", False),
    )
    return lines(ordered, store_frequency=writing.get("store_frequency", False))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    directory = tmp_path_factory.mktemp("kept")
    pruned = {case[:2]: directory / str(at) for at, case in enumerate(CASES)}
    with beam.Pipeline("FnApiRunner") as begin:
        for (what, pruning), path in pruned.items():
            pruned_by_tf_transform(begin, what, pruning, path)
    return {case: pickle.loads(path.read_bytes()) for case, path in pruned.items()}


def test_every_file_has_the_lines_that_tf_transform_gives_it(kept):
    for case in CASES:
        assert ours(case) == ordered_by_tf_transform(kept[case[:2]], case), case


def test_text_ends_each_record_with_a_newline(tmp_path):
    path = write_vocabulary(f"{tmp_path}/new/vocabulary", [b"b", b"\xff"], "text")
    assert path == f"{tmp_path}/new/vocabulary"
    assert Path(path).read_bytes() == b"b\n\xff\n"


@given(seed=st.integers(0, 2**32), at=st.sampled_from(range(len(CASES))))
def test_the_order_in_which_tokens_come_does_not_matter(seed, at):
    what = CASES[at][0]
    shuffled = random.Random(seed).sample(list(FOUND[what].items()), len(FOUND[what]))
    assert ours(CASES[at], dict(shuffled)) == ours(CASES[at])


@given(
    found=st.dictionaries(st.binary(max_size=3), st.integers(1, 3)),
    top_k=st.none() | st.integers(1, 5),
    frequency=st.integers(0, 4),
)
def test_the_tokens_that_stay_are_the_greatest_pairs(found, top_k, frequency):
    kept = prune(vocabulary_of(found), Arm(top_k, frequency), of_text=True)
    pairs = sorted(((n, token) for token, n in found.items() if n >= frequency), reverse=True)
    expected = [token for _, token in pairs[:top_k]]
    if expected:
        assert order(kept, of_text=True).tokens == expected
    else:
        assert order(kept, of_text=True).tokens == [b"49d0cd50-04bb-48c0-bc6f-5b575dce351a"]


def test_a_vocabulary_of_nothing_has_the_size_of_what_stands_in():
    assert size(Vocabulary([], [])) == 1
    assert size(Vocabulary([b"a", b"b"], [1, 1])) == 2
    assert size(Vocabulary([], [])).dtype == np.int64


def test_tfrecords_are_read_by_tensorflow_and_always_the_same_bytes(tmp_path):
    records = [b"one", b"", b"two\nlines"]
    paths = [
        write_vocabulary(f"{tmp_path}/{name}/vocabulary", records, "tfrecord_gzip")
        for name in ("one", "two")
    ]
    assert paths[0] == f"{tmp_path}/one/vocabulary.tfrecord.gz"
    read = tf.data.TFRecordDataset(paths[0], compression_type="GZIP").as_numpy_iterator()
    assert list(read) == records
    one, two = (tmp_path / name / "vocabulary.tfrecord.gz" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert gzip.decompress(one.read_bytes())
