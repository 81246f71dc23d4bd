"""Google's own Pub/Sub emulator. It keeps nothing: a restarted one is empty."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import time
import uuid
from collections.abc import Iterator
from typing import Any

from google.api_core.exceptions import DeadlineExceeded

from skewless.transforms import pubsub_client
from tests.servers.process import free_port, install_debian, listens, running

PACKAGE = "google-cloud-cli-pubsub-emulator"
PROGRAM = "/usr/lib/google-cloud-sdk/platform/pubsub-emulator/bin/cloud-pubsub-emulator"


class Emulator:
    """A running emulator."""

    def __init__(self, group: int) -> None:
        self._group = group

    def kill(self) -> None:
        os.killpg(self._group, signal.SIGKILL)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Have it neither answer nor hang up, as behind a line that is dead."""
        os.killpg(self._group, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._group, signal.SIGCONT)


@contextlib.contextmanager
def pubsub_emulator(folder: pathlib.Path, port: int | None = None) -> Iterator[Emulator]:
    """Run an emulator that clients of this process find."""
    program = install_debian(PROGRAM, PACKAGE)
    port = port or free_port()
    command = [program, "--host=127.0.0.1", f"--port={port}"]
    env = {"JAVA_OPTS": "-Xmx256m -XX:TieredStopAtLevel=1"}
    before = os.environ.get("PUBSUB_EMULATOR_HOST")
    with running(command, folder / "pubsub.log", lambda: listens(port), env) as process:
        os.environ["PUBSUB_EMULATOR_HOST"] = f"127.0.0.1:{port}"
        try:
            yield Emulator(process.pid)
        finally:
            if before is None:
                del os.environ["PUBSUB_EMULATOR_HOST"]
            else:
                os.environ["PUBSUB_EMULATOR_HOST"] = before


class Queue:
    """A topic with a subscription."""

    def __init__(self, name: str = "") -> None:
        name = name or f"t-{uuid.uuid4().hex[:8]}"
        self.topic = f"projects/pro-test/topics/{name}"
        self.subscription = f"projects/pro-test/subscriptions/{name}"
        pubsub_client.publisher().create_topic(name=self.topic)
        pubsub_client.subscriber().create_subscription(
            name=self.subscription, topic=self.topic, ack_deadline_seconds=10
        )

    def publish(self, *messages: tuple[bytes, dict[str, str]]) -> None:
        client = pubsub_client.publisher()
        for sent in [client.publish(self.topic, body, **more) for body, more in messages]:
            sent.result(timeout=30)

    def drain(self, expected: int = 0) -> list[Any]:
        """Return at least so many messages, and all that are there; acknowledge them."""
        client, found = pubsub_client.subscriber(), []
        end = time.monotonic() + 30
        while True:
            with contextlib.suppress(DeadlineExceeded):  # that there is nothing, too
                answer = client.pull(
                    subscription=self.subscription, max_messages=1000, timeout=1.0, retry=None
                )
                if ids := [one.ack_id for one in answer.received_messages]:
                    client.acknowledge(subscription=self.subscription, ack_ids=ids)
                    found += [one.message for one in answer.received_messages]
                    continue
            if len(found) >= expected:
                return found
            assert time.monotonic() < end, f"only {len(found)} of {expected} messages"
            time.sleep(0.1)
