import keras
import numpy as np
import pytest
import tensorflow as tf

from skewless.models.epochs import _STEPS_AT_ONCE, Epochs

ROWS, BATCH = 8 * (_STEPS_AT_ONCE + 3) + 5, 8  # more steps than one call takes, the last smaller


def make_model():
    keras.utils.set_random_seed(5)
    tf.config.experimental.enable_op_determinism()
    tensor = keras.Input([3], name="numbers")
    hidden = keras.layers.Dropout(0.5)(keras.layers.Dense(4, activation="relu")(tensor))
    model = keras.Model({"numbers": tensor}, keras.layers.Dense(1, activation="sigmoid")(hidden))
    model.compile("adam", "binary_crossentropy", metrics=["accuracy", "auc"], jit_compile=False)
    return model


@pytest.fixture
def rows():
    random = np.random.default_rng(0)
    numbers = random.normal(size=(ROWS, 3)).astype(np.float32)
    label = (numbers.sum(axis=1) > 0).astype(np.int64)
    return tf.data.Dataset.from_tensor_slices(({"numbers": numbers}, label)).batch(BATCH)


def test_epochs_are_keras_own_to_the_bit(rows):
    class_weight = {0: 1.0, 1: 3.0}
    theirs, ours = make_model(), make_model()
    history = theirs.fit(rows, epochs=2, class_weight=class_weight, shuffle=False, verbose=0)
    evaluated = theirs.evaluate(rows, verbose=0, return_dict=True)

    epochs = Epochs(ours, class_weight)
    measures = [epochs.train(rows) for _ in range(2)]
    for name, values in history.history.items():
        assert [one[name] for one in measures] == pytest.approx(values, rel=1e-6)
    assert epochs.evaluate(rows) == pytest.approx(evaluated, rel=1e-6)
    for one, other in zip(theirs.get_weights(), ours.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
