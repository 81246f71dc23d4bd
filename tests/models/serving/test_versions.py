import json
import threading

import pytest

from skewless.errors import RecipeError
from skewless.models.serving.requests import Code, ServingError
from skewless.models.serving.versions import LABELS, Versions, Watching, read_labels


class Thing:
    """What stands for a version: its name, and whether it was closed."""

    def __init__(self, path):
        if "bad" in (path / "saved_model.pb").read_text():
            raise ValueError("no model at all")
        self.path, self.closed = path, threading.Event()

    def close(self):
        self.closed.set()


@pytest.fixture
def put(tmp_path):
    def put(version, text="good"):
        folder = tmp_path / str(version)
        folder.mkdir(exist_ok=True)
        (folder / "saved_model.pb").write_text(text)

    return put


@pytest.fixture
def make(tmp_path):
    made = []

    def make(**options):
        seen = []
        made.append(Versions(tmp_path, Thing, Watching(seconds=0.02, **options), seen.append))
        made[-1].seen = seen
        made[-1].start()
        return made[-1]

    yield make
    for versions in made:
        versions.close()


def states(versions):
    return {s.version: s.state for s in versions.statuses()}


def until(condition):
    for _ in range(500):
        if condition():
            return
        threading.Event().wait(0.02)
    raise AssertionError("it did not come to pass")


def test_the_newest_is_served(put, make):
    put(1)
    put(3)
    versions = make()
    assert versions.get().path.name == "3"
    assert states(versions) == {3: "AVAILABLE"}


def test_a_new_version_takes_the_place_of_the_old(put, make):
    put(1)
    versions = make()
    old = versions.get()
    put(2)
    until(lambda: versions.get().path.name == "2")
    assert old.closed.wait(10)
    until(lambda: states(versions) == {2: "AVAILABLE", 1: "END"})
    with pytest.raises(ServingError, match="version 1 is not served; versions 2 are") as error:
        versions.get(1)
    assert error.value.code is Code.NOT_FOUND
    loading = [s for s in versions.seen if s.get(2) == "LOADING"]
    assert all(s[1] == "AVAILABLE" for s in loading)


def test_a_bad_version_is_refused_until_it_changes(put, make):
    put(1)
    versions = make()
    put(2, "bad")
    until(lambda: states(versions).get(2) == "END")
    assert versions.get().path.name == "1"
    assert "no model at all" in versions.statuses()[0].error_message
    assert versions.statuses()[0].error_code == "INTERNAL"
    tried = len([s for s in versions.seen if s.get(2) == "LOADING"])
    threading.Event().wait(0.1)
    assert len([s for s in versions.seen if s.get(2) == "LOADING"]) == tried
    put(2, "good after all")
    until(lambda: versions.get().path.name == "2")


def test_labels_keep_versions_and_move(put, make, tmp_path):
    put(1)
    put(2)
    (tmp_path / LABELS).write_text(json.dumps({"stable": 1, "canary": 2}))
    versions = make()
    assert versions.get(label="stable").path.name == "1"
    assert versions.get(label="canary").path.name == "2"
    put(3)
    until(lambda: versions.get().path.name == "3")
    assert versions.get(label="stable").path.name == "1"
    (tmp_path / LABELS).write_text(json.dumps({"stable": 2}))
    until(lambda: versions.get(label="stable").path.name == "2")
    until(lambda: states(versions)[1] == "END")
    with pytest.raises(ServingError, match='no label "canary"; the labels are stable'):
        versions.get(label="canary")


def test_labels_of_versions_that_are_not_served_are_refused(put, make):
    put(1)
    versions = make()
    with pytest.raises(ServingError, match="version 7 is not served") as error:
        versions.set_labels({"stable": 7})
    assert error.value.code is Code.FAILED_PRECONDITION
    versions.set_labels({"stable": 1})
    assert versions.get(label="stable") is versions.get()


def test_a_label_file_that_is_no_json_changes_nothing(put, make, tmp_path):
    put(1)
    (tmp_path / LABELS).write_text(json.dumps({"stable": 1}))
    versions = make()
    (tmp_path / LABELS).write_text("{")
    versions.look()
    assert versions.get(label="stable").path.name == "1"
    with pytest.raises(RecipeError, match="no JSON"):
        read_labels(tmp_path)
    (tmp_path / LABELS).write_text('{"stable": "1"}')
    with pytest.raises(RecipeError, match="expected an object of labels and versions"):
        read_labels(tmp_path)


def test_several_newest(put, make):
    for version in (1, 2, 3):
        put(version)
    assert set(states(make(newest=2))) == {3, 2}


def test_an_emptied_folder_goes_on_with_what_it_has(put, make, tmp_path):
    put(1)
    versions = make()
    (tmp_path / "1" / "saved_model.pb").unlink()
    versions.look()
    (tmp_path / "1").rmdir()
    versions.look()
    assert versions.get().path.name == "1"


def test_nothing_to_serve(make, put):
    with pytest.raises(RecipeError, match="nothing to serve: expected a SavedModel"):
        make()
    put(1, "bad")
    with pytest.raises(RecipeError, match="nothing to serve: cannot be loaded: no model at all"):
        make()


@pytest.mark.parametrize("options", [{"newest": 0}, {"seconds": 0}])
def test_wrong_options_are_refused(options):
    with pytest.raises(RecipeError, match=f"{next(iter(options))}="):
        Watching(**options)
