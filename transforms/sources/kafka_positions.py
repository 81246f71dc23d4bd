"""Where to start and stop reading Kafka's partitions: words, times and offsets."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from skewless.errors import DataError, RecipeError
from skewless.transforms.kafka_client import KafkaConsumer, Partition, place_of

__all__ = ["KafkaPiece", "Position", "cut", "parse_position", "resolve_ranges"]

# What a user writes: a word, a time (text is ISO 8601; without a zone it is UTC), or offsets
# by partition, for several topics by topic and partition.
Position = str | datetime.datetime | Mapping[int, int] | Mapping[str, Mapping[int, int]]

# A word, milliseconds since 1970, or offsets.
_Parsed = str | int | dict[Partition, int]

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class KafkaPiece(NamedTuple):
    """Offsets of a partition that one worker reads.

    Attributes:
        place: The partition as rows name it: `kafka:topic/partition`.
        topic: The topic.
        partition: The partition's number.
        start: The first offset.
        stop: The offset to stop before; None for a stream.
    """

    place: str
    topic: str
    partition: int
    start: int
    stop: int | None


def parse_position(
    position: Position, words: Sequence[str], topics: Sequence[str], where: str
) -> _Parsed:
    """Return what a position means.

    Args:
        position: A word, a time, or offsets.
        words: The words that are allowed.
        topics: The topics that are read.
        where: The argument, for the error.

    Returns:
        The word, the time in milliseconds since 1970 (rounded up), or the offsets.

    Raises:
        RecipeError: If it is none of these.

    >>> parse_position("1970-01-01T00:00:01.5Z", ["latest"], ["t"], "start=")
    1500
    >>> parse_position({0: 7}, ["latest"], ["t"], "start=")
    {('t', 0): 7}
    """
    wrong = RecipeError(
        f"{where}{position!r}: expected {', '.join(words)}, a time such as "
        '"2024-01-31T12:00:00Z", or offsets {partition: offset}'
    )
    if isinstance(position, Mapping):
        return _parse_offsets(position, topics, where)
    if position in words:
        return str(position)
    if isinstance(position, str):
        try:
            position = datetime.datetime.fromisoformat(position)
        except ValueError:
            raise wrong from None
    if not isinstance(position, datetime.datetime):
        raise wrong
    if position.tzinfo is None:
        position = position.replace(tzinfo=datetime.UTC)
    return -((_EPOCH - position) // datetime.timedelta(milliseconds=1))


def _parse_offsets(
    position: Mapping[int, int] | Mapping[str, Mapping[int, int]], topics: Sequence[str], where: str
) -> dict[Partition, int]:
    nested = all(isinstance(value, Mapping) for value in position.values())
    if not nested and len(topics) > 1:
        raise RecipeError(
            f"{where}{dict(position)!r}: expected offsets by topic, "
            f'{{"{topics[0]}": {{partition: offset}}, ...}}, as several topics are read'
        )
    by_topic = position if nested else {topics[0]: position}
    parsed = {}
    for topic, offsets in by_topic.items():
        if topic not in topics:
            raise RecipeError(f"{where}{dict(position)!r}: the topic {topic!r} is not read")
        for partition, offset in offsets.items():  # type: ignore[union-attr]
            if not isinstance(partition, int) or not isinstance(offset, int) or offset < 0:
                raise RecipeError(
                    f"{where}{dict(position)!r}: expected {{partition: offset}}, whole numbers "
                    "from 0 on"
                )
            parsed[str(topic), partition] = offset
    if not parsed:
        raise RecipeError(
            f"{where}{dict(position)!r}: expected the offset of at least one partition"
        )
    return parsed


def resolve_ranges(
    consumer: KafkaConsumer,
    topics: Sequence[str],
    start: _Parsed,
    stop: _Parsed | None,
    where: str,
) -> list[KafkaPiece]:
    """Return the offsets to read of each partition.

    Where `start` names partitions, the others are not read. A group that has committed
    nothing starts at the earliest offset.

    Raises:
        RecipeError: If `stop` does not name a partition that is read.
        DataError: If a topic, a partition or an offset is not there.
    """
    partitions = [one for topic in topics for one in consumer.partitions(topic)]
    for argument, position in (("start", start), ("stop", stop)):
        for place in position if isinstance(position, dict) else ():
            if place not in partitions:
                raise DataError(
                    f"{where} {argument}=: there is no partition {place_of(*place)}; the topic "
                    f"has {sum(topic == place[0] for topic, _ in partitions)}, from 0 on"
                )
    if isinstance(start, dict):
        partitions = [place for place in partitions if place in start]
    bounds = {place: consumer.bounds(place) for place in partitions}
    starts = _offsets(consumer, start, bounds, "start", where)
    stops = None if stop is None else _offsets(consumer, stop, bounds, "stop", where)
    return [
        KafkaPiece(
            place_of(*place),
            *place,
            starts[place],
            None if stops is None else max(stops[place], starts[place]),
        )
        for place in partitions
    ]


def _offsets(
    consumer: KafkaConsumer,
    position: _Parsed,
    bounds: Mapping[Partition, tuple[int, int]],
    argument: str,
    where: str,
) -> dict[Partition, int]:
    places = list(bounds)
    if position == "earliest":
        return {place: bounds[place][0] for place in places}
    if position == "latest":
        return {place: bounds[place][1] for place in places}
    if isinstance(position, int):
        found = consumer.offsets_at(places, position)
        return {place: found[place] if found[place] >= 0 else bounds[place][1] for place in places}
    if isinstance(position, dict):
        offsets = position
    else:
        found = consumer.committed(places)
        offsets = {p: found[p] if found[p] >= 0 else bounds[p][0] for p in places}
    for place in places:
        if place not in offsets:
            raise RecipeError(
                f"{where} {argument}=: names no offset for {place_of(*place)}, which is read; "
                "give one for each partition"
            )
        first, after = bounds[place]
        if not first <= offsets[place] <= after:
            raise DataError(
                f"{where} {argument}=: {place_of(*place)} has the offsets {first} to {after - 1}, "
                f"and {offsets[place]} was asked for; messages may have expired, or the topic was "
                'made anew: give offsets that are there, or start="earliest"'
            )
    return {place: offsets[place] for place in places}


def cut(piece: KafkaPiece, messages: int) -> Iterator[KafkaPiece]:
    """Yield a piece with an end in parts of at most so many offsets.

    >>> [(p.start, p.stop) for p in cut(KafkaPiece("kafka:t/0", "t", 0, 5, 12), 4)]
    [(5, 9), (9, 12)]
    """
    if piece.stop is None:
        raise ValueError("a piece without end cannot be cut")
    for start in range(piece.start, piece.stop, messages):
        yield piece._replace(start=start, stop=min(start + messages, piece.stop))
