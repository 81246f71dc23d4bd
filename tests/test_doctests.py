import doctest
import importlib
import pkgutil

import pytest

import skewless

MODULES = sorted(m.name for m in pkgutil.walk_packages(skewless.__path__, "skewless."))


def test_every_folder_is_walked():
    assert {"skewless.errors", "skewless.launch", "skewless.transforms.rows"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_are_true(name):
    module = importlib.import_module(name)
    # An example may use any public name without saying where it comes from.
    public = {public: getattr(skewless, public) for public in skewless.__all__}
    failed, _ = doctest.testmod(module, globs={**public, **vars(module)})
    assert not failed
