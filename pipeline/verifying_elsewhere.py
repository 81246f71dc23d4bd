"""An exported model's `transform` in a process whose TensorFlow computes as on an older CPU.

Two variables, both read when TensorFlow is loaded, are set for the process:

- `TF_ENABLE_ONEDNN_OPTS=0`: kernels of oneDNN (softmax, convolutions, fused layers) give way to
  TensorFlow's own.
- `ONEDNN_MAX_CPU_ISA=SSE41`: what is left of oneDNN, its multiplication of matrices, uses SSE4.1
  where it would use AVX2 or AVX-512.

Both change bits: on TensorFlow 2.21 the first those of `tf.nn.softmax`, the second those of
`tf.matmul`. Neither changes how elementwise functions (`exp`, `log1p`, `sigmoid`) are computed:
their vector code was chosen when TensorFlow was compiled, and is the same on every machine that
runs that build. So this is no proof for another build, as for ARM: run `verify` there.

`python -m skewless.pipeline.verifying_elsewhere MODEL_VERSION_DIR FOLDER` is that process.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from skewless.errors import RunError

__all__ = ["BATCH_ROWS", "Elsewhere", "elsewhere"]

Arrays = Mapping[str, npt.NDArray[Any]]

BATCH_ROWS = 1024
_SWITCHES = {
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "-1",
}
_ROWS, _FEATURES = "rows.pickle", "features.pickle"
_DONE = "features are written\n"


class Elsewhere:
    """The process, as `elsewhere` gives it.

    Args:
        process: The process, with pipes.
        folder: Where rows and features are passed.
        notices: What the process writes to standard error.
    """

    def __init__(
        self, process: subprocess.Popen[str], folder: pathlib.Path, notices: IO[bytes]
    ) -> None:
        self._process, self._folder, self._notices = process, folder, notices

    def transform(self, raw: Arrays) -> Arrays:
        """Return the features of raw rows, computed in batches of `BATCH_ROWS`.

        Args:
            raw: Arrays by the names of the signature's inputs.

        Raises:
            RunError: If the process fails.
        """
        (self._folder / _ROWS).write_bytes(pickle.dumps(dict(raw), protocol=5))
        asked, answers = self._process.stdin, self._process.stdout
        assert asked is not None
        assert answers is not None
        # Who died says so in the answer.
        with contextlib.suppress(BrokenPipeError):
            # Not through its buffer, which cannot be closed while something is left in it.
            os.write(asked.fileno(), b"\n")
        for line in answers:
            # Libraries may write something too.
            if line == _DONE:
                found: Arrays = pickle.loads((self._folder / _FEATURES).read_bytes())
                return found
        code = self._process.wait()
        self._notices.seek(0)
        said = self._notices.read().decode("utf-8", "replace").strip().splitlines()
        last = f": {said[-1][:300]}" if said else ""
        raise RunError(f"the process that computes without oneDNN ended with code {code}{last}")


@contextlib.contextmanager
def elsewhere(model: str) -> Iterator[Elsewhere]:
    """Start the process, for a `with` block.

    Args:
        model: The directory of one version.
    """
    version = str(pathlib.Path(model).absolute())
    # Wherever this process has TensorFlow from, by an absolute path.
    path = os.pathsep.join(os.path.abspath(one) for one in sys.path if one)  # noqa: PTH100
    with (
        tempfile.TemporaryDirectory(prefix="skewless-") as folder,
        tempfile.TemporaryFile() as notices,
        subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, version, folder],
            env={**os.environ, **_SWITCHES, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=notices,
            text=True,
        ) as process,
    ):
        try:
            yield Elsewhere(process, pathlib.Path(folder), notices)
        finally:
            process.kill()


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute the features of `FOLDER/rows.pickle` each time that a line is read."""
    import tensorflow as tf

    model, folder = sys.argv[1:] if arguments is None else arguments
    loaded = tf.saved_model.load(model)
    for _ in sys.stdin:
        raw = pickle.loads((pathlib.Path(folder) / _ROWS).read_bytes())
        rows = len(next(iter(raw.values())))
        found = []
        for at in range(0, max(rows, 1), BATCH_ROWS):
            batch = {name: tf.constant(a[at : at + BATCH_ROWS]) for name, a in raw.items()}
            features = loaded.signatures["transform"](**batch)
            found.append({name: np.asarray(value) for name, value in features.items()})
        whole = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
        (pathlib.Path(folder) / _FEATURES).write_bytes(pickle.dumps(whole, protocol=5))
        sys.stdout.write(_DONE)
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
