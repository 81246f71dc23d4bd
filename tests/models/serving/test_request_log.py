import contextlib
import dataclasses
import pathlib
import threading
import time

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from apache_beam.testing.util import assert_that
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from skewless.errors import RecipeError, RunError
from skewless.models.serving.request_log import RequestLog, RequestLogOptions
from skewless.models.serving.requests import Code, Request, ServingError
from skewless.transforms.sources.parquet import ReadParquet
from tests.models.serving.answered import COLUMNS, SCHEMA, Model, of_examples, of_rows, rows


def servable(version=None):
    if version == 404:
        raise ServingError(Code.NOT_FOUND, "gone")
    return Model(version=version or 3)


@contextlib.contextmanager
def logging(directory, model=servable, **options):
    log = RequestLog(RequestLogOptions(str(directory), **{"sample": 1.0, **options}))
    log.start(model)
    try:
        yield log
    finally:
        log.close()


def files(directory, suffix="parquet"):
    return sorted(pathlib.Path(directory).glob(f"*.{suffix}"))


def tell(log, *answered):
    for request, answer in answered:
        log.answered(request, answer, None, 0.001)


def until(true, seconds=10.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def test_requests_are_read_by_read_parquet_as_the_rows_of_a_run_are(tmp_path):
    batches = [rows(3, 1), rows(4, 2)]
    with logging(tmp_path / "log") as log:
        tell(log, of_rows(batches[0]), of_examples(batches[1]))
    assert (log.written, log.dropped) == (2, 0)
    expected = [row for batch in batches for row in batch.to_pylist()]

    def check(found):
        assert [r for b in found for r in b.select(COLUMNS.names).to_pylist()] == expected

    def check_none(found):
        assert not found

    with beam.Pipeline("FnApiRunner") as pipeline:
        result = pipeline | ReadParquet(str(tmp_path / "log" / "*.parquet"), schema=SCHEMA)
        assert_that(result.rows, check, label="rows")
        assert_that(result.rejected[0], check_none, label="rejected")


def test_a_file_is_closed_when_it_is_full(tmp_path):
    with logging(tmp_path, rows_per_file=5, queue=2) as log:
        tell(log, of_rows(rows(5)))
        until(lambda: files(tmp_path))
        tell(log, of_rows(rows(2)))
    assert [pq.read_metadata(path).num_rows for path in files(tmp_path)] == [5, 2]
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".parquet"]


def test_a_file_is_closed_when_it_is_old(tmp_path):
    with logging(tmp_path, seconds_per_file=0.05) as log:
        tell(log, of_rows(rows(1)))
        until(lambda: log.written == 1)
        assert len(files(tmp_path)) == 1


def test_a_file_has_one_version_and_all_have_the_same_columns(tmp_path):
    with logging(tmp_path) as log:
        tell(log, of_rows(rows(2), version=3), of_examples(rows(2), 4), of_rows(rows(1), 3))
    found = [pq.read_table(path) for path in files(tmp_path)]
    assert [t["serving_version"].to_pylist() for t in found] in (
        [[3] * 3, [4] * 2],
        [[4] * 2, [3] * 3],
    )
    assert found[0].schema == found[1].schema
    assert {path.name.split("-")[1] for path in files(tmp_path)} == {"3", "4"}


def test_records_are_tensorflow_servings(tmp_path):
    with logging(tmp_path, format="tfrecord", sample=1.0) as log:
        tell(log, of_rows(rows(2)), of_examples(rows(3)))
    (path,) = files(tmp_path, "tfrecord")
    logs = [PredictionLog.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(path))]
    signatures = [one.log_metadata.model_spec.signature_name for one in logs]
    assert signatures == ["predict_rows", "serving_default"]


def chosen(directory, **options):
    request, answer = of_rows(rows(1))
    with logging(directory, sample=0.2, **options) as log:
        for i in range(500):
            log.answered(request, answer, None, i)
    table = pa.concat_tables([pq.read_table(path) for path in files(directory)])
    return table["serving_seconds"].to_pylist()


def test_a_seed_chooses_the_same_requests(tmp_path):
    one, other, third = (
        chosen(tmp_path / name, seed=seed) for name, seed in zip("abc", (1, 1, 2), strict=True)
    )
    assert one == other != third
    assert 60 < len(one) < 140


def test_errors_are_logged_when_they_are_asked_for(tmp_path):
    refused = Request(rows=[{}], protocol="rest")
    with logging(tmp_path / "without") as log:
        log.answered(refused, None, Code.INVALID_ARGUMENT, 0.1)
    assert not files(tmp_path / "without")
    with logging(tmp_path / "with", errors=True) as log:
        log.answered(refused, None, Code.INVALID_ARGUMENT, 0.1)
        tell(log, of_rows(rows(1)))
    (path,) = files(tmp_path / "with")
    assert set(pq.read_table(path)["serving_code"].to_pylist()) == {"INVALID_ARGUMENT", "OK"}


