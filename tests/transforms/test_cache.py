import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that, equal_to

from skewless.transforms import cache
from skewless.transforms.cache import CacheRows, read_cache

ROWS = pa.record_batch({"x": [1, 2, 3, 4, 5], "s": ["a", None, "b", "", "c"]})


@pytest.mark.parametrize("file_bytes", [1, 1 << 20])
def test_rows_come_back_as_they_were(tmp_path, monkeypatch, file_bytes):
    monkeypatch.setattr(cache, "_FILE_BYTES", file_bytes)
    batches = [ROWS.slice(0, 2), ROWS.slice(0, 0), ROWS.slice(2, 3)]
    with beam.Pipeline("FnApiRunner") as begin:
        paths = begin | beam.Create(batches, reshuffle=False) | CacheRows(str(tmp_path / "rows"))
        again = paths | beam.FlatMap(read_cache) | beam.FlatMap(pa.RecordBatch.to_pylist)
        assert_that(again, equal_to(ROWS.to_pylist()))
    files = list((tmp_path / "rows").iterdir())
    assert len(files) == (2 if file_bytes == 1 else 1)


def test_no_rows_are_no_files(tmp_path):
    with beam.Pipeline("FnApiRunner") as begin:
        paths = begin | beam.Create([], reshuffle=False) | CacheRows(str(tmp_path / "rows"))
        assert_that(paths, equal_to([]))


@pytest.mark.parametrize(("name", "limit"), [("_BATCH_ROWS", 4), ("_BATCH_BYTES", 2 * ROWS.nbytes)])
def test_small_batches_are_put_together_up_to_a_limit(tmp_path, monkeypatch, name, limit):
    monkeypatch.setattr(cache, name, limit)
    batches = [ROWS.slice(at, 1) for at in range(5)] * 3
    with beam.Pipeline("FnApiRunner") as begin:
        paths = begin | beam.Create(batches, reshuffle=False) | CacheRows(str(tmp_path / "rows"))
        sizes = paths | beam.FlatMap(read_cache) | beam.Map(lambda batch: batch.num_rows)
        expected = [4, 4, 4, 3] if name == "_BATCH_ROWS" else None
        assert_that(sizes, is_together(expected))


def is_together(expected):
    def check(sizes):
        assert sum(sizes) == 15
        assert 1 < len(sizes) < 8
        assert expected is None or sizes == expected

    return check
