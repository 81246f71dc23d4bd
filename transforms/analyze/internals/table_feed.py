"""The arrays of a phase whose graph looks up vocabularies of earlier ones."""

from __future__ import annotations

import dataclasses
import pathlib
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import tensorflow as tf
from tensorflow_transform import impl_helper
from tensorflow_transform.saved import saved_transform_io_v2

from skewless.storage import is_remote, local_scratch, path_of
from skewless.transforms.analyze.combiner import Array
from skewless.transforms.analyze.feed import Derived, needed_columns, on_batches
from skewless.transforms.analyze.internals.traced import watched_reductions
from skewless.transforms.analyze.plan import Known

__all__ = ["TableFeed", "constants", "on_this_machine"]


@dataclasses.dataclass(frozen=True)
class TableFeed:
    """A phase whose graph looks up vocabularies of earlier ones: tf.Transform writes it."""

    preprocessing_fn: Callable[..., Any]
    specs: Mapping[str, tf.TypeSpec]
    fingerprint: Any
    schema: bytes
    arrays: Mapping[str, Derived]
    temp_dir: str

    def load(
        self, known: Mapping[str, Known], arrays: frozenset[str]
    ) -> Callable[[pa.RecordBatch], dict[str, Array]]:
        """Return the function to the named arrays, with the constants of earlier phases."""
        wanted = {name: self.arrays[name] for name in sorted(arrays)}
        names = sorted({tensor for array in wanted.values() for tensor in array.tensors})
        with local_scratch(self.temp_dir) as scratch, watched_reductions():
            path = f"{scratch}/graph-{uuid.uuid4().hex}"
            impl_helper.trace_and_write_v2_saved_model(
                path,
                self.preprocessing_fn,
                self.specs,
                scratch,
                self.fingerprint,
                constants(on_this_machine(known, self.temp_dir, scratch)),
                {name: name for name in names},
                None,
            )
            # Its tables read their vocabularies here and now.
            loader = saved_transform_io_v2.SavedModelLoader(path)
        schema = needed_columns(self.schema, wanted.values())
        loader.finalize([feature.name for feature in schema.feature], names)
        return on_batches(loader.apply_transform_model, wanted, schema)


def on_this_machine(known: Mapping[str, Known], temp_dir: str, scratch: str) -> Mapping[str, Known]:
    """Return the constants, vocabularies having been fetched from `temp_dir`."""
    here = dict(known)
    for name, one in known.items():
        if isinstance(one.value, str) and is_remote(temp_dir) and one.value.startswith(temp_dir):
            vocabulary = path_of(one.value)
            local = pathlib.Path(scratch) / "vocabularies" / vocabulary.name
            local.parent.mkdir(exist_ok=True)
            local.write_bytes(vocabulary.read_bytes())
            here[name] = one._replace(value=str(local))
    return here


def constants(known: Mapping[str, Known]) -> dict[str, tf.Tensor]:
    """Return what is known as tensors, by the name of the placeholder each replaces."""
    return {name: tf.constant(value, dtype) for name, (value, dtype) in known.items()}
