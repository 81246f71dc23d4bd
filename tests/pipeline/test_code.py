import functools
import importlib.util
import pathlib

from skewless.pipeline.code import source_of


def load(path: pathlib.Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_neighbours_count_and_what_is_installed_does_not(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "constants_x.py").write_text("WIDTH = 3\n")
    (tmp_path / "middle_x.py").write_text("from constants_x import WIDTH\n")
    (tmp_path / "unrelated_x.py").write_text("")
    main = tmp_path / "prep_x.py"
    main.write_text("import json\nimport middle_x\ndef fn(x):\n    return x\n")
    monkeypatch.setitem(__import__("sys").modules, "prep_x", module := load(main))
    found = source_of(module.fn)
    assert set(found) == {"prep_x.py", "middle_x.py", "constants_x.py"}
    (tmp_path / "constants_x.py").write_text("WIDTH = 4\n")
    assert source_of(module.fn) != found
    assert source_of(functools.partial(module.fn, 1)) == source_of(module.fn)


def test_a_builtin_has_a_name_only() -> None:
    assert list(source_of(len)) == ["len"]
