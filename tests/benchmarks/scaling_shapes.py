"""What a pipeline's proto says: its size, its stages, its shuffles, its side inputs."""

from __future__ import annotations

import dataclasses

from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import fn_runner

__all__ = ["Proto", "Shape", "labels", "shape_of"]

Proto = beam_runner_api_pb2.Pipeline

_PAR_DO = common_urns.primitives.PAR_DO.urn
_GROUP = common_urns.primitives.GROUP_BY_KEY.urn
_RESHUFFLE = common_urns.composites.RESHUFFLE.urn
_COMBINE = common_urns.composites.COMBINE_PER_KEY.urn


@dataclasses.dataclass(frozen=True)
class Shape:
    """A pipeline as a runner gets it.

    Attributes:
        size: Of the proto, in bytes.
        transforms: Composite ones included.
        stages: What Beam's own fusion makes of it.
        shuffles: The groupings, among them those of Reshuffles and of combiners.
        reshuffles: How many of the groupings only spread elements.
        combines: How many of them are combined before they move.
        side_inputs: How often a PCollection is read whole by every worker.
    """

    size: int
    transforms: int
    stages: int
    shuffles: int
    reshuffles: int
    combines: int
    side_inputs: int


def shape_of(proto: Proto) -> Shape:
    """Return the shape of a pipeline; fusion is that of the in-process runner."""
    steps = list(proto.components.transforms.values())
    _, stages = fn_runner.FnApiRunner().create_stages(proto)
    urns = [step.spec.urn for step in steps]
    return Shape(
        proto.ByteSize(),
        len(steps),
        len(stages),
        urns.count(_GROUP),
        urns.count(_RESHUFFLE),
        urns.count(_COMBINE),
        sum(len(_par_do(step.spec.payload).side_inputs) for step in steps if _is_par_do(step)),
    )


def labels(proto: Proto) -> list[str]:
    """Return the full names of all transforms, sorted."""
    return sorted(step.unique_name for step in proto.components.transforms.values())


def _is_par_do(step: beam_runner_api_pb2.PTransform) -> bool:
    return bool(step.spec.urn == _PAR_DO)


def _par_do(payload: bytes) -> beam_runner_api_pb2.ParDoPayload:
    return beam_runner_api_pb2.ParDoPayload.FromString(payload)
