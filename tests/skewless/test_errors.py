import pickle

import pytest

from skewless.errors import DataError, RecipeError, RunError, SkewlessError, no_such_column


@pytest.mark.parametrize(
    ("kind", "code"), [(SkewlessError, 1), (RecipeError, 2), (RunError, 1), (DataError, 1)]
)
def test_every_error_has_its_exit_code_and_travels_between_processes(kind, code):
    error = pickle.loads(pickle.dumps(kind("what was wrong")))
    assert type(error) is kind
    assert str(error) == "what was wrong"
    assert error.exit_code == code
    assert isinstance(error, SkewlessError)


def test_an_unknown_column_is_answered_with_the_nearest_or_with_all():
    near = no_such_column("orgin", ["dest", "origin"], 'Where("orgin")')
    assert str(near) == 'Where("orgin"): there is no column "orgin"; did you mean "origin"?'
    far = no_such_column("xyz", ["origin", "dest"], "here")
    assert str(far) == 'here: there is no column "xyz"; the columns are dest, origin'
