"""Google Cloud Dataflow: jobs of the classic kind, and those of a Flex Template."""

from __future__ import annotations

import logging
import os
import pathlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from skewless import __version__
from skewless.errors import RecipeError, RunError
from skewless.launch.runners import workers
from skewless.launch.runners.flags import Finding, Flags

__all__ = ["BEAM", "check", "label_options", "options", "recipe_labels"]

BEAM = "DataflowRunner"

T = TypeVar("T")

# For each of the three that are asked, so that all is said within half a minute.
_ANSWER_SECONDS = 5.0
_TOTAL_SECONDS = 9.0

_PROJECT = re.compile(r"([a-z0-9.-]+:)?[a-z][-a-z0-9]{4,28}[a-z0-9]")
_REGION = re.compile(r"[a-z]+-[a-z]+\d+")
_FOLDER = re.compile(r"gs://[a-z0-9][-_.a-z0-9]{1,220}[a-z0-9](/.*)?")
_LABEL_KEY = re.compile(r"[a-z][-_a-z0-9]{0,62}")
_LABEL = re.compile(r"[-_a-z0-9]{0,63}")
_DIGEST = 12
_CLIENT = "apache_beam.runners.dataflow.internal.apiclient"
# As `requests` and Google's REST clients begin or wrap what was said.
_ASKED = re.compile(r"^[A-Z]+ https?://\S+: ")
_ERRNO = re.compile(r"\[Errno -?\d+\] ([^'\")]+)")


def options(given: Flags, *, streaming: bool) -> list[str]:
    """Return Beam's options: skewless for the workers, labels, the engine of a stream.

    Args:
        given: The user's options.
        streaming: Whether the pipeline has no end.

    Raises:
        RecipeError: If a label that was given is none.
        RunError: If skewless cannot be packed.
    """
    # What it logs of a job that Dataflow refuses is the error that is raised.
    logging.getLogger(_CLIENT).setLevel(logging.CRITICAL + 1)
    defaults: dict[str, object] = {
        "project": _project(given),
        "region": _region(given),
        "temp_location": _folder(given),
    }
    if "sdk_container_image" in given:
        # Beam and skewless are in the image: nothing is installed when a worker starts.
        defaults["sdk_location"] = "container"
    if streaming:
        # A store has one writer: one worker, with one process, that does one thing at a time.
        defaults |= {
            "streaming": True,
            "enable_streaming_engine": True,
            "max_num_workers": 1,
            "number_of_worker_harness_threads": 1,
        }
    words = [*given.with_defaults(**defaults).words]
    if streaming and not _has_experiment(given, "use_multiple_sdk_containers"):
        words.append("--experiments=no_use_multiple_sdk_containers")
    if not _brings_skewless(given):
        words.append(f"--extra_packages={workers.package()}")
    if "skewless_version" not in _labels(given):
        words += label_options({"skewless_version": __version__})
    return words


def label_options(labels: Mapping[str, str]) -> list[str]:
    """Return options that label a job; what Google does not take in a value is replaced.

    >>> label_options({"skewless_recipe": "Flights 1.2"})
    ['--labels=skewless_recipe=flights-1-2']
    """
    values = {key: re.sub(r"[^-_a-z0-9]", "-", value.lower()) for key, value in labels.items()}
    return [f"--labels={key}={value[:63]}" for key, value in values.items()]


def recipe_labels(file: str | os.PathLike[str]) -> list[str]:
    """Return the options that label a job with a recipe's name and version.

    The version is the beginning of the digest that its runs' manifests have.

    Raises:
        RecipeError: If there is no recipe in the file.
    """
    from skewless.pipeline.recipe import load_recipe

    recipe = load_recipe(file)
    version = recipe.digest()[:_DIGEST]
    return label_options({"skewless_recipe": recipe.name, "skewless_recipe_version": version})


def check(given: Flags, *, streaming: bool) -> Iterator[Finding]:
    """See that Dataflow can be asked, and that the bucket can be written to.

    Nothing is asked of Google before the options are right. Together it takes less than half
    a minute, also where nobody answers.
    """
    del streaming
    named = list(_check_named(given))
    yield from named
    if named:
        return
    yield Finding(f"project {_project(given)}, region {_region(given)}, {_folder(given)}")
    yield from _check_staged(given)
    credentials, finding = _credentials(given)
    yield finding
    if finding.ok:
        yield _check_folder(given, credentials)
        yield _check_service(given, credentials)


