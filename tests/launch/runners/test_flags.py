"""Options as they were given, and addresses."""

import socket

import pytest

from skewless.launch.runners.flags import Flags, address_of, is_here, listens


def test_the_last_of_two_counts_and_all_words_are_kept() -> None:
    flags = Flags(["--parallelism=2", "--label=a=b", "--parallelism=3", "--streaming"])
    assert dict(flags) == {"parallelism": "3", "label": "a=b", "streaming": "true"}
    assert len(flags.words) == 4


def test_a_default_is_for_what_was_not_given() -> None:
    found = Flags(["--a=1"]).with_defaults(a=2, b=True, c=None, d=0)
    assert found.words == ("--a=1", "--b", "--d=0")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("cluster", ("cluster", 7)),
        ("cluster:8081", ("cluster", 8081)),
        ("https://cluster:8081/flink", ("cluster", 8081)),
        ("spark://[::1]:7077", ("::1", 7077)),
        (":9", ("localhost", 9)),
    ],
)
def test_address(url: str, expected: tuple[str, int]) -> None:
    assert address_of(url, 7) == expected


def test_this_machine_is_known_by_its_names() -> None:
    assert is_here("localhost")
    assert is_here(socket.gethostname())
    assert not is_here("cluster.example")


def test_listens_says_why_nobody_is_there() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        why = listens("127.0.0.1", port)
        assert why is not None
        assert "refused" in why
        server.listen()
        assert listens("127.0.0.1", port) is None
