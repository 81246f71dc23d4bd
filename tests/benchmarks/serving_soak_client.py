"""Ask a server by REST and gRPC, and check each answer: serving_soak_client REST GRPC ASKED ....

Further arguments: SECONDS, requests a second (0 for as many as 16 in flight get answered), and
every how many seconds to print what happened, as JSON. One process, so that it leaves the
processor to the server; requests are sent when they are due, whether or not others were answered.
"""

# ruff: noqa: T201  (it is a command: what it prints is its result)

from __future__ import annotations

import asyncio
import collections
import dataclasses
import json
import math
import pathlib
import pickle
import re
import sys
import time
from typing import Any, NamedTuple

import grpc
import numpy as np
from tensorflow_serving.apis.predict_pb2 import PredictResponse

IN_FLIGHT = 16
TIMEOUT = 60.0
TOLERANCE = 1e-5
_HEAD = b"POST /v1/models/flights:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
_METHOD = "/tensorflow.serving.PredictionService/Predict"
_STATUS = re.compile(rb"HTTP/1.1 (\d+) ")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_RETRY = re.compile(rb"\r\nretry-after: *\d+\r\n", re.IGNORECASE)
_REFUSALS = {"store": "the store is away", "wait already": "the queue is full"}
_REFUSALS |= {"too many calls": "too many calls"}


class Asked(NamedTuple):
    """The same rows in three forms, and their predictions.

    Attributes:
        rest: Bodies of `:predict`.
        grpc: Serialized `PredictRequest`s: of Examples for even rows, of tensors for odd ones.
        expected: For each model, what it predicts of each row.
    """

    rest: list[bytes]
    grpc: list[bytes]
    expected: list[list[float]]


@dataclasses.dataclass
class Told:
    """What happened since it was told last."""

    began: float
    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    refused: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    versions: set[int] = dataclasses.field(default_factory=set)
    milliseconds: list[float] = dataclasses.field(default_factory=list)
    shown: list[str] = dataclasses.field(default_factory=list)

    def line(self) -> str:
        """Return it as JSON."""
        p50, p99 = np.percentile(self.milliseconds or [math.nan], [50, 99]).tolist()
        return json.dumps(
            {
                "seconds": time.monotonic() - self.began,
                "counts": self.counts,
                "refused": self.refused,
                "versions": sorted(self.versions),
                "p50": p50,
                "p99": p99,
                "shown": self.shown,
            }
        )


class _Refused(Exception):  # noqa: N818 - that is no error
    """The server says to try again later."""


class _Connection(asyncio.Protocol):
    """A connection that is kept, with one request on it at a time."""

    def __init__(self) -> None:
        self.transport: Any = None
        self._read = b""
        self._answer: asyncio.Future[tuple[bytes, bytes]] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, found, body = self._read.partition(b"\r\n\r\n")
        length = _LENGTH.search(head + b"\r\n")
        if found and length and len(body) >= int(length[1]) and self._answer is not None:
            answer, self._answer, self._read = self._answer, None, b""
            if not answer.done():
                answer.set_result((head + b"\r\n", body))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(f"the connection was closed: {exc}"))

    async def ask(self, body: bytes) -> tuple[bytes, bytes]:
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(_HEAD % len(body) + body)
        return await asyncio.wait_for(self._answer, TIMEOUT)


