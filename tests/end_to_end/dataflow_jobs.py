"""What a job for Dataflow must hold, and the bucket where all that belongs to it lies."""

from __future__ import annotations

import base64
import bz2
import contextlib
import hashlib
import io
import json
import re
import tarfile
from typing import Any

from apache_beam.portability.api import beam_runner_api_pb2
from google.cloud import storage

from skewless import __version__
from skewless.storage import RemotePath, local_output
from tests.servers import gcs
from tests.test_packaging import MODULES

ROOT = f"gs://{gcs.BUCKET}"
# What Dataflow takes in one request.
REQUEST_BYTES = 10 << 20
# As Beam pickles: bz2, then base64.
_PICKLED = re.compile(rb"QlpoO[A-Za-z0-9+/]+=*")


def send(content: bytes, name: str) -> None:
    with local_output(RemotePath(ROOT) / name) as local:
        local.write_bytes(content)


def fetch(url: str) -> bytes:
    """Return what lies at a URL of the bucket, as somebody else than Beam gets it."""
    bucket, _, name = url.removeprefix("gs://").partition("/")
    with contextlib.closing(storage.Client.create_anonymous_client()) as client:
        content: bytes = client.bucket(bucket).blob(name).download_as_bytes()
        return content


def options_of(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = job["environment"]["sdkPipelineOptions"]["options"]
    return found


def pipeline_of(job: dict[str, Any]) -> beam_runner_api_pb2.Pipeline:
    """Return the job's pipeline, small and whole, and every part of it known."""
    content = fetch(options_of(job)["pipelineUrl"])
    assert hashlib.sha256(content).hexdigest() == options_of(job)["pipelineProtoHash"]
    pipeline = beam_runner_api_pb2.Pipeline.FromString(content)
    parts = pipeline.components
    for transform in parts.transforms.values():
        assert set(transform.subtransforms) <= set(parts.transforms)
        used = {*transform.inputs.values(), *transform.outputs.values()}
        assert used <= set(parts.pcollections)
        assert transform.environment_id in {"", *parts.environments}
    assert set(pipeline.root_transform_ids) <= set(parts.transforms)
    # Nothing is of the script that submits: workers have another.
    pickled = [bz2.decompress(base64.b64decode(one)) for one in _PICKLED.findall(content)]
    assert len(pickled) == content.count(b"QlpoO")
    assert len(pickled) > 1
    assert not [one for one in pickled if b"__main__" in one]
    return pipeline


def names_of(pipeline: beam_runner_api_pb2.Pipeline) -> set[str]:
    parts = [one.unique_name.split("/") for one in pipeline.components.transforms.values()]
    return {word for words in parts for word in words}


def staged(job: dict[str, Any]) -> dict[str, bytes]:
    """Return the staged files by name, each as large and of the digest that workers are told."""
    (environment,) = [
        one
        for one in pipeline_of(job).components.environments.values()
        if one.urn == "beam:env:docker:v1"
    ]
    found = {}
    for dependency in environment.dependencies:
        assert dependency.type_urn == "beam:artifact:type:url:v1"
        told = beam_runner_api_pb2.ArtifactUrlPayload.FromString(dependency.type_payload)
        content = fetch(told.url)
        assert content
        assert hashlib.sha256(content).hexdigest() == told.sha256
        found[told.url.rpartition("/")[2]] = content
    (pool,) = job["environment"]["workerPools"]
    named = {
        package["name"]: f"gs://{package['location'].partition('/')[2]}"
        for package in pool.get("packages", [])
    }
    assert set(named) == set(found)
    assert all(fetch(url) == found[name] for name, url in named.items())
    return found


def check_sdist(content: bytes) -> None:
    """See that a source archive holds every module of skewless, as it is here."""
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        names = {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}
    folders = {name.removeprefix("skewless/") for name in MODULES if name.count("/") > 1}
    modules = folders | {name for name in MODULES if name.count("/") == 1}
    assert {name for name in names if name.endswith(".py") and name != "setup.py"} == modules
    assert {"setup.py", "pyproject.toml"} <= names


def check_job(job: dict[str, Any], kind: str) -> None:
    """See what every job has."""
    assert job["environment"]["version"] == {"job_type": f"FNAPI_{kind}", "major": "8"}
    assert job["type"] == {"BATCH": 1, "STREAMING": 2}[kind]
    options = options_of(job)
    assert (options["project"], options["region"]) == ("skewless-tests", "europe-west1")
    assert options["temp_location"].startswith(f"{ROOT}/tmp/")
    assert options["pickle_library"] in ("default", "cloudpickle")
    assert options["save_main_session"] is False
    assert "use_runner_v2" in job["environment"]["experiments"]
    for key, value in job["labels"].items():
        assert re.fullmatch(r"[a-z][-_a-z0-9]{0,62}", key)
        assert re.fullmatch(r"[-_a-z0-9]{0,63}", value)
    assert job["labels"]["skewless_version"] == __version__.replace(".", "-")
    assert len(json.dumps(job)) < REQUEST_BYTES / 20


def check_stream_job(job: dict[str, Any]) -> None:
    """See what a stream's job has: its engine, its reader, and one writer of the store."""
    check_job(job, "STREAMING")
    experiments = job["environment"]["experiments"]
    assert {"enable_streaming_engine", "enable_windmill_service"} <= set(experiments)
    assert "no_use_multiple_sdk_containers" in experiments
    assert "use_multiple_sdk_containers" not in experiments
    options = options_of(job)
    assert options["enable_streaming_engine"] is options["streaming"] is True
    (pool,) = job["environment"]["workerPools"]
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 1
    assert pool["numThreadsPerWorker"] == 1
    pipeline = pipeline_of(job)
    urns = {one.spec.urn for one in pipeline.components.transforms.values()}
    # Dataflow's own reader of Pub/Sub, which acknowledges what has been committed.
    assert "beam:transform:pubsub_read:v1" in urns
    assert {"CommitRows", "Write0"} <= names_of(pipeline)
    assert pipeline.ByteSize() < 1 << 20
