import errno
import pathlib

import pytest

from skewless.errors import RunError
from skewless.transforms.sinks.files import is_disk_full, whole_file, write_error


def test_appears_whole(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "deep" / "file"
    with whole_file(target) as path:
        path.write_text("half")
        assert not target.exists()
    assert target.read_text() == "half"
    assert [p.name for p in target.parent.iterdir()] == ["file"]


def test_failure_leaves_the_old_file_and_no_other(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), whole_file(target) as path:
        path.write_text(str(1 / 0))
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_full_disk_says_what_to_do(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RunError, match="free some space"), whole_file(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert is_disk_full(OSError(errno.ENOSPC, ""))
    assert "permissions" in str(write_error(tmp_path, PermissionError(errno.EACCES, "denied")))
