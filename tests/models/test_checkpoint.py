import keras
import numpy as np
import pytest

from skewless.models.checkpoint import Checkpoint, save_atomically


@pytest.fixture
def model():
    tensor = keras.Input([2], name="numbers")
    value = keras.layers.Dropout(0.5)(keras.layers.Dense(3)(tensor))
    model = keras.Model(tensor, value)
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def _recorded(model, losses, purpose="this"):
    state = Checkpoint(purpose)
    for loss in losses:
        model.set_weights([np.full(w.shape, loss) for w in model.weights])
        state.record(model, {"val_loss": loss}, "val_loss")
    return state


def test_the_best_epoch_is_the_first_of_the_lowest_loss(model):
    state = _recorded(model, [0.5, 0.3, 0.4, 0.3])
    assert state.best_epoch == 1
    assert {float(value) for array in state.best for value in array.flat} == {np.float32(0.3)}


def test_without_a_monitor_the_last_epoch_is_the_best(model):
    state = Checkpoint("this")
    for _ in range(3):
        state.record(model, {"loss": 1.0}, None)
    assert state.best_epoch == 2


def test_what_is_saved_is_loaded(model, tmp_path):
    state = _recorded(model, [0.5, 0.7])
    state.save(tmp_path / "checkpoint.npz")
    loaded = Checkpoint.load(tmp_path / "checkpoint.npz", "this")
    assert (loaded.history, loaded.best_epoch) == (state.history, state.best_epoch)
    for name in ("best", "variables"):
        for one, other in zip(getattr(state, name), getattr(loaded, name), strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype


def test_restoring_brings_back_weights_optimizer_and_random_state(model):
    rows = np.ones((8, 2), np.float32)
    state = _recorded(model, [0.5])
    expected = np.asarray(model(rows, training=True))
    model.fit(rows, np.zeros((8, 3)), verbose=0)
    assert int(model.optimizer.iterations.numpy()) == 1
    state.restore(model)
    assert int(model.optimizer.iterations.numpy()) == 0
    np.testing.assert_array_equal(np.asarray(model(rows, training=True)), expected)


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_cut_file_is_a_fresh_start(model, tmp_path, keep):
    path = tmp_path / "checkpoint.npz"
    _recorded(model, [0.5]).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    assert Checkpoint.load(path, "this") == Checkpoint("this")


def test_what_is_no_checkpoint_or_anothers_is_a_fresh_start(model, tmp_path):
    path = tmp_path / "checkpoint.npz"
    assert Checkpoint.load(path, "this") == Checkpoint("this")
    path.write_bytes(b"not a checkpoint")
    assert Checkpoint.load(path, "this") == Checkpoint("this")
    _recorded(model, [0.5], purpose="other").save(path)
    assert Checkpoint.load(path, "this") == Checkpoint("this")


def test_a_failed_write_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(partial):
        partial.write_text("new, but not all of")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_atomically(path, fail)
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]
    assert path.read_text() == "old"
