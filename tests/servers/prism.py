"""Beam's Prism, the local runner that runs streams, built from the Go module proxy."""

from __future__ import annotations

import pathlib
import subprocess

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.version import __version__ as beam_version

from tests.servers.process import FOLDER, install_debian, missing, one_at_a_time


@one_at_a_time()
def install() -> pathlib.Path:
    """Return the path of the program."""
    folder = FOLDER / f"prism-{beam_version}"
    program = folder / "prism"
    if not program.exists():
        go = install_debian("go", "golang-go")
        package = f"github.com/apache/beam/sdks/v2/go/cmd/prism@v{beam_version}"
        environment = ["env", f"GOBIN={folder}"]
        try:
            subprocess.run(
                [*environment, go, "install", package],
                check=True,
                capture_output=True,
                timeout=1800,
            )
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or b""
            missing(f"Prism cannot be built: {error} {said.decode(errors='replace')[-500:]}")
    return program


def streaming_pipeline() -> beam.Pipeline:
    """Return a pipeline that Prism will run as a stream, its workers in this process."""
    flags = ["--streaming", "--runner=PrismRunner", f"--prism_location={install()}"]
    return beam.Pipeline(options=PipelineOptions(flags))
