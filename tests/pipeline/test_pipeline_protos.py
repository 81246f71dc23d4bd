import base64
import bz2
import re

import pytest

from tests import flights
from tests.benchmarks.pipelines import flights_pipelines, wide_pipelines
from tests.benchmarks.scaling_shapes import labels
from tests.benchmarks.work import WIDE

# Graphs of all features are traced for it.
pytestmark = pytest.mark.integration

# About twice what each is, in bytes; none of it depends on how much data there is.
FLIGHTS = {
    "schema": 150_000,
    "rows": 450_000,
    "analyze": 350_000,
    "examples": 70_000,
    "evaluate": 130_000,
    "stream": 100_000,
}
MOST_WIDE = 400_000
# What differs from one process, or one pipeline of a process, to the next.
COUNTED = re.compile(r"0x|[0-9a-f]{8,}|_\d+\b")
# How Beam writes a pickle: compressed by bzip2, in base64.
PICKLED = re.compile(rb"QlpoO[A-Za-z0-9+/]+={0,2}")


@pytest.fixture(scope="module")
def protos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flights")
    return flights_pipelines(folder / "made", flights.write_csv(folder / "flights.csv", rows=500))


@pytest.fixture(scope="module")
def wide_protos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide")
    header = folder / "wide.csv"
    header.write_text(",".join(WIDE.needed) + "\n")
    return wide_pipelines(folder / "made", header)


def pickles(proto):
    """Return everything that a pipeline has pickled."""
    found = [bz2.decompress(base64.b64decode(one)) for one in PICKLED.findall(proto)]
    return found + [inner for one in found for inner in pickles(one)]


def test_the_pipelines_of_the_flights_are_small(protos):
    assert {
        name: proto.ByteSize() < FLIGHTS[name] for name, proto in protos.items()
    } == dict.fromkeys(FLIGHTS, True)


def test_nothing_of_the_program_that_submits_is_pickled(protos):
    for name, proto in protos.items():
        found = pickles(proto.SerializeToString())
        assert len(found) > 5, name
        assert not [one for one in found if b"__main__" in one], name


def test_labels_are_the_same_whenever_a_pipeline_is_built(protos):
    for name, proto in protos.items():
        # The root has no label, and Beam its own name for it.
        given = [label for label in labels(proto) if not label.startswith("ref_")]
        counted = [label for label in given if COUNTED.search(label)]
        assert not counted, name


def test_the_pipelines_of_2000_columns_are_small(wide_protos):
    for name, proto in wide_protos.items():
        assert proto.ByteSize() < MOST_WIDE, name
