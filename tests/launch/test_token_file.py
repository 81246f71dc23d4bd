import pathlib

import pytest

from skewless.errors import RecipeError
from skewless.launch.token_file import read_token


def test_the_token_is_what_the_file_holds(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "token"
    path.write_text(" secret\n")
    assert read_token(path) == "secret"


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (None, "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"\n", "expected the token alone"),
        ("pässword".encode(), "of ASCII characters"),
    ],
)
def test_other_files_are_refused(tmp_path: pathlib.Path, held: bytes | None, message: str) -> None:
    path = tmp_path / "token"
    if held is not None:
        path.write_bytes(held)
    with pytest.raises(RecipeError, match=f"--token-file .*{message}"):
        read_token(path)