def _project(given: Flags) -> str | None:
    return given.get("project") or os.environ.get("GOOGLE_CLOUD_PROJECT")


def _region(given: Flags) -> str | None:
    return given.get("region") or os.environ.get("CLOUDSDK_COMPUTE_REGION")


def _folder(given: Flags) -> str | None:
    return given.get("temp_location") or given.get("staging_location")


def _brings_skewless(given: Flags) -> bool:
    """Say whether the user's own options bring skewless to the workers."""
    if "sdk_container_image" in given:
        return True
    setup, own = given.get("setup_file"), workers.clone()
    if setup is not None and own is not None and pathlib.Path(setup).resolve().parent == own:
        return True
    packages = (word.partition("=")[2] for word in given.words if word.startswith("--extra_packa"))
    return any(pathlib.PurePath(path).name.startswith("skewless-") for path in packages)


def _has_experiment(given: Flags, name: str) -> bool:
    """Say whether an experiment was given, or its opposite."""
    found = [word.partition("=")[2].split(",") for word in given.words if "experiments=" in word]
    return any(one in (name, f"no_{name}") for words in found for one in words)


def _labels(given: Flags) -> set[str]:
    """Return the keys of the labels that were given.

    Raises:
        RecipeError: If Google would not take one.
    """
    keys = set()
    for word in given.words:
        name, _, text = word.removeprefix("--").partition("=")
        if name not in ("label", "labels") or text.startswith("{"):
            continue
        key, _, value = text.partition("=")
        if not _LABEL_KEY.fullmatch(key) or not _LABEL.fullmatch(value):
            raise RecipeError(
                f'--{name}={text}: expected KEY=VALUE of lower-case letters, digits, "-" and "_", '
                "each of at most 63"
            )
        keys.add(key)
    return keys


def _check_named(given: Flags) -> Iterator[Finding]:
    """Yield what is wrong with the options themselves; nobody is asked."""
    project, region, folder = _project(given), _region(given), _folder(given)
    if project is None:
        yield Finding("there is no --project", False, "give Google Cloud's: --project=PROJECT")
    elif not _PROJECT.fullmatch(project):
        what = f"--project={project}: not the id of a project"
        yield Finding(what, False, "see gcloud projects list, PROJECT_ID")
    if region is None:
        yield Finding("there is no --region", False, "say where: --region=europe-west1")
    elif not _REGION.fullmatch(region):
        what = f"--region={region}: not a region"
        yield Finding(
            what, False, "give one such as --region=europe-west1, without a zone's letter"
        )
    if folder is None:
        repair = "give a folder of a bucket: --temp_location=gs://BUCKET/tmp"
        yield Finding("there is no --temp_location", False, repair)
    for name in ("temp_location", "staging_location"):
        path = given.get(name)
        if path is not None and not _FOLDER.fullmatch(path):
            what = f"--{name}={path}: workers cannot reach it"
            yield Finding(what, False, f"give a folder of a bucket: --{name}=gs://BUCKET/tmp")
    try:
        _labels(given)
    except RecipeError as error:
        yield Finding(str(error), False, "leave the label out, or change it")


def _check_staged(given: Flags) -> Iterator[Finding]:
    image = given.get("sdk_container_image")
    if image is not None:
        yield Finding(f"workers run {image}")
    elif not _brings_skewless(given):
        try:
            name = workers.package().name
        except RunError as error:
            what, _, repair = str(error).rpartition("; ")
            yield Finding(what, False, repair)
        else:
            quicker = "an image of Dockerfile.worker starts sooner: --sdk_container_image=IMAGE"
            yield Finding(f"workers install {name} when they start; {quicker}")


def _within(call: Callable[[], T]) -> T:
    """Return what a call returns, or give it up: Google's libraries may try for minutes.

    Raises:
        TimeoutError: If it takes too long.
    """
    found: list[T] = []
    failed: list[Exception] = []

    def work() -> None:
        try:
            found.append(call())
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(_TOTAL_SECONDS)
    if failed:
        raise failed[0]
    if not found:
        raise TimeoutError(f"no answer within {_TOTAL_SECONDS:g} s")
    return found[0]


def _said(error: Exception) -> str:
    """Return the first line of what Google's client said, without what it had asked."""
    text = str(getattr(error, "message", "") or error).strip() or type(error).__name__
    reason = _ERRNO.search(text)
    return reason[1] if reason else _ASKED.sub("", text.splitlines()[0])[:300]


