import asyncio
import concurrent.futures
import json
import shutil
import threading

import numpy as np
import pytest

from skewless.models.serving.model import ServedModel
from skewless.models.serving.requests import ROW_SIGNATURES, Code, Request, ServingError
from skewless.models.serving.versions import Watching
from skewless.schema import make_schema
from tests.models.serving.asked import ROWS, serialized


@pytest.fixture(scope="module")
def expected(predictor):
    return predictor.predict_examples(serialized(ROWS))["prediction"]


def examples(rows):
    return {"examples": np.array(serialized(rows), object)}


def test_rows_examples_and_columns_have_the_same_answer(served, expected):
    asked = [
        Request(rows=ROWS),
        Request(arrays=examples(ROWS)),
        Request(
            arrays={
                "x": np.array([0.5, -1.25, 2.0], np.float32),
                "o": np.array([4.5, np.nan, np.nan], np.float32),
                "n": np.array([3, np.iinfo(np.int64).min, 1]),
                "carrier": np.array([b"AA", b"??", b""], object),
                "tags": np.array([[b"red", b"new"], [b"", b""], [b"blue", b""]], object),
            },
            signature="predict_rows",
        ),
    ]
    for request in asked:
        answer = served.answer(request)
        assert answer.outputs["prediction"].tolist() == expected.tolist()
        assert (answer.rows, answer.version) == (3, 1)
        assert asyncio.run(served.answer_async(request)).outputs["prediction"].tolist() == (
            expected.tolist()
        )


def test_columns_left_out_are_missing(served, expected):
    only = {"x": np.array([2.0], np.float32), "tags": np.array([[b"blue"]], object)}
    row = {"x": 2.0, "tags": ["blue"]}
    for signature in ROW_SIGNATURES:
        columns = served.answer(Request(arrays=only, signature=signature))
        rows = served.answer(Request(rows=[row], signature=signature))
        for name, values in rows.outputs.items():
            assert columns.outputs[name].tobytes() == values.tobytes()
    assert rows.fed["x"].tolist() == [2.0]
    assert np.isnan(rows.fed["o"]).all()


def test_requests_in_one_batch_get_their_own_rows(served, predictor):
    """Ragged features too, and whatever the sizes."""
    rng = np.random.default_rng(5)
    sizes = rng.integers(1, 5, 60)
    asked = [[ROWS[i] for i in rng.integers(0, 3, size)] for size in sizes]
    alone = {
        i: served.answer(Request(rows=[row], signature="transform")).outputs
        for i, row in enumerate(ROWS)
    }
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        requests = [Request(rows=rows, signature="transform") for rows in asked]
        answers = list(pool.map(served.answer, requests))
    for rows, answer in zip(asked, answers, strict=True):
        for name, values in answer.outputs.items():
            wanted = np.concatenate([alone[ROWS.index(row)][name] for row in rows])
            assert values.tobytes() == wanted.tobytes(), name


def test_a_bad_request_in_a_batch_fails_alone(served, expected):
    gate = threading.Barrier(8)

    def ask(i):
        gate.wait()
        arrays = {"examples": np.array([b"\xff\xff"], object)} if i == 3 else examples(ROWS)
        try:
            return served.answer(Request(arrays=arrays)).outputs["prediction"].tolist()
        except ServingError as error:
            return error

    for _ in range(5):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = list(pool.map(ask, range(8)))
        bad = found.pop(3)
        assert bad.code is Code.INVALID_ARGUMENT
        assert "the model cannot take the inputs" in str(bad)
        assert found == [expected.tolist()] * 7


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(rows=[]), "no rows"),
        (Request(), "no inputs"),
        (Request(arrays={}, signature="transform"), "no inputs; expected at least one column"),
        (Request(rows=ROWS, signature="nope"), 'no signature "nope"; the signatures are serving_d'),
        (Request(rows=ROWS, signature="serving_default"), "takes serialized Examples"),
        (Request(arrays={"x": np.zeros(1)}), 'expected one, "examples"'),
        (
            Request(arrays={"x": np.zeros(1)}, signature="transform"),
            r'"x" is float64 of shape \[1\]; expected float32 \[rows\]',
        ),
        (
            Request(arrays={"n": np.zeros(1, np.int64)}, signature="transform"),
            '"x" is missing, and required',
        ),
        (
            Request(
                arrays={"x": np.zeros(1, np.float32), "n": np.zeros(2, np.int64)},
                signature="transform",
            ),
            "2 rows, but others have 1",
        ),
        (Request(arrays={"y": np.zeros(1)}, signature="transform"), "no such column; its columns"),
        (Request(arrays={"examples": np.zeros(2)}), r"expected strings \[rows\]"),
    ],
)
def test_wrong_requests_are_refused_in_a_line(served, request_, message):
    with pytest.raises(ServingError, match=message) as error:
        served.answer(request_)
    assert error.value.code is Code.INVALID_ARGUMENT
    assert "\n" not in str(error.value)


