"""What a runner needs besides Python: fetched once, and kept beside Beam's own downloads."""

from __future__ import annotations

import http.client
import os
import pathlib
import shutil
import urllib.parse
import urllib.request
from collections.abc import Iterator

from skewless.launch.runners.flags import Finding

__all__ = ["check_file", "downloads_folder", "fetched"]

# For each answer of the other side, not for the whole file.
_ANSWER_SECONDS = 10.0


def downloads_folder() -> pathlib.Path:
    """Return the folder in which Beam keeps what it has fetched."""
    return pathlib.Path("~/.apache_beam/cache").expanduser()


def fetched(url: str, folder: pathlib.Path) -> pathlib.Path:
    """Return the local file of a path or URL, fetched unless it was before.

    Args:
        url: A path of this machine, or a URL.
        folder: Where files are kept, by their names.

    Raises:
        OSError: If there is none, or it cannot be reached.
    """
    if not urllib.parse.urlsplit(url).scheme:
        file = pathlib.Path(url)
        if not file.is_file():
            raise FileNotFoundError("there is no such file")
        return file
    file = folder / url.rpartition("/")[2]
    if file.is_file():
        return file
    folder.mkdir(parents=True, exist_ok=True)
    # Of another process that fetches it too, this is another file; and half of one is none.
    partial = folder / f".{file.name}.{os.getpid()}"
    try:
        with (
            partial.open("wb") as sink,
            urllib.request.urlopen(url, timeout=_ANSWER_SECONDS) as answer,
        ):
            shutil.copyfileobj(answer, sink)
            size, wanted = sink.tell(), answer.headers.get("Content-Length")
        # The library takes a lost connection for the end.
        if wanted is not None and size != int(wanted):
            raise OSError(f"the connection was lost after {size} of {wanted} bytes")
        partial.replace(file)
    except http.client.HTTPException as error:
        raise OSError(str(error)) from error
    finally:
        partial.unlink(missing_ok=True)
    return file


def check_file(what: str, url: str, folder: pathlib.Path, option: str) -> Iterator[Finding]:
    """See that a file is there, or can be fetched; what was fetched stays.

    Args:
        what: What it is.
        url: As in `fetched`.
        folder: As in `fetched`.
        option: The option that names another one.
    """
    try:
        file = fetched(url, folder)
    except OSError as error:
        where = url.rpartition("/")[2] if "://" in url else url
        repair = f"give one: {option}=FILE"
        if "://" in url:
            repair = f"fetch it where there is a network, put it into {folder}, or {repair}"
        yield Finding(f"{what} {where}: {getattr(error, 'reason', error)}", False, repair)
    else:
        yield Finding(f"{what} at {file}")
