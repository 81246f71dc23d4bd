import dataclasses
import shutil

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from skewless.errors import RecipeError
from skewless.models.inputs import Column, read_inputs


def test_columns_follow_from_the_transformed_schema(world):
    inputs = read_inputs(world.transform_graph, "late")
    assert inputs.columns == (
        Column("carrier", "id", 1, 0, 4),
        Column("n", "numbers"),
        Column("tags", "ids", 1, -1, 4),
        Column("x_pair", "numbers", 2),
        Column("x_scaled", "numbers"),
    )
    assert (inputs.label, inputs.is_class, inputs.classes) == ("late", True, None)


def test_a_label_vocabulary_gives_the_classes_and_a_float_is_a_number(make_world):
    kinds = read_inputs(make_world("multiclass").transform_graph, "kind")
    assert (kinds.is_class, kinds.classes) == (True, 3)
    delay = read_inputs(make_world("regression").transform_graph, "delay")
    assert (delay.is_class, delay.classes) == (False, None)


def test_pack_shifts_categories_and_fills_lists(world):
    inputs = read_inputs(world.transform_graph, "late")
    tags = tf.ragged.constant([[-1, 2], [], [0]], dtype=tf.int64)
    features = {
        "carrier": tf.constant([0, 4, 2], tf.int64),
        "n": tf.constant([7, -1, 0], tf.int64),
        "x_pair": tf.constant([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
        "x_scaled": tf.constant([9.0, 8.0, 7.0]),
    }
    expected = {
        "numbers": [[7, 1, 2, 9], [-1, 3, 4, 8], [0, 5, 6, 7]],
        "ids": [[0], [4], [2]],
        "list_tags": [[1, 4], [0, 0], [2, 0]],
    }
    for value in (tags, tags.to_sparse()):
        packed = inputs.pack({**features, "tags": value})
        assert {name: tensor.numpy().tolist() for name, tensor in packed.items()} == expected
    assert {n: t.shape[1] for n, t in packed.items() if n != "list_tags"} == {
        name: width for name, width in inputs.packed_widths().items() if width
    }


def test_numbers_of_any_count_become_their_mean(world):
    inputs = dataclasses.replace(
        read_inputs(world.transform_graph, "late"), columns=(Column("o", "numbers"),)
    )
    value = tf.ragged.constant([[1.0, 2.0], [], [5.0]])
    np.testing.assert_array_equal(inputs.pack({"o": value})["numbers"], [[1.5], [0.0], [5.0]])


def _altered(world, tmp_path, change):
    graph = tmp_path / "graph"
    shutil.copytree(world.transform_graph, graph)
    path = graph / "transformed_metadata" / "schema.pbtxt"
    schema = text_format.Parse(path.read_text(), schema_pb2.Schema())
    change({feature.name: feature for feature in schema.feature}, schema)
    path.write_text(text_format.MessageToString(schema))
    return str(graph)


def test_a_label_that_is_not_there_is_named_with_the_nearest(world):
    with pytest.raises(RecipeError, match='no column "lat"; did you mean "late"'):
        read_inputs(world.transform_graph, "lat")


@pytest.mark.parametrize(
    ("name", "message"),
    [("late", 'label "late" is a string'), ("n", 'feature "n" is a string')],
)
def test_strings_cannot_be_learnt(world, tmp_path, name, message):
    def as_string(features, _):
        features[name].type = schema_pb2.BYTES

    with pytest.raises(RecipeError, match=message):
        read_inputs(_altered(world, tmp_path, as_string), "late")


def test_a_label_of_several_values_is_refused(world):
    with pytest.raises(RecipeError, match='label "tags": expected one value in every row'):
        read_inputs(world.transform_graph, "tags")


def test_a_label_alone_is_refused(world, tmp_path):
    def only_label(features, schema):
        label = schema_pb2.Feature()
        label.CopyFrom(features["late"])
        del schema.feature[:]
        schema.feature.append(label)

    with pytest.raises(RecipeError, match="nothing but the label"):
        read_inputs(_altered(world, tmp_path, only_label), "late")