def _credentials(given: Flags) -> tuple[Any, Finding]:
    """Return the credentials by which Beam will submit, and what was found of them."""
    import google.auth
    from google.auth.credentials import AnonymousCredentials

    if given.get("no_auth", "false").lower() == "true":
        return AnonymousCredentials(), Finding("without credentials, as --no_auth says")  # type: ignore[no-untyped-call]
    try:
        found, _ = _within(google.auth.default)
        if "impersonate_service_account" in given:
            from google.auth import impersonated_credentials

            *delegates, account = given["impersonate_service_account"].split(",")
            scopes = ["https://www.googleapis.com/auth/cloud-platform"]
            found = impersonated_credentials.Credentials(  # type: ignore[no-untyped-call]
                found, account, scopes, delegates
            )
    except Exception as error:
        what = f"there are no credentials for Google Cloud: {_said(error)}"
        repair = (
            "gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS to "
            "the key file of a service account"
        )
        return None, Finding(what, False, repair)
    name = getattr(found, "service_account_email", None) or "this user"
    return found, Finding(f"credentials of {name}")


def _check_folder(given: Flags, credentials: Any) -> Finding:
    """Write a file beside what Beam will write, and remove it."""
    from google.api_core import exceptions
    from google.cloud import storage  # type: ignore[attr-defined]

    folder = str(_folder(given))
    bucket, _, prefix = folder.removeprefix("gs://").partition("/")
    name = f"{prefix.strip('/')}/skewless-check-{os.urandom(8).hex()}".lstrip("/")

    def write() -> bool:
        client = storage.Client(project=_project(given), credentials=credentials)
        blob = client.bucket(bucket).blob(name)
        blob.upload_from_string(b"", timeout=_ANSWER_SECONDS, retry=None)
        try:
            blob.delete(timeout=_ANSWER_SECONDS, retry=None)
        except exceptions.Forbidden:
            return False
        return True

    try:
        _within(write)
    except exceptions.NotFound:
        repair = f"make it: gcloud storage buckets create gs://{bucket}, or name another one"
        return Finding(f"{folder}: there is no such bucket", False, repair)
    except (exceptions.Forbidden, exceptions.Unauthorized) as error:
        repair = f"grant roles/storage.objectAdmin on gs://{bucket}"
        return Finding(f"{folder}: may not be written to: {_said(error)}", False, repair)
    except Exception as error:
        repair = "see that Google Cloud can be reached from here, and that the credentials hold"
        return Finding(f"{folder}: cannot be written to: {_said(error)}", False, repair)
    return Finding(f"{folder} can be written to")


def _check_service(given: Flags, credentials: Any) -> Finding:
    """Ask Dataflow for a job: who may not see any may not start one."""
    from apache_beam.options.pipeline_options import GoogleCloudOptions
    from google.api_core import exceptions
    from google.api_core.client_options import ClientOptions
    from google.cloud import dataflow

    project, region = _project(given), _region(given)
    url = given.get("dataflow_endpoint", GoogleCloudOptions.DATAFLOW_ENDPOINT).rstrip("/")

    def ask() -> bool:
        client = dataflow.JobsV1Beta3Client(
            credentials=credentials,
            transport="rest",
            client_options=ClientOptions(api_endpoint=url),
        )
        asked = dataflow.ListJobsRequest(project_id=project, location=region, page_size=1)
        client.list_jobs(asked, timeout=_ANSWER_SECONDS, retry=None)
        return True

    try:
        _within(ask)
    except (exceptions.Forbidden, exceptions.Unauthorized) as error:
        what = f"Dataflow refuses jobs in {project}, {region}: {_said(error)}"
        repair = (
            "grant roles/dataflow.developer, and see that the API is there: gcloud services "
            f"enable dataflow.googleapis.com --project={project}"
        )
        return Finding(what, False, repair)
    except exceptions.ClientError as error:
        what = f"Dataflow does not know {project}, {region}: {_said(error)}"
        return Finding(what, False, "see gcloud projects list, and Dataflow's list of regions")
    except Exception as error:
        what = f"Dataflow does not answer at {url}: {_said(error)}"
        return Finding(what, False, "see that Google Cloud can be reached from here")
    return Finding(f"Dataflow answers for {project}, {region}")
