"""The same on an object store and on HDFS: model, rows and output lie there."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Iterator

import pyarrow.parquet as pq
import pytest
from apache_beam.io.filesystems import FileSystems

from skewless.launch.command_line import main
from skewless.pipeline.execution import Execution
from skewless.storage import RemotePath, local_copy, local_output
from tests.pipeline.small_model import write_model
from tests.servers import hdfs, s3

pytestmark = pytest.mark.integration


@contextlib.contextmanager
def running(kind: str, folder: pathlib.Path) -> Iterator[tuple[str, list[str]]]:
    """Run a server; give where its files are, and the options by which Beam reaches them."""
    if kind == "s3":
        with s3.s3(folder) as url:
            yield f"s3://{s3.BUCKET}/bulk", [f"--s3_endpoint_url={url}"]
    else:
        with hdfs.hdfs() as server:
            yield "hdfs://data/bulk", list(server.options)


@pytest.mark.parametrize("kind", ["s3", "hdfs"])
def test_files_become_files_there(
    kind: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model")
    with running(kind, tmp_path) as (place, options):
        Execution(options=tuple(options)).reach_files()
        root = RemotePath(place)
        with local_output(root / "model" / "1") as local:
            (model / "1").rename(local)
        for name, rows in (("a", "x,code,at\n1,,\n2,,\n"), ("b", "x,code,at\n3,,\n4,x,\n")):
            with local_output(root / f"rows-{name}.csv") as local:
                local.write_text(rows)
        arguments = ["predict", f"{root}/model", f"{root}/rows-*.csv", "--output", f"{root}/out"]
        assert main([*arguments, *options]) == 1
        assert "1 of 4 rows were rejected" in capsys.readouterr().err
        assert main([*arguments, "--max-rejected", "0.5", *options]) == 0
        assert main([*arguments, "--max-rejected", "0.5", *options]) == 1
        assert "there is something already" in capsys.readouterr().err
        with local_copy(root / "out") as out:
            found = pq.read_table(out / "predictions").sort_by("x")
            assert found["prediction"].to_pylist() == [2, 4, 6]
            assert json.loads((out / "ledger.json").read_text())["model"] == f"{root}/model/1"
            assert len(list((out / "rejected").glob("*.jsonl"))) == 1
        assert not (root / "out" / ".work").exists()
    FileSystems.set_options(None)
