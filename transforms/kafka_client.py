"""The one door to Kafka's client: settings, secrets, and errors for a person."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from skewless.errors import DataError, RecipeError

if TYPE_CHECKING:
    import confluent_kafka

__all__ = ["Fetched", "KafkaCluster", "KafkaConsumer", "Partition", "load_client", "place_of"]

# A topic and the number of one of its partitions.
Partition = tuple[str, int]

_LOGGER = logging.getLogger("skewless.kafka")
_T = TypeVar("_T")

# Parts of the names of settings whose values nobody may read in a manifest or a pickle.
_SECRET = ("password", "secret", "passphrase", "ssl.key.pem", "private.key.pem", "jaas")
_OURS = (
    "bootstrap.servers",
    "group.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "auto.offset.reset",
    "enable.idempotence",
    "error_cb",
    "logger",
)
# A consumer must be of a group, even one that never joins it nor commits.
_NO_GROUP = "skewless"


def load_client() -> Any:
    """Return the module `confluent_kafka`.

    Raises:
        RecipeError: If it is not installed.
    """
    try:
        import confluent_kafka
    except ImportError:
        raise RecipeError(
            "Kafka: confluent-kafka is not installed; pip install 'skewless[kafka]'"
        ) from None
    return confluent_kafka


def place_of(topic: str, partition: int) -> str:
    """Return what the rows of a partition have as their `_file`."""
    return f"kafka:{topic}/{partition}"


@dataclasses.dataclass(frozen=True)
class KafkaCluster:
    """Where the brokers are, and how to speak to them. Picklable; holds no secret.

    Args:
        servers: Some of the brokers: `host:port`, separated by commas.
        config: Further settings of librdkafka.
        secrets: Settings by the environment variables that hold their values.
        timeout: How many seconds to wait for an answer.
    """

    servers: str
    config: tuple[tuple[str, Any], ...] = ()
    secrets: tuple[tuple[str, str], ...] = ()
    timeout: float = 30.0

    @staticmethod
    def of(
        servers: str | Sequence[str],
        config: Mapping[str, Any] | None,
        secrets: Mapping[str, str] | None,
        timeout: float,
        where: str,
    ) -> KafkaCluster:
        """Return the cluster of a user's arguments.

        Raises:
            RecipeError: If one is wrong, or holds a secret.
        """
        joined = servers if isinstance(servers, str) else ",".join(servers)
        if not joined:
            raise RecipeError(f'{where} bootstrap_servers=: expected "host:port"')
        if timeout <= 0:
            raise RecipeError(f"{where} timeout_seconds={timeout}: expected more than 0")
        for argument, settings in (("config", config), ("secrets", secrets)):
            for key in settings or {}:
                if key in _OURS:
                    raise RecipeError(
                        f'{where} {argument}={{"{key}": ...}}: skewless sets this itself; leave '
                        "it out"
                    )
        for key in config or {}:
            if any(part in key for part in _SECRET):
                raise RecipeError(
                    f'{where} config={{"{key}": ...}}: a secret would be written down; give '
                    f'secrets={{"{key}": "NAME"}}, an environment variable that holds it'
                )
        return KafkaCluster(
            joined,
            tuple(sorted((config or {}).items())),
            tuple(sorted((secrets or {}).items())),
            timeout,
        )

    def settings(self) -> dict[str, Any]:
        """Return the client's settings, secrets included: for its constructor alone.

        Raises:
            RecipeError: If an environment variable is missing.
        """
        settings = {"bootstrap.servers": self.servers, "client.id": "skewless", **dict(self.config)}
        for key, variable in self.secrets:
            value = os.environ.get(variable)
            if value is None:
                raise RecipeError(
                    f'Kafka secrets={{"{key}": "{variable}"}}: the environment variable '
                    f"{variable} is not set; set it here and on the workers"
                )
            settings[key] = value
        return settings

    def consumer(self, group: str | None = None) -> KafkaConsumer:
        """Return a consumer that reads what it is assigned, and commits only when told."""
        return KafkaConsumer(self, group)

    def producer(self) -> tuple[confluent_kafka.Producer, Complaints]:
        """Return a producer that writes a message once, however often it is sent."""
        complaints = Complaints()
        settings = {
            "message.timeout.ms": round(self.timeout * 1000),
            **self.settings(),
            "enable.idempotence": True,
            "error_cb": complaints,
        }
        with self.known_settings():
            return load_client().Producer(settings, logger=_LOGGER), complaints

    @contextlib.contextmanager
    def known_settings(self) -> Iterator[None]:
        """Turn the client's refusal of a setting into a RecipeError."""
        client = load_client()
        try:
            yield
        except (client.KafkaException, TypeError, ValueError) as error:
            raise RecipeError(
                f"Kafka config=: {_said(error)}; see librdkafka's list of settings"
            ) from None


