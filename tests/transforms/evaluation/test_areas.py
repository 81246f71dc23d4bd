import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from tensorflow_model_analysis.metrics import binary_confusion_matrices
from tensorflow_model_analysis.metrics.confusion_matrix_metrics import AUC

from skewless.transforms.evaluation.areas import count_buckets, mean_areas, merge_counts


def rows(n=3_000, classes=3, seed=0):
    random = np.random.default_rng(seed)
    label = random.integers(0, classes, n)
    probabilities = random.dirichlet(np.ones(classes), n) + 0.3 * np.eye(classes)[label]
    return label, probabilities / 1.3


def one_hot(label, classes=3):
    return np.eye(classes, dtype=bool)[label]


def test_areas_are_scikit_learns():
    label, probabilities = rows()
    roc, precision_recall = mean_areas(count_buckets(one_hot(label), probabilities))
    expected = sk.roc_auc_score(label, probabilities, multi_class="ovr", average="macro")
    assert roc == pytest.approx(expected, abs=1e-4)
    expected = sk.average_precision_score(np.eye(3)[label], probabilities, average="macro")
    assert precision_recall == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("digits", [1, 2])
def test_ties_are_interpolated_as_tfma_does(digits):
    label, probabilities = rows(500)
    # Between two thresholds of TFMA's; it merges its two lowest buckets.
    probabilities = probabilities.round(digits) * 0.9 + 0.05005
    ours = mean_areas(count_buckets(one_hot(label), probabilities))
    thresholds = [-1e-7, *np.linspace(0, 1, 1_001)[1:-1], 1 + 1e-7]
    theirs = []
    for one, score in zip(np.eye(3)[label].T, probabilities.T, strict=True):
        over = score > np.array(thresholds)[:, None]
        tp, fp = (over * one).sum(axis=1), (over * (1 - one)).sum(axis=1)
        matrices = binary_confusion_matrices.Matrices(
            thresholds, tp, (1 - one).sum() - fp, fp, one.sum() - tp
        )
        curves = [("ROC", "interpolation"), ("PR", "interpolation")]
        with np.errstate(invalid="ignore"):
            theirs.append([AUC()._metric_value(*curve, None, matrices) for curve in curves])
    assert ours == pytest.approx(np.mean(theirs, axis=0), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.integers(0, 9))
def test_counts_add_up_in_any_order(parts, seed):
    label, probabilities = rows(40, seed=seed)
    order = np.random.default_rng(seed).permutation(40)
    counts = [
        count_buckets(one_hot(label[at]), probabilities[at]) for at in np.array_split(order, parts)
    ]
    once = count_buckets(one_hot(label), probabilities)
    for ours, expected in zip(merge_counts(counts), once, strict=True):
        assert ours.tolist() == expected.tolist()
    assert mean_areas(merge_counts(counts)) == mean_areas(once)


def test_a_class_that_no_row_has_is_left_out():
    label, probabilities = rows()
    without = label != 2
    roc, _ = mean_areas(count_buckets(one_hot(label[without]), probabilities[without]))
    one_of = np.eye(3)[label[without]][:, :2]
    expected = sk.roc_auc_score(one_of, probabilities[without][:, :2])
    assert roc == pytest.approx(expected, abs=1e-4)


def test_one_class_has_no_area():
    probabilities = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert np.isnan(mean_areas(count_buckets(one_hot([1, 1], 2), probabilities))).all()
    assert mean_areas(count_buckets(one_hot([1, 0], 2), probabilities)) == (1.0, 1.0)
    assert mean_areas(count_buckets(one_hot([0, 1], 2), probabilities))[0] == 0.0
