"""Files are fetched once, whole or not at all."""

import pytest

from skewless.launch.runners.downloads import check_file, downloads_folder, fetched
from tests.launch.runners.programs import answering
from tests.servers.process import free_port


def test_a_file_is_fetched_once(tmp_path) -> None:
    with answering({"/jars/a.jar": b"a jar"}) as (address, asked):
        for _ in range(2):
            file = fetched(f"http://{address}/jars/a.jar", tmp_path / "jars")
            assert file == tmp_path / "jars" / "a.jar"
            assert file.read_bytes() == b"a jar"
    assert asked == ["GET /jars/a.jar"]


@pytest.mark.parametrize("name", ["absent", "half"])
def test_half_a_file_is_none(name: str, tmp_path) -> None:
    with (
        answering({"/half": b"some"}) as (address, _),
        pytest.raises(OSError, match=r"404|after 4 of 14 bytes"),
    ):
        fetched(f"http://{address}/{name}", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_path_of_this_machine_stays_where_it_is(tmp_path) -> None:
    file = tmp_path / "own.jar"
    file.write_bytes(b"")
    assert fetched(str(file), tmp_path / "jars") == file
    (finding,) = check_file("A jar", str(file), tmp_path / "jars", "--jar")
    assert finding.ok
    assert finding.what == f"A jar at {file}"


def test_what_is_missing_is_named_and_how_to_get_it(tmp_path) -> None:
    absent = str(tmp_path / "absent.jar")
    (finding,) = check_file("A jar", absent, tmp_path, "--jar")
    assert finding.what == f"A jar {absent}: there is no such file"
    assert finding.repair == "give one: --jar=FILE"

    url = f"http://127.0.0.1:{free_port()}/far/a.jar"
    (finding,) = check_file("A jar", url, tmp_path, "--jar")
    assert not finding.ok
    assert finding.what.startswith("A jar a.jar: ")
    assert "refused" in finding.what
    assert finding.repair == (
        f"fetch it where there is a network, put it into {tmp_path}, or give one: --jar=FILE"
    )


def test_they_are_beside_those_of_beam(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert downloads_folder() == tmp_path / ".apache_beam" / "cache"
