"""A file tells that a stream has ended."""

import pathlib
import time

import apache_beam as beam
import pytest

from skewless.pipeline.execution import IN_PROCESS
from skewless.transforms.live.ended import NoteEnd


class Fail(beam.DoFn):
    def process(self, element):
        raise ValueError("no")


class Slowly(beam.DoFn):
    """Is done when the file may be there, and sees that it is not."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def process(self, element):
        time.sleep(0.05)
        assert not self.path.exists()
        yield element


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_it_is_written_when_all_that_came_is_done(rows: int, tmp_path) -> None:
    path = tmp_path / "new" / "ended"
    with beam.Pipeline(IN_PROCESS) as pipeline:
        first = pipeline | "First" >> beam.Create(range(rows)) | beam.ParDo(Slowly(path))
        second = pipeline | "Second" >> beam.Create(["a"]) | beam.Reshuffle()
        (first, second) | NoteEnd(str(path))
    assert path.read_text() == ""


def test_it_is_not_written_when_the_pipeline_fails(tmp_path) -> None:
    path = tmp_path / "ended"
    pipeline = beam.Pipeline(IN_PROCESS)
    (pipeline | beam.Create([1]) | beam.ParDo(Fail()),) | NoteEnd(str(path))
    with pytest.raises(Exception, match="no"):
        pipeline.run()
    assert not path.exists()
