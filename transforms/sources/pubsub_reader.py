"""A Pub/Sub subscription as a Beam source that acknowledges what is committed, not before."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
import re
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from apache_beam import coders
from apache_beam.io.unbounded_source import CheckpointMark, UnboundedReader, UnboundedSource
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Timestamp

from skewless.transforms.pubsub_client import failure, subscriber
from skewless.transforms.sources.messages import Message

__all__ = ["Subscription", "event_micros", "make_message", "micros"]

_LOGGER = logging.getLogger(__name__)

_PULL_MESSAGES = 1_000
_PULL_SECONDS = 1.0
# How long a subscription may be out of reach before the read fails.
_PATIENCE_SECONDS = 60.0
# After so long without an answer we ask whether anybody is there.
_SILENCE_SECONDS = 30.0
_ASK_SECONDS = 5.0
# The watermark is the earliest event of so much of the past.
_SAMPLE_SECONDS = 60.0
_ACKNOWLEDGE_AT_ONCE = 1_000
_ACKNOWLEDGE_SECONDS = 60.0

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_OFFSETS = 2**63


def micros(time_: datetime.datetime) -> int:
    """Return a time with a zone as microseconds since 1970."""
    return (time_ - _EPOCH) // datetime.timedelta(microseconds=1)


def event_micros(text: str) -> int | None:
    """Return the time in an attribute, in microseconds; None if it is none.

    Args:
        text: Milliseconds since 1970, or an RFC 3339 time.

    >>> event_micros("1500"), event_micros("1970-01-01T00:00:01.5Z"), event_micros("soon")
    (1500000, 1500000, None)
    """
    if re.fullmatch(r"-?[0-9]{1,18}", text):
        found = int(text) * 1000
    else:
        try:
            parsed = datetime.datetime.fromisoformat(text)
        except ValueError:
            return None
        if parsed.tzinfo is None:
            return None
        found = micros(parsed)
    return found if MIN_TIMESTAMP.micros <= found < MAX_TIMESTAMP.micros else None


def make_message(
    payload: bytes,
    attributes: Mapping[str, str],
    message_id: str,
    source: str,
    timestamp_attribute: str | None,
) -> Message:
    """Return a message of Pub/Sub.

    Args:
        payload: Its body.
        attributes: Its attributes.
        message_id: The id that Pub/Sub gave it: a number, which becomes the offset.
        source: The subscription or topic.
        timestamp_attribute: The attribute that says when it happened, if one does.
    """
    text = attributes.get(timestamp_attribute, "") if timestamp_attribute else ""
    number = int(message_id) if re.fullmatch(r"[0-9]{1,19}", message_id) else -1
    return Message(
        payload=payload,
        attributes=attributes,
        id=message_id,
        event_time=event_micros(text),
        source=source,
        offset=number if number < _OFFSETS else -1,
    )


@dataclasses.dataclass(frozen=True)
class Subscription(UnboundedSource):  # type: ignore[misc]
    """The messages of a subscription, acknowledged when the runner has committed them.

    Args:
        name: `projects/<project>/subscriptions/<subscription>`.
        timestamp_attribute: The attribute that holds the event time; by default it is the
            time of publishing.
        stop_when_idle: End when there was no message for so many seconds.
        readers: How many workers may read at once.
        lease_seconds: How long a message is ours; one not acknowledged then comes again.
        reader: Which of them this is.
    """

    name: str
    timestamp_attribute: str | None = None
    stop_when_idle: float | None = None
    readers: int = 1
    lease_seconds: int = 60
    reader: int = 0

    def split(self, desired_num_splits: int, options: Any = None) -> list[Subscription]:  # noqa: ARG002
        """Return one source for each reader; Pub/Sub deals the messages out."""
        return [dataclasses.replace(self, reader=i) for i in range(self.readers)]

    def create_reader(self, options: Any, checkpoint_mark: Any) -> UnboundedReader:  # noqa: ARG002
        """Return a reader; Pub/Sub itself knows where to go on."""
        return _Reader(self)

    def get_checkpoint_mark_coder(self) -> coders.Coder:
        """Return the coder of what is to be acknowledged."""
        return coders.PickleCoder()


class _Taken(CheckpointMark):  # type: ignore[misc]
    """The messages read since the last mark."""

    def __init__(self, subscription: str, ack_ids: list[str]) -> None:
        self._subscription = subscription
        self._ack_ids = ack_ids

    def finalize_checkpoint(self) -> None:
        """Acknowledge them; what fails comes again."""
        for start in range(0, len(self._ack_ids), _ACKNOWLEDGE_AT_ONCE):
            ids = self._ack_ids[start : start + _ACKNOWLEDGE_AT_ONCE]
            subscriber().acknowledge(
                subscription=self._subscription, ack_ids=ids, timeout=_ACKNOWLEDGE_SECONDS
            )


class _Received(NamedTuple):
    ack_id: str
    message: Message
    time: int


class _Reader(UnboundedReader):  # type: ignore[misc]
    def __init__(self, source: Subscription) -> None:
        self._source = source
        self._waiting: deque[_Received] = deque()
        self._leased_until = 0.0
        self._current: _Received | None = None
        self._taken: list[str] = []
        # (when pulled, earliest event), of the last `_SAMPLE_SECONDS`
        self._sample: deque[tuple[float, int]] = deque()
        self._answered = self._busy = time.monotonic()
        # Whether somebody was there when the time to stop when idle was over
        self._quiet = self._ended = False

    def start(self) -> bool:
        return self.advance()

    def advance(self) -> bool:
        now = time.monotonic()
        if self._waiting and now > self._leased_until:
            self._waiting.clear()  # they are another's by now, or come again
        if not self._waiting:
            quiet = self._quiet
            self._pull()
            if not self._waiting:
                self._ended = quiet and self._quiet
                return False
        self._busy, self._quiet = now, False
        self._current = self._waiting.popleft()
        self._taken.append(self._current.ack_id)
        return True

    def _pull(self) -> None:
        from google.api_core import exceptions
        from google.auth.exceptions import GoogleAuthError

        name = self._source.name
        leased = time.monotonic()
        try:
            received = self._ask_for_messages()
            if received:
                subscriber().modify_ack_deadline(
                    subscription=name,
                    ack_ids=[one.ack_id for one in received],
                    ack_deadline_seconds=self._source.lease_seconds,
                )
                self._waiting.extend(received)
                self._leased_until = leased + self._source.lease_seconds / 2
                self._sample.append((leased, min(one.time for one in received)))
            elif not self._asks_whether_there() and received is None:
                return
        except (
            exceptions.Unauthenticated,
            exceptions.PermissionDenied,
            GoogleAuthError,
        ) as error:
            raise failure(error, "subscription", name) from None
        except exceptions.GoogleAPIError as error:
            if time.monotonic() - self._answered > _PATIENCE_SECONDS:
                raise failure(error, "subscription", name) from None
            _LOGGER.warning("%s, trying again", failure(error, "subscription", name))
            # Nobody knows whether there is nothing.
            self._busy, self._quiet = time.monotonic(), False
            return
        self._answered = time.monotonic()

    def _ask_for_messages(self) -> list[_Received] | None:
        """Return what there is; None for no answer, which mostly means that there is nothing."""
        from google.api_core import exceptions

        try:
            answer = subscriber().pull(
                subscription=self._source.name,
                max_messages=_PULL_MESSAGES,
                timeout=_PULL_SECONDS,
                retry=None,
            )
        except exceptions.DeadlineExceeded:
            return None
        return [self._received(one) for one in answer.received_messages]

    def _asks_whether_there(self) -> bool:
        """Make sure that silence means that there is nothing, and not that a line is dead.

        Returns:
            Whether that was asked: it is at times, and before the read ends.

        Raises:
            GoogleAPIError: If nobody answers.
        """
        from google.api_core import exceptions

        now, idle = time.monotonic(), self._source.stop_when_idle
        over = idle is not None and now - self._busy >= idle
        if not over and now - self._answered < _SILENCE_SECONDS:
            return False
        with contextlib.suppress(exceptions.PermissionDenied):  # that is an answer, too
            subscriber().get_subscription(
                subscription=self._source.name, timeout=_ASK_SECONDS, retry=None
            )
        self._quiet = over
        return True

    def _received(self, one: Any) -> _Received:
        attributes = dict(one.message.attributes)
        message = make_message(
            one.message.data,
            attributes,
            one.message.message_id,
            self._source.name,
            self._source.timestamp_attribute,
        )
        published = micros(one.message.publish_time)
        when = published if message.event_time is None else message.event_time
        return _Received(one.ack_id, message, when)

    def get_current(self) -> Message:
        assert self._current is not None
        return self._current.message

    def get_current_timestamp(self) -> Timestamp:
        assert self._current is not None
        return Timestamp(micros=self._current.time)

    def get_watermark(self) -> Timestamp:
        """Return the earliest event of the last minute; a minute ago if there was none."""
        if self._ended:
            return MAX_TIMESTAMP
        now = time.monotonic()
        while len(self._sample) > 1 and now - self._sample[0][0] > _SAMPLE_SECONDS:
            self._sample.popleft()
        if self._sample and (self._waiting or now - self._sample[-1][0] <= _SAMPLE_SECONDS):
            return Timestamp(micros=min(earliest for _, earliest in self._sample))
        if now - self._busy < _SAMPLE_SECONDS:
            return MIN_TIMESTAMP  # just begun: an empty answer does not mean that all is read
        return Timestamp(time.time() - _SAMPLE_SECONDS)

    def get_checkpoint_mark(self) -> _Taken:
        taken, self._taken = self._taken, []
        return _Taken(self._source.name, taken)

    def close(self) -> None:
        """Give back what was pulled and not read."""
        ids = [one.ack_id for one in self._waiting]
        self._waiting.clear()
        if ids:
            with contextlib.suppress(Exception):
                subscriber().modify_ack_deadline(
                    subscription=self._source.name, ack_ids=ids, ack_deadline_seconds=0
                )
