"""The fused engine and tf.Transform's own write the same graph."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tensorflow_transform as tft

from tests.transforms.analyze.cases_all import CASES
from tests.transforms.analyze.cases_rows import Case, first_row
from tests.transforms.analyze.cases_run import analyze, in_parts, look, values


def typical(inputs):
    """One analyzer of most kinds, in two phases."""
    x, s = inputs["x"], inputs["s"]
    return {
        "z": tft.scale_to_z_score(inputs["o"]),
        "bucket": tft.bucketize(tft.scale_to_0_1(x), 10),
        "var": first_row(inputs, tft.var(inputs["vector"], reduce_instance_dims=False)),
        "weighted": tft.compute_and_apply_vocabulary(
            s, weights=inputs["w"], vocab_filename="weighted", store_frequency=True
        ),
    }


TYPICAL = Case("typical", typical, close={"z": 1e-4, "var": 1e-4})


def test_a_typical_function_gives_the_same_graph(tmp_path):
    assert differences(TYPICAL, tmp_path) == []


@pytest.mark.integration
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_gives_the_same_graph(case, tmp_path):
    assert differences(case, tmp_path) == []


def differences(case, folder):
    """Return what differs by more than the case allows, a line each."""
    rows = case.rows()
    # tf.Transform gets everything at once: its sums are the better for it.
    whole = [rows] if len(rows) else []
    ours = look(analyze(folder / "fused", case.function, in_parts(rows), "fused"))
    theirs = look(analyze(folder / "tft", case.function, whole, "tft", case.runner))
    assert ours.features.keys() == theirs.features.keys()
    found = []
    for name, feature in ours.features.items():
        if apart := differs(feature, theirs.features[name], tolerance(case.close, name)):
            found.append(f"{name}: {apart}")
    assert ours.assets.keys() == theirs.assets.keys()
    for name, asset in ours.assets.items():
        allowed = tolerance(case.close_assets, name)
        if numbers_apart(asset, theirs.assets[name]) > allowed:
            found.append(f"{name}: {asset[:200]!r} {theirs.assets[name][:200]!r}")
    for part in ("operations", "metadata"):
        if getattr(ours, part) != getattr(theirs, part):
            found.append(f"{part}: {getattr(ours, part)} {getattr(theirs, part)}")
    return found


def tolerance(allowed, name):
    return max((most for start, most in allowed.items() if name.startswith(start)), default=0)


def differs(one, other, allowed):
    """Return what is different about two features, or nothing."""
    if isinstance(one, tuple) and one[0].tolist() != other[0].tolist():
        return "other indices"
    one, other = values(one), values(other)
    if one.shape != other.shape or one.dtype != other.dtype:
        return f"{one.dtype}{one.shape} {other.dtype}{other.shape}"
    # Every NaN is the same here.
    if one.tolist() == other.tolist() or np.array_equal(one, other, equal_nan=one.dtype != object):
        return ""
    if one.dtype == object or not allowed:
        return f"{one} {other}"
    if one.dtype == np.int64:
        one, other = one.view(np.float64), other.view(np.float64)
    finite = np.isfinite(other)
    apart = np.abs(one[finite] - other[finite]).max(initial=0)
    share = apart / np.abs(other[finite]).max(initial=1e-30)
    alike = np.array_equal(one[~finite], other[~finite], equal_nan=True)
    return "" if share <= allowed and alike else f"by {share}: {one} {other}"


def numbers_apart(one, other):
    """Return how far numbers in two files are apart, relatively; infinitely if the text is."""
    if one == other:
        return 0
    number = rb"-?\d+\.\d+(?:e-?\d+)?"
    if re.split(number, one) != re.split(number, other):
        return np.inf
    pairs = zip(re.findall(number, one), re.findall(number, other), strict=True)
    return max(abs(float(a) / float(b) - 1) for a, b in pairs)
