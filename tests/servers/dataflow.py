"""A recorder of Dataflow's REST API: it takes jobs, keeps their requests, and runs nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import re
import threading
from collections.abc import Iterator
from typing import Any

_JOBS = re.compile(
    r"/v1b3/projects/(?P<project>[^/]+)/locations/(?P<region>[^/]+)/jobs"
    r"(/(?P<job>[^/?]+))?(/(?P<part>messages|metrics))?"
)


@dataclasses.dataclass
class Recorder:
    """A running recorder.

    Args:
        url: What `--dataflow_endpoint` is to be; Beam speaks REST only to a `localhost`.
        jobs: The jobs that were asked for, by id.
        requests: The method and path of every request.
        refuse: With this HTTP status and message requests are answered, if there is one.
        refuse_only: The method of those; empty for all.
        state: What becomes of a job: done at once, anything else after it was pending.
        error: The message of an error of every job.
        pause_seconds: After how long requests are answered, unless the recorder forgets them.
    """

    url: str
    jobs: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    requests: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    refuse: tuple[int, str] | None = None
    refuse_only: str = ""
    state: str = "JOB_STATE_DONE"
    error: str | None = None
    pause_seconds: float = 0.0
    _go_on: threading.Event = dataclasses.field(default_factory=threading.Event)

    def forget(self) -> None:
        """Begin anew."""
        self._go_on.set()
        self.__init__(self.url)  # type: ignore[misc]

    def pause(self) -> None:
        """Wait as long as an answer takes."""
        self._go_on.wait(self.pause_seconds)

    @property
    def job(self) -> dict[str, Any]:
        """The only job."""
        (job,) = self.jobs.values()
        return job


@contextlib.contextmanager
def dataflow() -> Iterator[Recorder]:
    """Run a recorder."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.recorder = Recorder(f"http://localhost:{server.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.recorder  # type: ignore[attr-defined]
    finally:
        server.recorder.forget()  # type: ignore[attr-defined]
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answer as Dataflow does, as far as Beam asks."""

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(json.loads(body))

    def _answer(self, body: dict[str, Any] | None) -> None:
        recorder: Recorder = self.server.recorder  # type: ignore[attr-defined]
        recorder.requests.append((self.command, self.path))
        recorder.pause()
        found = _JOBS.match(self.path)
        if recorder.refuse is not None and recorder.refuse_only in ("", self.command):
            status, message = recorder.refuse
            kind = "PERMISSION_DENIED" if status == 403 else "INVALID_ARGUMENT"
            self._send({"error": {"code": status, "message": message, "status": kind}}, status)
        elif found is None:
            self._send({"error": {"code": 404, "message": self.path}}, 404)
        elif body is not None:
            self._send(self._create(recorder, body, found["project"], found["region"]))
        elif found["part"] == "messages":
            self._send(self._messages(recorder))
        elif found["part"] == "metrics":
            self._send({"metrics": []})
        elif found["job"] is not None:
            self._send({**recorder.jobs[found["job"]], "currentState": recorder.state})
        else:
            self._send({"jobs": list(recorder.jobs.values())})

    @staticmethod
    def _create(
        recorder: Recorder, body: dict[str, Any], project: str, region: str
    ) -> dict[str, Any]:
        name = f"job-{len(recorder.jobs)}"
        done = recorder.state == "JOB_STATE_DONE"
        recorder.jobs[name] = {
            **body,
            "id": name,
            "projectId": project,
            "location": region,
            "currentState": "JOB_STATE_DONE" if done else "JOB_STATE_PENDING",
        }
        return recorder.jobs[name]

    @staticmethod
    def _messages(recorder: Recorder) -> dict[str, Any]:
        if recorder.error is None:
            return {}
        message = {
            "id": "1",
            "time": "2026-01-01T00:00:00Z",
            "messageText": recorder.error,
            "messageImportance": "JOB_MESSAGE_ERROR",
        }
        return {"jobMessages": [message]}

    def _send(self, value: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
