"""A path on any Beam file system but this machine's, by pathlib's own methods.

Object stores have no directories and no renaming: a file appears whole when it is closed, a
directory is what names begin with, and moving is copying and deleting.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import importlib.util
import os
import pathlib
import posixpath
import re
from collections.abc import Iterator
from typing import BinaryIO

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

__all__ = ["SCHEME", "RemotePath", "client_errors"]

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://?(.*)")
# The clients that Beam does not come with, and what installs them.
_EXTRAS = {"s3": ("boto3", "aws"), "hdfs": ("hdfs", "hdfs")}
_MOST_WORDS = 500
# Where the exceptions come from that are no OSError, though a file could not be reached.
_CLIENTS = ("apache_beam.", "boto", "google.", "hdfs.", "requests.", "urllib3.")


@contextlib.contextmanager
def client_errors(path: object) -> Iterator[None]:
    """Turn what the clients of file systems raise into an OSError of one line."""
    try:
        yield
    except Exception as error:
        known = isinstance(error, BeamIOError) or type(error).__module__.startswith(_CLIENTS)
        if not known:
            raise
        line = " ".join(str(error).split())[:_MOST_WORDS]
        raise OSError(f"{path}: {type(error).__name__}: {line}") from error


@functools.total_ordering
class RemotePath:
    """A file or directory with a scheme; methods mean what they mean in pathlib.

    Args:
        url: `<scheme>://<bucket or root>/<path>`.

    Raises:
        OSError: From methods, whatever goes wrong with the file system.

    >>> RemotePath("gs://b/runs/part-0.parquet").stem
    'part-0'
    """

    def __init__(self, url: str) -> None:
        match = SCHEME.match(url)
        if match is None:
            raise ValueError(f"{url}: has no scheme; expected one such as gs://")
        # pathlib makes one slash of two; whoever joined by it gets the second one back.
        self._url = f"{match[1]}://{posixpath.normpath(match[2]).lstrip('/')}"

    def __str__(self) -> str:
        return self._url

    def __repr__(self) -> str:
        return f"RemotePath({self._url!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and self._url == other._url

    def __lt__(self, other: RemotePath) -> bool:
        return self._url < other._url

    def __hash__(self) -> int:
        return hash(self._url)

    def __truediv__(self, name: str | os.PathLike[str]) -> RemotePath:
        return RemotePath(f"{self._url}/{os.fspath(name)}")

    # --- Names ------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The last part."""
        return posixpath.basename(self._url)

    @property
    def stem(self) -> str:
        """The last part without its ending."""
        return posixpath.splitext(self.name)[0]

    @property
    def suffix(self) -> str:
        """The ending of the last part."""
        return posixpath.splitext(self.name)[1]

    @property
    def parent(self) -> RemotePath:
        """The directory that it is in."""
        return RemotePath(posixpath.dirname(self._url))

    def with_name(self, name: str) -> RemotePath:
        """Return its neighbour of another name."""
        return self.parent / name

    def relative_to(self, root: pathlib.Path | RemotePath) -> pathlib.PurePosixPath:
        """Return what follows `root`."""
        inside = f"{root}/"
        if not self._url.startswith(inside):
            raise ValueError(f"{self} is not below {root}")
        return pathlib.PurePosixPath(self._url.removeprefix(inside))

    # --- Looking ----------------------------------------------------------------------

    def exists(self) -> bool:
        """Say whether there is such a file, or a directory (of an object store: not empty)."""
        return self._is_there() if self.has_directories() else bool(self._stored())

    def is_dir(self) -> bool:
        """Say whether there is something below."""
        return next(self._below(), None) is not None

    def is_file(self) -> bool:
        """Say whether there is such a file."""
        if self.has_directories():
            return self._is_there() and not self.is_dir()
        return self in self._stored()

    def has_directories(self) -> bool:
        """Say whether the file system knows directories, and can rename.

        Raises:
            OSError: If there is no such file system, or its client is not installed.
        """
        client, extra = _EXTRAS.get(self._url.partition("://")[0], ("", ""))
        if client and importlib.util.find_spec(client) is None:
            raise OSError(f"{self}: {client} is not installed; pip install 'skewless[{extra}]'")
        try:
            with client_errors(self):
                return bool(FileSystems.get_filesystem(self._url).has_dirs())
        except ValueError as error:
            raise OSError(f"{self}: {error}") from None

    def _is_there(self) -> bool:
        self.has_directories()
        with client_errors(self):
            return bool(FileSystems.exists(self._url))

    def modified(self) -> float:
        """Return when the file was written last, in seconds since 1970."""
        with client_errors(self):
            return float(FileSystems.last_updated(self._url))

    def iterdir(self) -> Iterator[RemotePath]:
        """Yield what is in the directory, sorted, itself files or directories."""
        names = {str(path.relative_to(self)).split("/")[0] for path in self._below()}
        yield from (self / name for name in sorted(names))

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """Yield what is in the directory and has such a name."""
        yield from (path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, pattern))

    def rglob(self, pattern: str) -> Iterator[RemotePath]:
        """Yield the files in the directory and those below that have such a name."""
        yield from (path for path in self.files() if fnmatch.fnmatchcase(path.name, pattern))

    def files(self) -> list[RemotePath]:
        """Return every file in the directory and those below, sorted."""
        return sorted(self._below())

    def _stored(self) -> list[RemotePath]:
        """Return the file, or every file below, of an object store: in one request.

        Beam makes a new client for each, which for S3 takes longer than the request.
        """
        with client_errors(self):
            found = FileSystems.match([f"{self._url}**"])[0].metadata_list
        paths = (RemotePath(metadata.path) for metadata in found)
        # A name that only begins alike is a neighbour's.
        return sorted(p for p in paths if p == self or p._url.startswith(f"{self._url}/"))

    def _below(self) -> Iterator[RemotePath]:
        if not self.has_directories():
            yield from (path for path in self._stored() if path != self)
            return
        try:
            found = FileSystems.match([f"{self._url}/*"])[0].metadata_list
        except BeamIOError:
            return  # there is no such directory, or it is a file
        for metadata in found:
            path = RemotePath(metadata.path)
            # A directory has no size; a file may have none either.
            inner = iter(()) if metadata.size_in_bytes else path._below()
            first = next(inner, None)
            if first is None:
                if metadata.size_in_bytes or not path._is_listed():
                    yield path
                continue
            yield first
            yield from inner

    def _is_listed(self) -> bool:
        """Say whether it is a directory, an empty one."""
        try:
            FileSystems.match([f"{self._url}/*"])
        except BeamIOError:
            return False
        return True

    # --- Reading and writing ----------------------------------------------------------

    def open(self, mode: str = "rb") -> BinaryIO:
        """Open the file, as it is: nothing is decompressed."""
        how = FileSystems.open if mode == "rb" else FileSystems.create
        with client_errors(self):
            return how(self._url, compression_type=CompressionTypes.UNCOMPRESSED)  # type: ignore[no-any-return]

    def read_bytes(self) -> bytes:
        """Return what the file holds."""
        path = self
        if self.has_directories() and not self._is_there():
            path = self._pending()
        try:
            with client_errors(path), path.open() as file:
                return file.read()
        except OSError:
            if path.exists():
                raise
            raise FileNotFoundError(f"{self._url}: there is no such file") from None

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return the text that the file holds."""
        return self.read_bytes().decode(encoding)

    def _pending(self) -> RemotePath:
        """Return where the file is, whole, for the moment in which its old self is deleted."""
        return self.with_name(f".{self.name}.tmp")

    def write_bytes(self, content: bytes) -> int:
        """Write the file, whole; one that is there is replaced."""
        by_renaming = self.has_directories()
        written = self._pending() if by_renaming else self
        if by_renaming:
            written.unlink(missing_ok=True)
            self.parent.mkdir()
        with client_errors(self), written.open("wb") as file:
            file.write(content)
        if by_renaming:
            written.replace(self)
        return len(content)

    def write_text(self, content: str, encoding: str = "utf-8") -> int:
        """Write the file, whole; one that is there is replaced."""
        return self.write_bytes(content.encode(encoding))

    # --- Changing ---------------------------------------------------------------------

    def mkdir(self, parents: bool = True, exist_ok: bool = True) -> None:  # noqa: ARG002
        """Make the directory where there are directories."""
        if self.has_directories() and not self._is_there():
            with client_errors(self):
                try:
                    FileSystems.mkdirs(self._url)
                except Exception:
                    # Another worker may have been faster.
                    if not self._is_there():
                        raise

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the file."""
        if not missing_ok or self._is_there():
            with client_errors(self):
                FileSystems.delete([self._url])

    def replace(self, target: RemotePath) -> RemotePath:
        """Move the file, or the whole directory, to where nothing is, or a file."""
        if self.has_directories():
            target.parent.mkdir()
            target.unlink(missing_ok=True)
            with client_errors(self):
                FileSystems.rename([self._url], [str(target)])
            return target
        files = self._stored()
        moved = [f"{target}{str(path).removeprefix(self._url)}" for path in files]
        if files:
            with client_errors(self):
                FileSystems.rename([str(path) for path in files], moved)
        return target
