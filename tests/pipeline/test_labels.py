import concurrent.futures
import json

import pytest

from skewless.errors import RecipeError
from skewless.pipeline.labels import check_label, labels_of, set_label


@pytest.fixture
def directory(tmp_path):
    for version in (1, 2, 10):
        (tmp_path / str(version)).mkdir()
        (tmp_path / str(version) / "saved_model.pb").write_text("")
    return tmp_path


def test_a_label_goes_forward_and_back(directory):
    assert labels_of(directory) == {}
    assert [set_label(directory, "stable", version) for version in (1, 10, 1)] == [None, 1, 10]
    set_label(directory, "canary", 10)
    assert labels_of(directory) == {"canary": 10, "stable": 1}
    assert json.loads((directory / "labels.json").read_text()) == labels_of(directory)


def test_a_version_must_be_there(directory):
    with pytest.raises(RecipeError, match="no version 3; the versions are 1, 2, 10"):
        set_label(directory, "stable", 3)
    (directory / "2" / "saved_model.pb").unlink()
    with pytest.raises(RecipeError, match="no version 2"):
        set_label(directory, "stable", 2)
    assert not (directory / "labels.json").exists()


@pytest.mark.parametrize("name", ["", "a/b", "a:b", ".hidden", "a b", "stable\n"])
def test_a_label_is_a_part_of_an_address(name):
    with pytest.raises(RecipeError, match="expected letters, digits"):
        check_label(name)


def test_a_damaged_file_stays_as_it_is(directory):
    (directory / "labels.json").write_text('{"stable": "one"}')
    with pytest.raises(RecipeError, match="expected an object of labels and versions"):
        set_label(directory, "stable", 1)
    assert (directory / "labels.json").read_text() == '{"stable": "one"}'


def test_labels_set_at_the_same_time_are_all_kept(directory):
    names = [f"label-{i}" for i in range(40)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: set_label(directory, name, 2), names))
    assert labels_of(directory) == dict.fromkeys(names, 2)