def _said(error: Any) -> str:
    """Return what an exception of the client says."""
    inner = error.args[0] if error.args else error
    text = inner.str() if hasattr(inner, "str") else str(inner)
    return str(text).replace("\n", " ").strip()


class Complaints:
    """What the client last complained of from its background threads."""

    def __init__(self) -> None:
        self.last: Any = None
        self._denied: Any = None
        self._denied_since = 0.0

    def __call__(self, error: Any) -> None:
        kinds = load_client().KafkaError
        self.last = error
        if error.code() in (kinds._AUTHENTICATION, kinds._SSL):
            if self._denied is None:
                self._denied_since = time.monotonic()
            self._denied = error

    def forget(self) -> None:
        """Forget what was complained of: the brokers answer again."""
        self.last = self._denied = None

    def raise_denied(self, servers: str, seconds: float = 0.0) -> None:
        """Raise the error for credentials that the brokers have not taken for so long.

        A broker that is shut down refuses for a moment, too.

        Raises:
            DataError: If they do not.
        """
        if self._denied is not None and time.monotonic() >= self._denied_since + seconds:
            raise DataError(
                f"Kafka at {servers}: the brokers do not let us in ({self._denied.str()}); "
                "check the credentials that config= and secrets= name"
            )

    def __str__(self) -> str:
        return f" ({self.last.str()})" if self.last is not None else ""


class Fetched(NamedTuple):
    """What a consumer had: messages, and where partitions were read to their end."""

    messages: list[confluent_kafka.Message]
    ends: dict[Partition, int]


