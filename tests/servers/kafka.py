"""A real Kafka broker: one node, without ZooKeeper, from the jars of Maven Central.

It has two listeners: one for everybody, one that asks for the user and password below.
A module that uses it has a fixture of its own:

    @pytest.fixture(scope="module")
    def broker(tmp_path_factory):
        yield from running_broker(tmp_path_factory.mktemp("kafka"))
"""

from __future__ import annotations

import contextlib
import functools
import json
import pathlib
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import confluent_kafka
import confluent_kafka.admin

from tests.servers.process import free_port, install_debian, install_jars, listens, running

VERSION = "4.1.0"
USER, PASSWORD = "reader", "correct-horse-battery"


def install() -> pathlib.Path:
    """Return the folder of the broker's jars, fetched by Maven."""
    return install_jars("kafka", f"org.apache.kafka:kafka_2.13:{VERSION}")


class Broker:
    """A broker that can be stopped and started again, with the same address and data."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._jars = install()
        self._java = install_debian("java", "openjdk-17-jre-headless")
        self._port, self._sasl_port, controller = free_port(), free_port(), free_port()
        self.servers = f"127.0.0.1:{self._port}"
        self.sasl_servers = f"127.0.0.1:{self._sasl_port}"
        self._stack = contextlib.ExitStack()
        self._properties = folder / "server.properties"
        self._properties.write_text(
            f"""process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listeners=PLAINTEXT://:{self._port},SASL://:{self._sasl_port},CONTROLLER://:{controller}
advertised.listeners=PLAINTEXT://{self.servers},SASL://{self.sasl_servers}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule \
required user_{USER}="{PASSWORD}";
log.dirs={folder / "data"}
auto.create.topics.enable=false
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
log.retention.check.interval.ms=1000
log.segment.delete.delay.ms=0
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
"""
        )
        self._run("kafka.tools.StorageTool", "format", "-t", _cluster_id(), "-c")

    def _command(self, main: str, *arguments: str) -> list[str]:
        heap = ["-Xmx512m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        return [self._java, *heap, "-cp", f"{self._jars}/*", main, *arguments]

    def _run(self, main: str, *arguments: str) -> None:
        command = self._command(main, *arguments, str(self._properties))
        subprocess.run(command, check=True, capture_output=True, timeout=120)

    def start(self) -> None:
        log = self._folder / f"broker-{uuid.uuid4().hex}.log"
        command = self._command("kafka.Kafka", str(self._properties))
        self.process = self._stack.enter_context(running(command, log, self._answers))

    def _answers(self) -> bool:
        if not listens(self._port):
            return False
        try:
            self.admin.list_topics(timeout=1)
        except confluent_kafka.KafkaException:
            return False
        return True

    def stop(self) -> None:
        self._stack.close()

    def kill(self) -> None:
        """Stop it as a power cut would."""
        self.process.kill()
        self.process.wait()
        self._stack.close()

    # --- What tests do with it --------------------------------------------------------

    @functools.cached_property
    def admin(self) -> confluent_kafka.admin.AdminClient:
        """The administrator's client: one, as what it is asked ends when it is collected."""
        return confluent_kafka.admin.AdminClient(
            {"bootstrap.servers": self.servers, "reconnect.backoff.max.ms": 500}
        )

    def create(self, partitions: int = 1, config: Mapping[str, str] | None = None) -> str:
        """Return the name of a new topic."""
        topic = f"t-{uuid.uuid4().hex[:8]}"
        new = confluent_kafka.admin.NewTopic(topic, partitions, 1, config=dict(config or {}))
        self.admin.create_topics([new])[topic].result(30)
        return topic

    def produce(
        self,
        topic: str,
        values: Sequence[bytes | dict[str, Any] | None],
        partition: int = 0,
        millis: Sequence[int] | None = None,
        headers: Sequence[Mapping[str, bytes]] | None = None,
    ) -> None:
        # In order, whatever is sent again: a topic that was just made may have no leader yet.
        producer = confluent_kafka.Producer(
            {"bootstrap.servers": self.servers, "enable.idempotence": True}
        )
        for i, value in enumerate(values):
            producer.produce(
                topic,
                json.dumps(value) if isinstance(value, dict) else value,
                partition=partition,
                timestamp=0 if millis is None else millis[i],
                headers=None if headers is None else list(headers[i].items()),
            )
            producer.poll(0)
        assert producer.flush(60) == 0

    def consume(self, topic: str, messages: int) -> list[confluent_kafka.Message]:
        """Return so many messages of a topic, from its beginning."""
        consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": self.servers, "group.id": "tests", "enable.auto.commit": False}
        )
        partitions = self.admin.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([confluent_kafka.TopicPartition(topic, p, 0) for p in partitions])
        found: list[confluent_kafka.Message] = []
        while len(found) < messages:
            got = consumer.consume(messages - len(found), 10)
            assert got, f"only {len(found)} of {messages} messages in {topic}"
            found += got
        consumer.close()
        return found

    def commit(self, group: str, topic: str, offset: int, partition: int = 0) -> None:
        """Commit an offset for a group."""
        consumer = confluent_kafka.Consumer({"bootstrap.servers": self.servers, "group.id": group})
        place = confluent_kafka.TopicPartition(topic, partition, offset)
        consumer.commit(offsets=[place], asynchronous=False)
        consumer.close()

    def committed(self, group: str, topic: str, partition: int = 0) -> int:
        """Return the offset that a group committed; negative for none."""
        consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": self.servers, "group.id": group, "enable.auto.commit": False}
        )
        (found,) = consumer.committed([confluent_kafka.TopicPartition(topic, partition)], 30)
        consumer.close()
        return int(found.offset)


def running_broker(folder: pathlib.Path) -> Iterator[Broker]:
    """Yield a broker, which runs until the generator is closed."""
    broker = Broker(folder)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


def _cluster_id() -> str:
    return "MkU3OEVBNTcwNTJENDM2Qg"
