"""The public face: what it promises is there, and nothing else is promised."""

import inspect
import pathlib

import pytest

import skewless as sk


@pytest.mark.parametrize("name", sk.__all__)
def test_name_can_be_loaded_and_is_documented(name: str) -> None:
    value = getattr(sk, name)
    assert inspect.getdoc(value)


def test_names_are_those_of_the_table_and_of_the_type_checkers_imports() -> None:
    assert sorted(sk.__all__) == sk.__all__
    assert set(sk.__all__) == set(sk._HOME)
    text = pathlib.Path(sk.__file__).read_text()
    checked = text.split("if TYPE_CHECKING:")[1].split("\n_HOMES")[0]
    for name in sk.__all__:
        assert name in checked.replace(",", " ").replace("(", " ").split()


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = sk.Nothing
