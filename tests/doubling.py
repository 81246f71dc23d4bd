"""The smallest model that is saved and loaded as any other: it doubles a number."""

from __future__ import annotations

import pathlib

import numpy as np
import tensorflow as tf

from skewless.models.serving.recorded import Recorded, write_recorded

X = np.float32([0.5, -1.0])
RECORDED = Recorded(
    "predict_rows", {"x": X}, {"prediction": X * 2, "name": np.array([b"a", b""], object)}
)


class Doubling(tf.Module):
    """The model; `broken` answers with what is no number."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")], autograph=False)
    def double(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"prediction": x * 2, "name": tf.where(x > 0, "a", "")}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")], autograph=False)
    def broken(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"prediction": x / 0.0}


def save_doubling(folder: pathlib.Path) -> pathlib.Path:
    """Save the model in `folder`, with a recorded request."""
    module = Doubling()
    signatures = {"predict_rows": module.double, "broken": module.broken}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    write_recorded(folder / "assets.extra", "doubling", [RECORDED])
    return folder
