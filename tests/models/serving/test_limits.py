import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from skewless.errors import RecipeError
from skewless.models.serving.limits import Limits, check_depth, check_instances, too_large
from skewless.models.serving.requests import Code, ServingError

TEXT = st.text(st.sampled_from('[]{}"\\a\n'), max_size=8)
JSON = st.recursive(
    st.none() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=40,
)


def depth(value):
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


def is_refused(body, deepest):
    try:
        check_depth(body, Limits(json_depth=deepest))
    except ServingError:
        return True
    return False


@given(JSON, st.integers(1, 6))
@example([["]"]], 1)
@example(['["\\"[[', "\\\\", ["["]], 2)
def test_the_depth_is_that_of_what_is_parsed(value, deepest):
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        assert is_refused(text.encode(), deepest) == (depth(value) > deepest)


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_text_that_goes_on_in_the_next_part_is_a_text_still(monkeypatch, at_once):
    monkeypatch.setattr("skewless.models.serving.limits._AT_ONCE", at_once)
    body = b'[["[[[[[[", ["]]]]"], {"[[": []}]]'
    assert is_refused(body, 3)
    assert not is_refused(body, 4)


@given(st.binary(max_size=200) | st.text('[{"\\}]', max_size=200).map(str.encode))
def test_no_bytes_are_too_strange(body):
    is_refused(body, 3)


def test_a_deep_body_is_refused_before_it_is_parsed():
    with pytest.raises(ServingError, match="more than 64 deep in each other"):
        check_depth(b"[" * 2**20, Limits())
    check_depth(b"[[],[]]," * 1000, Limits(json_depth=2))


def test_a_request_has_so_many_instances():
    check_instances(3, Limits(instances=3))
    with pytest.raises(ServingError, match="has 4 instances; expected at most 3") as caught:
        check_instances(4, Limits(instances=3))
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert "larger than 7 bytes" in too_large(Limits(body_bytes=7))


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "1"])
def test_limits_are_whole_numbers(wrong):
    for name in ("body_bytes", "instances", "json_depth"):
        line = re.escape(f"Limits({name}={wrong!r}): expected a whole number")
        with pytest.raises(RecipeError, match=line):
            Limits(**{name: wrong})


def test_no_parser_goes_deeper():
    with pytest.raises(RecipeError, match="expected at most 1000"):
        Limits(json_depth=1001)
