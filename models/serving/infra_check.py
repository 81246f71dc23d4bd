"""Is an exported model able to serve? Loaded where there is TensorFlow alone, and asked.

`python -m skewless.models.serving.infra_check MODEL_VERSION_DIR` loads one version of a model,
replays its recorded requests, and prints what came of it as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from skewless.errors import SkewlessError
from skewless.models.serving.recorded import Recorded, read_recorded

__all__ = ["TOLERANCE", "InfraCheck", "answer_recorded", "check_model", "largest_difference"]

# How far a number may be from the recorded one, absolute up to 1 and relative above. Another
# processor's vector units, or another version of TensorFlow, may change the last bits.
TOLERANCE = 1e-5
# What a server of models does not have, and so the model must not need.
_NOT_NEEDED = ("apache_beam", "tensorflow_transform", "tfx_bsl", "tensorflow_metadata")
_KEPT_VARIABLES = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ")


@dataclasses.dataclass(frozen=True)
class InfraCheck:
    """What came of loading a model and asking it.

    Attributes:
        ok: Whether it could be loaded and gave the recorded answers.
        error: If not, why: one line.
        requests: How many recorded requests it was asked.
        load_seconds: How long it took to load.
        request_seconds: How long a request took, on average, after the first time.
        max_difference: The largest difference from a recorded number, see `TOLERANCE`.
        memory_bytes: The most memory that the process held.
        tensorflow: The version of TensorFlow.
    """

    ok: bool
    error: str = ""
    requests: int = 0
    load_seconds: float = 0.0
    request_seconds: float = 0.0
    max_difference: float = 0.0
    memory_bytes: int = 0
    tensorflow: str = tf.version.VERSION


class _UnfitError(SkewlessError):
    """The model does not serve as it must."""


def check_model(version_dir: str, time_limit: float = 300.0) -> InfraCheck:
    """Load a model in a clean process, and compare its answers with the recorded ones.

    The process has a few of this one's environment variables, an empty working directory and
    no GPU, and must not have loaded Beam or tf.Transform.

    Args:
        version_dir: The directory of one version.
        time_limit: After how many seconds the model is given up.
    """
    version = str(pathlib.Path(version_dir).absolute())
    command = [sys.executable, "-P", "-m", __name__, version]
    with tempfile.TemporaryDirectory(prefix="skewless-") as nowhere:
        try:
            done = subprocess.run(
                command,
                cwd=nowhere,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=time_limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return InfraCheck(False, f"the model gave no answer within {time_limit:g} seconds")
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    try:
        return InfraCheck(**json.loads(lines[-1]))
    except (IndexError, ValueError, TypeError):
        return InfraCheck(False, _died(done))


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    # Wherever this process has TensorFlow from, by an absolute path.
    path = os.pathsep.join(os.path.abspath(one) for one in sys.path if one)  # noqa: PTH100
    return {**kept, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}


def _died(done: subprocess.CompletedProcess[bytes]) -> str:
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    last = f": {said[-1][:300]}" if said else ""
    if done.returncode < 0:
        return f"the process that loaded the model was killed by signal {-done.returncode}{last}"
    return f"the process that loaded the model ended with code {done.returncode}{last}"


def answer_recorded(version_dir: str) -> InfraCheck:
    """Load a model in this process, and compare its answers with the recorded ones."""
    try:
        requests = read_recorded(version_dir)
        if not requests:
            raise _UnfitError("the model has no recorded requests; export it again")
        started = time.perf_counter()
        model = tf.saved_model.load(version_dir)
        loaded = time.perf_counter()
        differences = [largest_difference(_answer(model, one), one) for one in requests]
        warm = time.perf_counter()
        for one in requests:
            _answer(model, one)
        ended = time.perf_counter()
    except _UnfitError as error:
        return InfraCheck(False, str(error))
    except Exception as error:  # whatever a damaged model makes TensorFlow raise
        line = " ".join(str(error).split())[:300]
        return InfraCheck(False, f"{type(error).__name__}: {line}")
    return InfraCheck(
        ok=True,
        requests=len(requests),
        load_seconds=round(loaded - started, 3),
        request_seconds=round((ended - warm) / len(requests), 6),
        max_difference=max(differences),
        memory_bytes=_peak_memory(),
    )


def _answer(model: Any, request: Recorded) -> dict[str, npt.NDArray[Any]]:
    if request.signature not in model.signatures:
        raise _UnfitError(f"the model has no signature {request.signature}; export it again")
    inputs = {
        name: tf.constant(array, tf.string if array.dtype == object else None)
        for name, array in request.inputs.items()
    }
    answered = model.signatures[request.signature](**inputs)
    return {name: np.asarray(value) for name, value in answered.items()}


def largest_difference(outputs: dict[str, npt.NDArray[Any]], request: Recorded) -> float:
    """Return the largest difference from the recorded outputs.

    Raises:
        SkewlessError: If they differ by more than `TOLERANCE`, or in anything else.
    """
    largest = 0.0
    if set(outputs) != set(request.outputs):
        raise _UnfitError(
            f"{request.signature} answers with {sorted(outputs)}; "
            f"recorded is {sorted(request.outputs)}"
        )
    for name, recorded in request.outputs.items():
        found, where = outputs[name], f"{request.signature}: {name}"
        if (found.shape, found.dtype) != (recorded.shape, recorded.dtype):
            raise _UnfitError(
                f"{where} is {found.dtype} {list(found.shape)}; "
                f"recorded is {recorded.dtype} {list(recorded.shape)}"
            )
        if not np.issubdtype(found.dtype, np.number):
            if found.tolist() != recorded.tolist():
                raise _UnfitError(f"{where} is {found.tolist()}; recorded is {recorded.tolist()}")
            continue
        if not np.isfinite(found).all():
            raise _UnfitError(f"{where} is not finite: {found.tolist()}")
        expected = recorded.astype(np.float64)
        difference = np.abs(found - expected) / np.maximum(1, np.abs(expected))
        largest = max(largest, float(difference.max(initial=0)))
        # Written so that a recorded NaN is no agreement either.
        if not (difference <= TOLERANCE).all():
            raise _UnfitError(
                f"{where} differs from the recorded answer by {difference.max():.3g}; "
                f"expected {TOLERANCE:g} at most"
            )
    return largest


def _peak_memory() -> int:
    # Of this process alone; `getrusage` counts the one that it was forked from too.
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the version whose directory is the only argument, and print the result as JSON."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if len(given) != 1:
        sys.stderr.write("usage: python -m skewless.models.serving.infra_check MODEL_VERSION_DIR\n")
        return 2
    result = answer_recorded(given[0])
    loaded = [name for name in _NOT_NEEDED if name in sys.modules]
    if result.ok and loaded:
        result = InfraCheck(False, f"the model cannot be loaded without {', '.join(loaded)}")
    sys.stdout.write(f"{json.dumps(dataclasses.asdict(result))}\n")
    return 0 if result.ok else 1


if __name__ == "__main__":
    sys.exit(main())
