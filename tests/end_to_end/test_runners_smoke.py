"""Flink and Spark, each by itself and as a cluster, run a pipeline of Beam's usual steps."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from tests.servers import flink, spark

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def session_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[flink.SessionCluster]:
    with flink.session_cluster(tmp_path_factory.mktemp("flink")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def spark_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[spark.Cluster]:
    with spark.cluster(tmp_path_factory.mktemp("spark")) as cluster:
        yield cluster


def on_flink(master: str) -> list[str]:
    jar = flink.job_server_jar()
    return ["--runner=FlinkRunner", f"--flink_job_server_jar={jar}", f"--flink_master={master}"]


def on_spark(master: str) -> list[str]:
    jar = spark.job_server_jar()
    return ["--runner=SparkRunner", f"--spark_job_server_jar={jar}", f"--spark_master_url={master}"]


def check(flags: list[str], folder: pathlib.Path) -> None:
    options = PipelineOptions(
        [*flags, "--environment_type=LOOPBACK", "--environment_cache_millis=10000"]
    )
    with beam.Pipeline(options=options) as pipeline:
        numbers = pipeline | beam.Create(range(1000)) | beam.Reshuffle()
        total = beam.pvalue.AsSingleton(numbers | beam.CombineGlobally(sum))
        (
            numbers
            | beam.Map(lambda n: (n % 3, n))
            | beam.GroupByKey()
            | beam.Map(lambda kv, total: f"{kv[0]} {sum(kv[1])} of {total}", total)
            | beam.io.WriteToText(str(folder / "sums"))
        )
    lines = [line for file in folder.glob("sums*") for line in file.read_text().splitlines()]
    assert sorted(lines) == [f"{key} {sum(range(key, 1000, 3))} of 499500" for key in range(3)]


def test_flink_of_its_own(tmp_path: pathlib.Path) -> None:
    check([*on_flink("[local]"), "--parallelism=2"], tmp_path)


def test_flink_cluster(session_cluster: flink.SessionCluster, tmp_path: pathlib.Path) -> None:
    check([*on_flink(session_cluster.master), "--parallelism=2"], tmp_path)


def test_flink_cluster_whose_task_manager_was_killed(
    session_cluster: flink.SessionCluster, tmp_path: pathlib.Path
) -> None:
    (old,) = session_cluster.task_managers
    session_cluster.kill_task_manager(old)
    session_cluster.start_task_manager()
    check([*on_flink(session_cluster.master), "--parallelism=2"], tmp_path)


def test_spark_of_its_own(tmp_path: pathlib.Path) -> None:
    check(on_spark("local[2]"), tmp_path)


def test_spark_cluster(spark_cluster: spark.Cluster, tmp_path: pathlib.Path) -> None:
    check(on_spark(spark_cluster.master), tmp_path)
