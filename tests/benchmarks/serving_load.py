"""Ask servers: wrk for many clients at once, this Python for one, and to check answers.

wrk is written in C, and leaves the processor to the server. Its percentiles are corrected for
what the clients would have sent had they not been kept waiting: a pause of the server counts for
every request that it held up.
"""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import math
import pathlib
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tests.servers.process import install_debian

CLIENTS = 32
# float32 as text, and other sizes of batch.
TOLERANCE = 2e-6
_SCRIPT = pathlib.Path(__file__).with_suffix(".lua")


class Target(NamedTuple):
    """What is asked of a server.

    Attributes:
        port: Where it listens.
        path: The path of its URL.
        bodies: The body for each row.
        read: What finds the prediction in an answer.
    """

    port: int
    path: str
    bodies: Sequence[bytes]
    read: Callable[[object], float]


class Load(NamedTuple):
    """What many clients saw: requests a second, and milliseconds."""

    per_second: float
    p50: float
    p99: float


def load(target: Target, seconds: float, folder: pathlib.Path) -> Load:
    """Ask with many clients at once, each waiting for its answer before it asks again.

    Raises:
        RuntimeError: If a request failed.
    """
    bodies = folder / "bodies.jsonl"
    bodies.write_bytes(b"\n".join(target.bodies) + b"\n")
    wrk = install_debian("wrk", "wrk")
    command = [wrk, "-t1", f"-c{CLIENTS}", f"-d{seconds:g}s", "--timeout=30s", "-s", str(_SCRIPT)]
    url = f"http://127.0.0.1:{target.port}{target.path}"
    done = subprocess.run(
        [*command, url, "--", str(bodies)], check=True, capture_output=True, text=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    if found["errors"] or not found["requests"]:
        raise RuntimeError(f"{url}: {found['errors']} errors in {found['requests']} requests")
    return Load(found["requests"] / found["seconds"], found["p50"], found["p99"])


def one_client(target: Target, requests: int) -> list[float]:
    """Return how long each request of a single client took, from body to number, in ms."""
    connection = http.client.HTTPConnection("127.0.0.1", target.port)
    taken = []
    for number in range(requests):
        body = target.bodies[number % len(target.bodies)]
        began = time.perf_counter()
        _ask(connection, target, body)
        taken.append(1e3 * (time.perf_counter() - began))
    connection.close()
    return taken


def check(target: Target, expected: Sequence[float]) -> None:
    """Ask for every row, many at once, and compare with the predictions of the direct call.

    Raises:
        RuntimeError: If an answer is another.
    """

    def ask(first: int) -> list[tuple[int, float]]:
        connection = http.client.HTTPConnection("127.0.0.1", target.port)
        mine = range(first, len(expected), CLIENTS)
        found = [(row, _ask(connection, target, target.bodies[row])) for row in mine]
        connection.close()
        return found

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        for found in pool.map(ask, range(CLIENTS)):
            for row, answer in found:
                if not math.isclose(answer, expected[row], rel_tol=TOLERANCE, abs_tol=TOLERANCE):
                    raise RuntimeError(f"row {row}: {answer}, but directly {expected[row]}")


def _ask(connection: http.client.HTTPConnection, target: Target, body: bytes) -> float:
    connection.request("POST", target.path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    said = response.read()
    if response.status != 200:
        raise RuntimeError(f"{target.path}: {response.status} {said[:300]!r}")
    return target.read(json.loads(said))
