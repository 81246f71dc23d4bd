"""What the fused engine leaves to tf.Transform."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from tests.transforms.analyze.cases_rows import Tensors


class LongestOfAll(beam.PTransform):
    """The longest text of all."""

    def expand(self, batches: beam.PCollection[Any]) -> beam.PCollection[Any]:
        return batches | beam.FlatMap(_texts) | beam.CombineGlobally(_longest) | beam.Map(np.array)


def _texts(batch: tuple[Any, ...]) -> Iterator[bytes]:
    yield from batch[0].tolist()


def _longest(texts: Iterable[bytes]) -> bytes:
    return max([b"", *texts], key=lambda text: (len(text), text))


def own_analyzer(inputs: Tensors) -> Tensors:
    (longest,) = tft.experimental.ptransform_analyzer(
        inputs=[inputs["s"]],
        ptransform=LongestOfAll(),
        output_dtypes=[tf.string],
        output_shapes=[[]],
    )
    share = tf.strings.length(inputs["s"]) / tf.strings.length(longest)
    return {"share": tf.cast(share, tf.float32), "z": tft.scale_to_z_score(inputs["x"])}


def approximate(inputs: Tensors) -> Tensors:
    experimental = tft.experimental
    experimental.approximate_vocabulary(
        inputs["t"],
        4,
        vocab_filename="approximate",
        store_frequency=True,
        reserved_tokens=["<pad>"],
        weights=tf.ones_like(inputs["t"].values, tf.float32),
        file_format="text",
    )
    return {
        "s": experimental.compute_and_apply_approximate_vocabulary(
            inputs["s"],
            default_value=-1,
            top_k=5,
            num_oov_buckets=1,
            vocab_filename="s",
            weights=inputs["w"],
            file_format="text",
            store_frequency=False,
            reserved_tokens=["<pad>"],
        )
    }


FALLBACKS = (own_analyzer, approximate)