class Slow(dict):
    """Columns that are there only when `free` is set."""

    def __init__(self, columns):
        super().__init__(columns)
        self.reached, self.free = threading.Event(), threading.Event()

    def __getitem__(self, name):
        self.reached.set()
        self.free.wait(10)
        return super().__getitem__(name)


def test_what_does_not_fit_is_dropped_and_nobody_waits(tmp_path):
    request, answer = of_rows(rows(1))
    slow = Slow(answer.fed)
    with logging(tmp_path, queue=3) as log:
        tell(log, (request, dataclasses.replace(answer, fed=slow)))
        assert slow.reached.wait(10)
        start = time.monotonic()
        tell(log, *[(request, answer)] * 10)
        assert time.monotonic() - start < 1
        assert log.dropped == 7
        slow.free.set()
    assert (log.written, log.dropped) == (4, 7)


def test_before_and_after_it_runs_a_log_drops_what_it_is_told(tmp_path):
    log = RequestLog(RequestLogOptions(str(tmp_path), sample=1.0))
    tell(log, of_rows(rows(1)))
    assert log.dropped == 1
    log.close()
    log.start(servable)
    tell(log, of_rows(rows(1)))
    assert (log.written, log.dropped) == (0, 2)


def test_a_request_that_cannot_be_logged_does_not_spoil_the_others(tmp_path, caplog):
    caplog.set_level("WARNING", "skewless")
    request, answer = of_examples(rows(1))
    request.arrays["examples"][0] = b"no example"
    with logging(tmp_path) as log:
        tell(log, of_examples(rows(1)), (request, answer), of_examples(rows(1)))
        tell(log, of_rows(rows(1), version=404))
    assert (log.written, log.dropped) == (2, 2)
    assert "a request cannot be logged: " in caplog.text


def test_a_directory_that_is_taken_away_costs_what_is_not_yet_written(tmp_path, caplog):
    caplog.set_level("WARNING", "skewless")
    with logging(tmp_path / "log", seconds_per_file=0.05) as log:
        (tmp_path / "log").rmdir()
        tell(log, of_rows(rows(1)))
        until(lambda: log.dropped == 1)
        (tmp_path / "log").mkdir()
        tell(log, of_rows(rows(1)))
    assert (log.written, log.dropped) == (1, 1)
    assert "1 requests cannot be logged: " in caplog.text


def test_the_oldest_files_make_room(tmp_path):
    (tmp_path / "mine.parquet").write_bytes(b"x" * 100_000)
    with logging(tmp_path, rows_per_file=1, queue=1) as log:
        tell(log, of_rows(rows(1)))
        until(lambda: log.written == 1)
    (first,) = (path for path in files(tmp_path) if path.name != "mine.parquet")
    size = first.stat().st_size
    with logging(tmp_path, rows_per_file=1, queue=1, keep_bytes=round(2.5 * size)) as log:
        for count in (1, 2, 3):
            tell(log, of_rows(rows(1)))
            until(lambda count=count: log.written == count)
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == 3
    assert "mine.parquet" in left
    assert first.name not in left


def test_a_directory_where_nothing_can_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"request log: cannot write to .*; name another"):
        RequestLog(RequestLogOptions(str(tmp_path / "file" / "log"))).start(servable)


def test_a_misspelt_column_is_said_before_anything_is_logged(tmp_path):
    log = RequestLog(RequestLogOptions(str(tmp_path / "log"), exclude=("carier",)))
    with pytest.raises(RecipeError, match=r'request log: exclude: .*did you mean "carrier"'):
        log.start(servable)
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directory": ""}, "expected a directory on this machine"),
        ({"directory": "gs://bucket/log"}, "expected a directory on this machine"),
        ({"sample": 0.0}, "expected more than 0, at most 1"),
        ({"sample": 1.5}, "expected more than 0, at most 1"),
        ({"format": "csv"}, 'expected "parquet" or "tfrecord"'),
        ({"rows_per_file": 0}, "rows_per_file=0; expected at least 1"),
        ({"queue": 0}, "queue=0; expected at least 1"),
        ({"keep_bytes": 0}, "keep_bytes=0; expected at least 1"),
        ({"seconds_per_file": 0}, "expected more than 0"),
        ({"errors": True, "format": "tfrecord"}, "has no place for them"),
    ],
)
def test_wrong_options_are_said(options, message):
    with pytest.raises(RecipeError, match=f"request log: .*{message}"):
        RequestLogOptions(**{"directory": "log", **options})


def test_a_request_that_is_not_chosen_costs_next_to_nothing(tmp_path):
    request, answer = of_rows(rows(1))
    with logging(tmp_path, sample=1e-9) as log:
        start = time.thread_time()
        for _ in range(10_000):
            log.answered(request, answer, None, 0.1)
        assert (time.thread_time() - start) / 10_000 < 5e-6
