"""Every public analyzer and mapper is in a case, and no sharding changes what any finds."""

from __future__ import annotations

import inspect

import numpy as np
import pyarrow as pa
import pytest
import tensorflow_transform as tft

from tests.transforms.analyze.cases_all import CASES
from tests.transforms.analyze.cases_fallback import FALLBACKS
from tests.transforms.analyze.cases_plan import constants, given, planned

# Public names that are neither an analyzer nor a mapper, or are no part of a graph.
LEFT_OUT = {
    "DatasetMetadata": "describes rows",
    "TFTransformOutput": "reads a graph that was written",
    "TransformFeaturesLayer": "applies a graph that was written",
    "__version__": "is text",
    "apply_pyfunc": "needs tf.compat.v1, and is lost when a model is exported",
    "get_analyze_input_columns": "asks about a function from outside",
    "get_transform_input_columns": "asks about a function from outside",
    "CacheablePTransformAnalyzer": "is an argument of ptransform_analyzer, about tft's cache",
    "PTransformAnalyzerCacheCoder": "is about tft's cache",
    "SimpleJsonPTransformAnalyzerCacheCoder": "is about tft's cache",
}
# What a case need not give: a label in the graph; and for an analyzer that the engine leaves
# to tf.Transform anyway, what its files hold before it ran.
OPTIONAL = {"name", "output_asset_default_values"}


def public_functions():
    """Return what tf.Transform exports, and what it counts as analyzers and mappers of its."""
    modules = (tft, tft.experimental)
    names = {name: getattr(module, name) for module in modules for name in module.__all__}
    counted = {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if hasattr(value, "_tf_decorator") and not name.startswith("_")
    }
    return {**names, **counted}


def trace_all():
    for case in CASES:
        planned(case.function)
    for function in FALLBACKS:
        planned(function, "auto")


def test_every_public_analyzer_and_mapper_is_in_a_case():
    trace_all()
    assert set(public_functions()) - set(LEFT_OUT) - set(given) == set()


def test_every_argument_of_them_is_given_in_a_case():
    trace_all()
    missing = {}
    for name, function in public_functions().items():
        if name not in LEFT_OUT:
            arguments = set(inspect.signature(function).parameters) - OPTIONAL - given[name]
            if arguments:
                missing[name] = sorted(arguments)
    assert missing == {}


def test_what_is_left_out_still_exists():
    assert set(LEFT_OUT) <= set(public_functions())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_sharding_changes_what_is_found(case):
    rows = case.rows()
    rng = np.random.default_rng(0)
    shuffled = rows.take(pa.array(rng.permutation(len(rows)), pa.int64()))
    layouts = {
        "one batch": [[rows]] if len(rows) else [],
        "one batch a worker": [[part] for part in cut(rows, len(rows) // 7 + 1)],
        "small batches": [cut(shuffled, 37)[::-1], []],
        "all sizes": uneven(shuffled, rng),
    }
    found = constants(planned(case.function), layouts)
    expected = found["one batch"]
    for name, others in found.items():
        assert others.keys() == expected.keys()
        assert [key for key in expected if others[key] != expected[key]] == [], name


def cut(rows, size):
    return [rows.slice(start, size) for start in range(0, len(rows), size)]


def uneven(rows, rng):
    """Return shards of batches of 1, 2, ... rows, in another order."""
    ends = np.cumsum(np.arange(1, len(rows) + 1))
    starts = [0, *ends[ends < len(rows)].tolist()]
    batches = [rows.slice(a, b - a) for a, b in zip(starts, [*starts[1:], len(rows)], strict=True)]
    order = rng.permutation(len(batches))
    return [[batches[at] for at in part] for part in np.array_split(order, 5)]
