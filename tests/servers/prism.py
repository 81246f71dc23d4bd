"""Beam's Prism, the local runner that runs streams, built from the Go module proxy."""

from __future__ import annotations

import pathlib

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.version import __version__ as beam_version

from tests.servers.process import install_go


def install() -> pathlib.Path:
    """Return the path of the program."""
    return install_go("prism", f"github.com/apache/beam/sdks/v2/go/cmd/prism@v{beam_version}")


def streaming_pipeline() -> beam.Pipeline:
    """Return a pipeline that Prism will run as a stream, its workers in this process."""
    flags = ["--streaming", "--runner=PrismRunner", f"--prism_location={install()}"]
    return beam.Pipeline(options=PipelineOptions(flags))
