import numpy as np
import pytest
import tensorflow as tf

from skewless.errors import RunError
from skewless.pipeline.verifying_elsewhere import BATCH_ROWS, elsewhere

pytestmark = pytest.mark.integration


class _Features(tf.Module):
    def transform(self, x, word):
        lengths = tf.strings.length(word)
        return {"twice": 2 * x, "lengths/values": lengths, "upper": tf.strings.upper(word)}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    module, folder = _Features(), str(tmp_path_factory.mktemp("model") / "1")
    specs = [tf.TensorSpec([None], kind, name) for name, kind in NAMES.items()]
    signature = tf.function(module.transform).get_concrete_function(*specs)
    tf.saved_model.save(module, folder, signatures={"transform": signature})
    return folder


NAMES = {"x": tf.float32, "word": tf.string}


def test_it_answers_part_by_part(model):
    with elsewhere(model) as process:
        for rows in (1, BATCH_ROWS + 1):
            x = np.arange(rows, dtype=np.float32)
            word = np.array([b"a" * (i % 3) for i in range(rows)], object)
            found = process.transform({"x": x, "word": word})
            assert found["twice"].tobytes() == (2 * x).tobytes()
            assert found["lengths/values"].tolist() == [len(one) for one in word]
            assert found["upper"].tolist() == [one.upper() for one in word]


def test_a_process_that_dies_says_why(tmp_path):
    with elsewhere(str(tmp_path / "none")) as process:
        for _ in range(2):
            with pytest.raises(RunError, match=r"ended with code 1: .*does not exist"):
                process.transform({"x": np.zeros(1, np.float32)})
