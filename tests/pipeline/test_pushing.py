import concurrent.futures
import dataclasses
import json
import shutil

import pytest

from skewless.errors import RecipeError, RunError
from skewless.models.serving.infra_check import InfraCheck, answer_recorded
from skewless.pipeline import pushing
from skewless.pipeline.artifacts import RunPaths, digest_tree, read_manifest, write_json
from skewless.pipeline.labels import labels_of
from skewless.pipeline.pushing import PUSHED, Push, push
from tests.doubling import save_doubling
from tests.pipeline.pushable import FOUND, IDENTITY, VERSION, evaluate, make_run, verify


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_doubling(tmp_path_factory.mktemp("saved") / "1")


@pytest.fixture
def paths(saved, tmp_path):
    return make_run(tmp_path / "run", saved)


@pytest.fixture
def to(tmp_path):
    return tmp_path / "models" / "small"


def pushed(paths, to, **options):
    # The check itself, in this process: a clean one has a test of its own.
    return push(Push(paths.root, to, **options), answer_recorded)


def record_of(path):
    return json.loads((path / PUSHED).read_text())


def test_a_model_appears_with_its_papers(paths, to):
    done = pushed(paths, to)
    assert (done.path, done.already, done.overridden) == (to / str(VERSION), False, ())
    model = paths.newest_model()
    assert digest_tree(done.path, without=[PUSHED]) == digest_tree(model)
    assert answer_recorded(str(done.path)).ok
    record = record_of(done.path)
    assert record["version"] == VERSION
    assert record["model_digest"] == digest_tree(model)
    assert record["graph_digest"] == digest_tree(paths.transform_graph)
    assert (record["run"], record["to"]) == (str(paths.root), str(to))
    assert record["identity"] == IDENTITY
    assert record["blessing"]["blessed"]
    assert record["verify"]["verdict"] == "identical"
    assert record["infra_check"]["ok"]
    assert record["override"] is None
    assert record["user"]
    assert record["host"]
    assert read_manifest(paths.root)["pushes"] == [record]
    assert sorted(path.name for path in to.iterdir()) == [".lock", str(VERSION)]


def test_the_same_model_again_changes_nothing(paths, to):
    first = record_of(pushed(paths, to).path)
    assert pushed(paths, to).already
    assert record_of(to / str(VERSION)) == first
    assert read_manifest(paths.root)["pushes"] == [first]
    pushed(paths, to.with_name("other"))
    assert len(read_manifest(paths.root)["pushes"]) == 2


def test_another_model_of_the_version_is_never_overwritten(paths, to):
    there = to / str(VERSION)
    shutil.copytree(paths.newest_model(), there)
    (there / "assets.extra" / "model.json").write_text("{}")
    with pytest.raises(RunError, match="another model is there already"):
        pushed(paths, to)
    (there / "saved_model.pb").unlink()
    with pytest.raises(RunError, match="or what is left of one"):
        pushed(paths, to)
    assert not (there / PUSHED).exists()


def not_blessed(paths):
    evaluate(paths, blessed=False)
    return "not blessed .auc 0.4, expected at least 0.5."


def not_evaluated(paths):
    manifest = read_manifest(paths.root)
    del manifest["stages"]["evaluate"]
    write_json(paths.manifest, manifest)
    return "not evaluated"


def blessed_another(paths):
    evaluate(paths, blessed=True, version=VERSION - 1)
    return "not evaluated"


def not_verified(paths):
    (paths.root / "verify.json").unlink()
    return "not verified"


def verified_another(paths):
    path = paths.newest_model() / "assets.extra" / "model.json"
    path.write_text("{}")
    return "another model"


def differs(paths):
    verify(paths, dataclasses.replace(FOUND, differing=1, bits=1))
    return "1 values that differ"


REASONS = [not_blessed, not_evaluated, blessed_another, not_verified, verified_another, differs]


@pytest.mark.parametrize("spoil", REASONS)
def test_what_speaks_against_it_needs_a_reason(paths, to, spoil):
    words = spoil(paths)
    with pytest.raises(RunError, match=f"not pushed: .*{words}.*--override") as caught:
        pushed(paths, to)
    assert "\n" not in str(caught.value)
    assert not to.exists()
    done = pushed(paths, to, override="the old one is worse")
    assert len(done.overridden) == 1
    record = record_of(done.path)
    assert record["override"] == "the old one is worse"
    assert record["overridden"] == list(done.overridden)
    assert read_manifest(paths.root)["pushes"] == [record]


def test_no_reason_pushes_what_cannot_serve(paths, to):
    def refuse(path: str) -> InfraCheck:
        return InfraCheck(False, "prediction is not finite")

    for override in (None, "I know better"):
        with pytest.raises(RunError, match="it cannot serve: prediction is not finite"):
            push(Push(paths.root, to, override=override), refuse)
    assert not to.exists()
    assert "pushes" not in read_manifest(paths.root)


def test_a_label_is_set_with_the_push(paths, to, saved, tmp_path):
    assert pushed(paths, to, label="stable").label_before is None
    newer = make_run(tmp_path / "newer", saved, VERSION + 5)
    assert pushed(newer, to, label="stable").label_before == VERSION
    assert pushed(paths, to, label="old").already
    assert labels_of(to) == {"stable": VERSION + 5, "old": VERSION}


def test_wrong_arguments_are_said_at_once(tmp_path):
    for wrong, words in (({"override": " "}, "the reason"), ({"label": "a/b"}, "a/b")):
        with pytest.raises(RecipeError, match=words):
            Push(tmp_path, tmp_path, **wrong)
    with pytest.raises(RunError, match="there is no run here"):
        push(Push(tmp_path, tmp_path / "to"))


def test_a_push_that_is_stopped_leaves_nothing_to_load(paths, to, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pushing, "move", stop)
        with pytest.raises(KeyboardInterrupt):
            pushed(paths, to)
    assert [path.name for path in to.iterdir()] == [".lock"]
    # As a kill leaves it, which no cleaning up follows.
    (to / f".{VERSION}.partial" / "assets").mkdir(parents=True)
    (to / f".{VERSION}.partial" / "left").write_text("over")
    assert not (pushed(paths, to).path / "left").exists()
    assert not list(to.glob(".*.partial"))


def test_what_arrived_otherwise_is_refused(paths, to, monkeypatch):
    monkeypatch.setattr(pushing.shutil, "copyfileobj", lambda source, file: file.write(b"?"))
    with pytest.raises(RunError, match="did not arrive as it was sent; push again"):
        pushed(paths, to)
    assert [path.name for path in to.iterdir()] == [".lock"]


def test_pushes_at_the_same_time_are_one(saved, to, tmp_path):
    runs = [make_run(tmp_path / f"run-{i}", saved) for i in range(4)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda run: pushed(run, to), runs))
    assert sorted(one.already for one in done) == [False, True, True, True]


def test_the_newest_model_is_pushed(paths, to, saved):
    shutil.copytree(saved, paths.model / str(VERSION + 1))
    evaluate(paths, blessed=True, version=VERSION + 1)
    verify(RunPaths(paths.root))
    assert pushed(paths, to).path.name == str(VERSION + 1)
