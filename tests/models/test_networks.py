import pickle
import subprocess
import sys

import pytest

from skewless.errors import RecipeError
from skewless.models.networks import Dnn, Linear, WideAndDeep


def test_settings_are_readable_without_tensorflow():
    code = (
        "import sys, skewless.models.networks as n; n.WideAndDeep([8]);"
        "sys.exit(bool({'tensorflow', 'keras', 'apache_beam'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_lists_become_tuples_and_settings_pickle():
    network = WideAndDeep([64, 32], dropout=0.2, class_weight={0: 1.0, 1: 2.0})
    assert network.hidden == (64, 32)
    assert pickle.loads(pickle.dumps(network)) == network


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Dnn([]), "hidden"),
        (lambda: Dnn([16, 0]), "hidden"),
        (lambda: Dnn([16], dropout=1.0), "dropout"),
        (lambda: Dnn([16], embedding_dim=0), "embedding_dim"),
        (lambda: Linear(epochs=0), "epochs"),
        (lambda: Linear(patience=-1), "patience"),
        (lambda: Linear(batch_size=1.5), "batch_size"),
        (lambda: Linear(learning_rate=float("nan")), "learning_rate"),
        (lambda: Linear(l2=-1), "l2"),
        (lambda: Linear(class_weight="equal"), "class_weight"),
        (lambda: Linear(class_weight={0: -1.0}), "class_weight"),
    ],
)
def test_wrong_settings_are_named(make, named):
    with pytest.raises(RecipeError, match=rf"^(Dnn|Linear): {named} is .*expected") as caught:
        make()
    assert "\n" not in str(caught.value)


def test_embeddings_grow_with_the_categories():
    network = Dnn([8])
    assert [network.embedding_width(n) for n in (1, 4, 100, 10**6)] == [1, 2, 10, 32]
    assert Dnn([8], embedding_dim=5).embedding_width(10**6) == 5