class Client:
    """Asks about all rows in turn, every other time by gRPC.

    Args:
        rest_port: Where the server listens.
        channel: A channel to its gRPC.
        asked: The rows.
    """

    def __init__(self, rest_port: int, channel: Any, asked: Asked) -> None:
        self._port = rest_port
        self._asked = asked
        self._idle: collections.deque[_Connection] = collections.deque()
        self._call = channel.unary_unary(_METHOD, response_deserializer=PredictResponse.FromString)
        self.told = Told(time.monotonic())

    async def ask(self, number: int, due: float) -> None:
        """Ask, check the answer, and count it."""
        row = number // 2 % len(self._asked.rest)
        try:
            right = await (self._by_grpc(row) if number % 2 else self._by_rest(row))
        except _Refused as refusal:
            self.told.counts["refused"] += 1
            known = [name for part, name in _REFUSALS.items() if part in str(refusal)]
            self.told.refused[known[0] if known else str(refusal)[:200]] += 1
            return
        except Exception as error:
            self.told.counts["failed"] += 1
            self._show(f"row {row}, request {number}: {type(error).__name__}: {error}")
            return
        self.told.counts["right" if right else "wrong"] += 1
        self.told.milliseconds.append(1e3 * (time.monotonic() - due))

    async def _by_rest(self, row: int) -> bool:
        connection = None
        while self._idle and connection is None:
            connection = self._idle.popleft()
            if connection.transport.is_closing():
                connection = None
        if connection is None:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(_Connection, "127.0.0.1", self._port)
        try:
            head, body = await connection.ask(self._asked.rest[row])
        except TimeoutError:
            connection.transport.abort()
            raise
        self._idle.append(connection)
        status = _STATUS.match(head)
        if status is not None and status[1] == b"503" and _RETRY.search(head):
            raise _Refused(body.decode())
        if status is None or status[1] != b"200":
            raise RuntimeError(f"{head[:60]!r} {body[:200]!r}")
        (found,) = json.loads(body)["predictions"]
        # REST does not say which version answered: one of the two is right.
        values = [model[row] for model in self._asked.expected]
        return self._check(any(_same(found, value) for value in values), row, found, values)

    async def _by_grpc(self, row: int) -> bool:
        try:
            answer = await self._call(self._asked.grpc[row], timeout=TIMEOUT)
        except grpc.aio.AioRpcError as error:
            again = any(key == "retry-after" for key, _ in error.trailing_metadata() or ())
            if again and error.code().name in ("RESOURCE_EXHAUSTED", "UNAVAILABLE"):
                raise _Refused(error.details()) from None
            raise
        version = answer.model_spec.version.value
        self.told.versions.add(version)
        tensor = answer.outputs["prediction"]
        found = (tensor.float_val or memoryview(tensor.tensor_content).cast("f"))[0]
        value = self._asked.expected[model_of(version)][row]
        return self._check(_same(found, value), row, found, (version, value))

    def _check(self, right: bool, row: int, found: float, expected: object) -> bool:
        if not right:
            self._show(f"row {row}: {found}, expected {expected}")
        return right

    def _show(self, line: str) -> None:
        if len(self.told.shown) < 5:
            self.told.shown.append(line)


def model_of(version: int) -> int:
    """Return which of the two models a version is a copy of."""
    return (version - 1) % 2


def _same(found: float, value: float) -> bool:
    return math.isclose(found, value, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


async def _run(
    ports: tuple[int, int], path: str, seconds: float, rate: float, every: float
) -> None:
    asked = Asked(*pickle.loads(pathlib.Path(path).read_bytes()))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{ports[1]}") as channel:
        client = Client(ports[0], channel, asked)
        print(json.dumps("begun"), flush=True)
        client.told.began = time.monotonic()
        tell = asyncio.create_task(_tell(client, every))
        if rate:
            await _steadily(client, seconds, rate)
        else:
            await asyncio.gather(*(_closed_loop(client, seconds, n) for n in range(IN_FLIGHT)))
        tell.cancel()
        print(client.told.line(), flush=True)


async def _steadily(client: Client, seconds: float, rate: float) -> None:
    began, sent, total = time.monotonic(), 0, int(seconds * rate)
    open_: set[asyncio.Task[None]] = set()
    while sent < total:
        due = min(total, int((time.monotonic() - began) * rate) + 1)
        for number in range(sent, due):
            task = asyncio.create_task(client.ask(number, began + number / rate))
            open_.add(task)
            task.add_done_callback(open_.discard)
        sent = due
        await asyncio.sleep(max(0.0, began + sent / rate - time.monotonic()))
    await asyncio.gather(*open_)


async def _closed_loop(client: Client, seconds: float, number: int) -> None:
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        await client.ask(number, now)
        number += IN_FLIGHT + 1  # by turns REST and gRPC


async def _tell(client: Client, every: float) -> None:
    while True:
        await asyncio.sleep(every)
        told, client.told = client.told, Told(time.monotonic())
        print(told.line(), flush=True)


def main(rest: str, grpc_: str, path: str, seconds: str, rate: str, every: str) -> None:
    """Ask, and print what happened."""
    ports = int(rest), int(grpc_)
    asyncio.run(_run(ports, path, float(seconds), float(rate), float(every)))


if __name__ == "__main__":
    main(*sys.argv[1:])
