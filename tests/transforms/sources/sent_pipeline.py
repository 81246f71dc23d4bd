"""A pipeline as it is sent to workers, to be searched for what must not be in it."""

from __future__ import annotations

import base64
import bz2
import re

import apache_beam as beam


def sent(pipeline: beam.Pipeline) -> bytes:
    """Return the pipeline's proto, and unpacked what Beam has compressed in it."""
    proto, _ = pipeline.to_runner_api(return_context=True)
    whole = bytes(proto.SerializeToString())
    beginning = base64.b64encode(b"BZh9")[:5]  # of whatever was compressed by bz2
    packed = re.findall(beginning + rb"[A-Za-z0-9+/]+=*", whole)
    assert packed
    texts = [base64.b64decode(text[: len(text) // 4 * 4]) for text in packed]
    return b"".join([whole, *(bz2.BZ2Decompressor().decompress(text) for text in texts)])