class KafkaConsumer:
    """A consumer without group membership, with errors for a person. Not thread-safe."""

    def __init__(self, cluster: KafkaCluster, group: str | None = None) -> None:
        self._client = load_client()
        self._cluster = cluster
        self._complaints = Complaints()
        settings = {
            **cluster.settings(),
            "group.id": group or _NO_GROUP,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            # An offset that is no more there must not become another one silently.
            "auto.offset.reset": "error",
            "error_cb": self._complaints,
        }
        with cluster.known_settings():
            self._consumer = self._client.Consumer(settings, logger=_LOGGER)

    def __enter__(self) -> KafkaConsumer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close()

    def _ask(self, what: str, call: Callable[[float], _T]) -> _T:
        """Return the brokers' answer; `call` takes its timeout.

        Raises:
            DataError: If none comes in time, or the brokers refuse.
        """
        end = time.monotonic() + self._cluster.timeout
        wait = 1.0  # short at first: that the brokers refuse us is only seen between calls
        while True:
            left = end - time.monotonic()
            try:
                return call(max(min(left, wait), 0.1))
            except self._client.KafkaException as error:
                self._consumer.poll(0)  # calls back with what background threads met
                self._complaints.raise_denied(self._cluster.servers)
                if not self._transient(error.args[0]):
                    raise DataError(
                        f"Kafka at {self._cluster.servers}: cannot get {what} ({_said(error)}); "
                        "check the brokers and what this user may do"
                    ) from None
                if left <= 0:
                    raise DataError(
                        f"Kafka at {self._cluster.servers}: no answer in "
                        f"{self._cluster.timeout:g} s when asked for {what}{self._complaints}; "
                        "check bootstrap_servers= and that the brokers run"
                    ) from None
                wait = 5.0

    def _transient(self, error: Any) -> bool:
        kinds = self._client.KafkaError
        return bool(error.retriable()) or error.code() in (
            kinds._TRANSPORT,
            kinds._TIMED_OUT,
            kinds._ALL_BROKERS_DOWN,
            kinds._RESOLVE,
            kinds._WAIT_COORD,
            kinds._MAX_POLL_EXCEEDED,
            kinds.COORDINATOR_NOT_AVAILABLE,
            kinds.NOT_COORDINATOR,
        )

    def partitions(self, topic: str) -> list[Partition]:
        """Return the partitions of a topic.

        Raises:
            DataError: If there is no such topic.
        """
        found = self._ask(
            "the topic's partitions", lambda wait: self._consumer.list_topics(topic, timeout=wait)
        ).topics[topic]
        if found.error is not None:
            known = self._ask("topics", lambda wait: self._consumer.list_topics(timeout=wait))
            near = difflib.get_close_matches(topic, list(known.topics), n=1)
            hint = f'did you mean "{near[0]}"?' if near else "create it, or correct the name"
            raise DataError(
                f'Kafka at {self._cluster.servers}: there is no topic "{topic}" that we may use '
                f"({found.error.str()}); {hint}"
            )
        return [(topic, number) for number in sorted(found.partitions)]

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """Return the first offset that is there, and the one after the last committed."""
        asked = self._client.TopicPartition(*partition)
        return self._ask(  # type: ignore[no-any-return]
            f"the offsets of {place_of(*partition)}",
            lambda wait: self._consumer.get_watermark_offsets(asked, timeout=wait),
        )

    def offsets_at(self, partitions: Sequence[Partition], millis: int) -> dict[Partition, int]:
        """Return the first offsets of that time or later; -1 where there are none."""
        asked = [self._client.TopicPartition(*partition, millis) for partition in partitions]
        found = self._ask(
            "offsets by time",
            lambda wait: self._consumer.offsets_for_times(asked, timeout=wait),
        )
        return {(one.topic, one.partition): one.offset for one in found}

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """Return the offsets that the group committed; negative where it did not."""
        asked = [self._client.TopicPartition(*partition) for partition in partitions]
        found = self._ask(
            "the group's offsets", lambda wait: self._consumer.committed(asked, timeout=wait)
        )
        return {(one.topic, one.partition): one.offset for one in found}

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Commit, for the group, the offsets to go on from."""
        wanted = [self._client.TopicPartition(*place, offset) for place, offset in offsets.items()]
        self._ask(
            "offsets committed",
            lambda _: self._consumer.commit(offsets=wanted, asynchronous=False),
        )

    def cluster_id(self) -> str:
        """Return the name that the cluster has for itself."""
        return str(self._ask("its id", lambda wait: self._consumer.cluster_id(timeout=wait)))

    def assign(self, starts: Mapping[Partition, int]) -> None:
        """Read these partitions, from these offsets on."""
        self._consumer.assign(
            [self._client.TopicPartition(*place, offset) for place, offset in starts.items()]
        )

    def fetch(self, most: int, seconds: float) -> Fetched:
        """Return the messages that have come, waiting for `most` up to so many seconds.

        Raises:
            DataError: If a partition cannot be read; lost connections are made again.
        """
        messages, ends = [], {}
        for message in self._consumer.consume(most, seconds):
            error = message.error()
            if error is None:
                messages.append(message)
            elif error.code() == self._client.KafkaError._PARTITION_EOF:
                ends[message.topic(), message.partition()] = message.offset()
            elif not self._transient(error):
                raise self._unreadable(message, error)
        if messages or ends:
            self._complaints.forget()
        self._complaints.raise_denied(self._cluster.servers, self._cluster.timeout)
        return Fetched(messages, ends)

    def _unreadable(self, message: Any, error: Any) -> DataError:
        kinds = self._client.KafkaError
        place = self._cluster.servers
        if message.topic() is not None:
            place = place_of(message.topic(), message.partition())
        if error.code() in (kinds._AUTO_OFFSET_RESET, kinds.OFFSET_OUT_OF_RANGE):
            repair = "the messages are no more there; start at a later offset, or keep them longer"
        else:
            repair = "check the topic and what this user may do"
        return DataError(f"{place}: cannot be read ({error.str()}); {repair}")

    @property
    def complaint(self) -> str:
        """What the client last complained of, in brackets; empty for nothing."""
        return str(self._complaints)
