"""Programs and servers that stand for those that a runner needs."""

from __future__ import annotations

import contextlib
import http.server
import pathlib
import threading
from collections.abc import Iterator, Mapping


def java(folder: pathlib.Path, line: str, code: int = 0) -> pathlib.Path:
    """Return a JAVA_HOME whose Java says what it is, as Java does: on standard error."""
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho '{line}' >&2\nexit {code}\n")
    program.chmod(0o755)
    return folder


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers what it was made for, and keeps what it was asked."""

    bodies: Mapping[str, bytes]
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        body = self.bodies.get(self.path)
        self.send_response(404 if body is None else 200)
        # More than is sent: a connection that was lost.
        size = len(body or b"") + (10 if self.path.endswith("half") else 0)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(body or b"")

    do_PATCH = do_GET  # noqa: N815

    def log_message(self, *arguments: object) -> None:
        """Be silent."""


@contextlib.contextmanager
def answering(bodies: Mapping[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """Run an HTTP server; yield its HOST:PORT, and what it was asked."""
    asked: list[str] = []
    handler = type("Handler", (Answers,), {"bodies": bodies, "asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()