def test_a_version_is_swapped_under_load_without_a_failure(versions_dir, expected):
    model = ServedModel(versions_dir, watching=Watching(seconds=0.05))
    model.start()
    stop, failures, seen = threading.Event(), [], set()

    def ask():
        while not stop.is_set():
            try:
                answer = model.answer(Request(rows=ROWS))
                seen.add(answer.version)
                if answer.outputs["prediction"].tolist() != expected.tolist():
                    failures.append("wrong")
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    # A version that is no good is refused, and the old one stays.
    (versions_dir / "2").mkdir()
    (versions_dir / "2" / "saved_model.pb").write_bytes(b"no model")
    shutil.copytree(versions_dir / "1", versions_dir / "3")
    for _ in range(600):
        if 3 in seen and model.status(1)[0].state == "END":
            break
        threading.Event().wait(0.05)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert seen == {1, 3}
    with pytest.raises(ServingError, match="version 1 is not served"):
        model.answer(Request(rows=ROWS, version=1))
    (versions_dir / "labels.json").write_text(json.dumps({"stable": 1}))
    for _ in range(600):
        if any(s.version == 1 and s.state == "AVAILABLE" for s in model.status()):
            break
        threading.Event().wait(0.05)
    assert model.answer(Request(rows=ROWS, label="stable")).version == 1
    assert model.answer(Request(rows=ROWS)).version == 3
    model.close()
    assert not model.ready
    with pytest.raises(ServingError, match="stopping"):
        model.answer(Request(rows=ROWS))


class Watcher:
    """Remembers what it was told."""

    def __init__(self):
        self.told = []

    def answered(self, request, answer, code, seconds):
        self.told.append((code, answer and answer.rows, seconds > 0))

    def batched(self, requests, rows, seconds):
        self.told.append(("batch", requests, rows))

    def queued(self, requests):
        pass

    def loaded(self, states):
        self.told.append(dict(states))

    def asked_store(self, rows, seconds, failed):
        raise AssertionError("there is no store")


class NoAggregates:
    """What reads from a store for a model that needs nothing of it."""

    def __init__(self):
        self.columns = {}
        self.keys = make_schema([])
        self.closed = False

    def __call__(self, keys, wanted):
        raise AssertionError("nothing is lacking")

    def close(self):
        self.closed = True


def test_observers_are_told(model_dir):
    watcher = Watcher()
    store = NoAggregates()
    model = ServedModel(model_dir, name="other", observers=[watcher], enrich=lambda _: store)
    model.start()
    assert model.name == "other"
    assert watcher.told == [{1: "LOADING"}, {1: "AVAILABLE"}]
    model.answer(Request(rows=ROWS))
    with pytest.raises(ServingError):
        model.answer(Request(rows=[{}]))
    assert watcher.told[2:] == [
        ("batch", 1, 3),
        (None, 3, True),
        (Code.INVALID_ARGUMENT, None, True),
    ]
    assert not store.closed
    model.close()
    assert watcher.told[-1] == {1: "END"}
    assert store.closed
