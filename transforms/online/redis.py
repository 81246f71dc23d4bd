"""An online store in Redis, and the one door to its client.

Every name begins with the store's prefix. A sorted set for each group and entity holds the
tiles: scored by start, each member the start as 8 bytes and the value. A sorted set for each
group holds the entities by their earliest start, so that old tiles are found without a look at
every entity. The ids are a sorted set by the time until which they are remembered, the notes a
hash, and a number counts the transactions.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import re
import struct
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from skewless.errors import RecipeError, RunError
from skewless.transforms.online.store import Tile, Wanted

__all__ = ["SCHEMES", "RedisStore", "load_client"]

SCHEMES = ("redis://", "rediss://")

_T = TypeVar("_T")

_PREFIX = "skewless:"
# A server that is gone without a word is noticed; a long expiry is waited for.
_PATIENCE = {"socket_connect_timeout": 10, "socket_timeout": 60}
# Redis takes a million arguments.
_AT_ONCE = 50_000
_START = struct.Struct(">q")
_NEVER = -(1 << 63)

# Scripts, since one command for thousands of tiles is three times as fast as thousands. Reads,
# too, since a server whose memory is full refuses transactions, even of reads.
_READ = """
local found = {}
for i, key in ipairs(KEYS) do
  found[i] = redis.call('ZRANGEBYSCORE', key, ARGV[2 * i - 1], ARGV[2 * i])
end
return found
"""
# KEYS: what the keys of the group's entities begin with, and the group's index of entities.
_TILES = """
local found = {}
for i = 1, #ARGV, 2 do
  found[#found + 1] = redis.call(
    'ZRANGEBYSCORE', KEYS[1] .. ARGV[i], ARGV[i + 1], ARGV[i + 1])[1] or false
end
return found
"""
_PUT = """
for i = 1, #ARGV, 3 do
  local entity, start, member = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  redis.call('ZREMRANGEBYSCORE', KEYS[1] .. entity, start, start)
  redis.call('ZADD', KEYS[1] .. entity, start, member)
  redis.call('ZADD', KEYS[2], 'LT', start, entity)
end
"""
_EXPIRE = """
for _, entity in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[1])) do
  redis.call('ZREMRANGEBYSCORE', KEYS[1] .. entity, '-inf', ARGV[1])
  local earliest = redis.call('ZRANGE', KEYS[1] .. entity, 0, 0, 'WITHSCORES')
  if earliest[2] then
    redis.call('ZADD', KEYS[2], earliest[2], entity)
  else
    redis.call('ZREM', KEYS[2], entity)
  end
end
"""


def load_client() -> Any:
    """Return the module `redis`.

    Raises:
        RecipeError: If it is not installed.
    """
    try:
        import redis
    except ImportError:
        raise RecipeError(
            "Online store: redis is not installed; pip install 'skewless[redis]'"
        ) from None
    return redis


class _Address(NamedTuple):
    """Where a store is.

    Attributes:
        place: Where, for messages: no user, no password.
        target: What the client takes. May hold a password.
        prefix: What every name begins with.
        secrets: What must not be in any message.
    """

    place: str
    target: str
    prefix: str
    secrets: tuple[str, ...]

    def __repr__(self) -> str:
        return self.place

    @staticmethod
    def of(url: str) -> _Address:
        """Return the address that a URL means.

        Raises:
            RecipeError: If it is none. A part of it may be a password, so none is shown.
        """
        try:
            parts = _with_password(urllib.parse.urlsplit(url))
            options = urllib.parse.parse_qsl(parts.query, strict_parsing=bool(parts.query))
            port, number = parts.port or 6379, parts.path.removeprefix("/") or "0"
        except ValueError:
            number = ""
        if not re.fullmatch("[0-9]+", number) or not parts.hostname or parts.fragment:
            raise RecipeError(
                "Online store: expected redis://host:port/number, with a password quoted as in "
                "every URL; correct the address"
            )
        place = f"{parts.scheme}://{parts.hostname}:{port}/{number}"
        rest = [(name, value) for name, value in options if name != "prefix"]
        given = [value for name, value in rest if name == "password"]
        secrets = [parts.password or "", urllib.parse.unquote(parts.password or ""), *given]
        return _Address(
            place,
            urllib.parse.urlunsplit(parts._replace(query=urllib.parse.urlencode(rest))),
            dict(options).get("prefix", _PREFIX),
            tuple(filter(None, secrets)),
        )

    def masked(self, text: object) -> str:
        """Return a text on one line, without secrets."""
        line = re.sub(r"\s+", " ", str(text)).strip()
        for secret in sorted(self.secrets, key=len, reverse=True):
            line = line.replace(secret, "***")
        return line


def _with_password(parts: urllib.parse.SplitResult) -> urllib.parse.SplitResult:
    """Return an address with the password that an environment variable holds: `env:NAME`.

    Raises:
        RecipeError: If there is no such variable.
    """
    name = (parts.password or "").removeprefix("env:")
    if name == (parts.password or ""):
        return parts
    if name not in os.environ:
        raise RecipeError(
            f'Online store: there is no environment variable "{name}" with the password; set it'
        )
    user, place = parts.username or "", parts.netloc.rpartition("@")[2]
    password = urllib.parse.quote(os.environ[name], safe="")
    return parts._replace(netloc=f"{user}:{password}@{place}")


def _impatience(timeout: float) -> dict[str, Any]:
    """Return options by which nobody waits longer, or for a second time."""
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as Lost
    from redis.retry import Retry

    # A server that has been started again has closed the connections: the first try may fail.
    retry = Retry(NoBackoff(), 1, supported_errors=(Lost,))
    return {"socket_connect_timeout": timeout, "socket_timeout": timeout, "retry": retry}


class RedisStore:
    """An online store in a Redis of version 6.2 or newer, and not a cluster of them.

    A commit lasts as long as the server makes it last. One that loses nothing has
    `appendonly yes`, `appendfsync always` and the `maxmemory-policy` `noeviction`.

    Args:
        url: `redis://host:port/db`, `rediss://` for TLS, `redis://:env:NAME@host:port/db` for a
            password that the environment variable NAME holds; with `?prefix=...` for another one
            than `skewless:`, and the client's own options, such as `&socket_timeout=1`.
        timeout: For how many seconds to wait for the server, where that is not a writer's time.

    Raises:
        RecipeError: If the URL is wrong, or the client is not installed.
        RunError: If the server does not answer.
    """

    def __init__(self, url: str, timeout: float | None = None) -> None:
        self._address = _Address.of(url)
        self._errors = load_client().exceptions
        patience = _PATIENCE if timeout is None else _impatience(timeout)
        try:
            self._client = load_client().Redis.from_url(self._address.target, **patience)
            with self._said():
                self._client.ping()
        except (TypeError, ValueError) as error:
            raise RecipeError(
                f"{self._address.place}: {self._address.masked(error)}; correct what is after "
                "the question mark"
            ) from None
        except RunError:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"RedisStore({self._address.place!r})"

    def read(self, wanted: Sequence[Wanted]) -> list[list[tuple[int, bytes]]]:
        """Return tiles as of one moment: see `Reader`."""
        keys = [self._group(group)[0] + entity for group, entity, _, _ in wanted]
        bounds = [bound for _, _, first, stop in wanted for bound in (first, f"({stop}")]
        with self._said():
            found = self._client.eval(_READ, len(keys), *keys, *bounds)
        return [[_start_and_value(member) for member in members] for members in found]

    def notes(self, prefix: str = "") -> dict[str, bytes]:
        """Return the notes whose names begin with `prefix`."""
        with self._said():
            # The names first: values may be rows by the thousand that nobody asks for now.
            names = self._client.hkeys(self._key("notes"))
            wanted = [name for name in names if name.decode().startswith(prefix)]
            values = self._client.hmget(self._key("notes"), wanted) if wanted else []
        found = zip(wanted, values, strict=True)
        return {name.decode(): value for name, value in found if value is not None}

    @contextlib.contextmanager
    def transaction(self) -> Iterator[RedisTransaction]:
        """Give a transaction: see `OnlineStore`. Its changes are sent at the end.

        Raises:
            RunError: If there was another one meanwhile.
        """
        with self._said(), self._client.pipeline() as pipeline:
            pipeline.watch(self._key("version"))
            transaction = RedisTransaction(self)
            yield transaction
            if commands := transaction.commands():
                pipeline.multi()
                for command in commands:
                    pipeline.execute_command(*command)
                pipeline.incr(self._key("version"))
                pipeline.execute()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _key(self, name: str) -> bytes:
        return f"{self._address.prefix}{name}".encode()

    def _group(self, group: str) -> tuple[bytes, bytes]:
        """Return what the keys of a group's entities begin with, and the key of its index."""
        name = urllib.parse.quote(group, safe="")  # without a colon
        return self._key(f"tiles:{name}:"), self._key(f"entities:{name}")

    def _values(self, group: str, keys: Sequence[tuple[bytes, int]]) -> Iterator[bytes | None]:
        for some in _pieces(keys):
            arguments = itertools.chain.from_iterable(some)
            with self._said():
                found = self._client.eval(_TILES, 2, *self._group(group), *arguments)
            yield from (member and member[_START.size :] for member in found)

    def _until(self, ids: Sequence[bytes]) -> Iterator[float | None]:
        for some in _pieces(ids):
            with self._said():
                yield from self._client.zmscore(self._key("ids"), some)

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        """Raise what the client says as one line."""
        place = self._address.place
        try:
            yield
        except self._errors.WatchError as error:
            lost = error.__context__  # the client says in either case that another one wrote
            if isinstance(lost, (self._errors.ConnectionError, self._errors.TimeoutError)):
                raise RunError(
                    f"{place}: the connection was lost in a transaction, which may be committed "
                    f"or not ({self._address.masked(lost)}); check the server, and start again"
                ) from None
            raise RunError(
                f"{place}: another writer writes to this store, prefix={self._address.prefix}; "
                "expected one writer; stop the other one, or give each a prefix"
            ) from None
        except self._errors.RedisError as error:
            raise RunError(
                f"{place}: {self._address.masked(error)}; check the address and the server"
            ) from None


class RedisTransaction:
    """Changes that are to be sent, over what the server has."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._tiles: dict[str, dict[bytes, dict[int, bytes]]] = {}
        self._ids: dict[bytes, int] = {}
        self._notes: dict[str, bytes | None] = {}
        # What the server has that is older is to be forgotten.
        self._starts: dict[str, int] = {}
        self._oldest_id = _NEVER

    def read(self, wanted: Sequence[Wanted]) -> list[list[tuple[int, bytes]]]:
        """Return tiles: see `Reader`."""
        found = self._store.read(wanted)
        return [self._over(one, tiles) for one, tiles in zip(wanted, found, strict=True)]

    def _over(self, wanted: Wanted, tiles: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        group, entity, first, stop = wanted
        oldest = self._starts.get(group, _NEVER)
        own = self._tiles.get(group, {}).get(entity, {})
        merged = {start: value for start, value in tiles if start >= oldest}
        merged.update((start, value) for start, value in own.items() if first <= start < stop)
        return sorted(merged.items())

    def notes(self, prefix: str = "") -> dict[str, bytes]:
        """Return the notes whose names begin with `prefix`."""
        own = {name: value for name, value in self._notes.items() if name.startswith(prefix)}
        merged = {**self._store.notes(prefix), **own}
        return {name: value for name, value in merged.items() if value is not None}

    def unseen(self, ids: Sequence[bytes], until: Sequence[int]) -> list[bool]:
        """Say which ids are new, and remember those: see `Transaction`."""
        new = []
        known = self._store._until(ids)
        for one, end, remembered in zip(ids, until, known, strict=True):
            there = remembered is not None and remembered >= self._oldest_id
            new.append(not there and one not in self._ids)
            if new[-1]:
                self._ids[one] = end
        return new

    def tiles(self, keys: Sequence[tuple[str, bytes, int]]) -> list[bytes | None]:
        """Return the present values of exactly these tiles: see `Transaction`."""
        places = collections.defaultdict(list)
        for group, entity, start in keys:
            places[group].append((entity, start))
        found = {group: self._store._values(group, some) for group, some in places.items()}
        return [self._value(key, next(found[key[0]])) for key in keys]

    def _value(self, key: tuple[str, bytes, int], value: bytes | None) -> bytes | None:
        group, entity, start = key
        if start < self._starts.get(group, _NEVER):
            value = None
        return self._tiles.get(group, {}).get(entity, {}).get(start, value)

    def put(self, tiles: Iterable[Tile]) -> None:
        """Write tiles, over those that are there."""
        for group, entity, start, value in tiles:
            self._tiles.setdefault(group, {}).setdefault(entity, {})[start] = value

    def set_note(self, name: str, value: bytes | None) -> None:
        """Write a note, or delete it where the value is None."""
        self._notes[name] = value

    def expire(self, starts: Mapping[str, int], ids: int) -> None:
        """Forget what is too old: see `Transaction`."""
        for group, oldest in starts.items():
            self._starts[group] = max(oldest, self._starts.get(group, _NEVER))
            for entity, own in self._tiles.get(group, {}).items():
                kept = {start: value for start, value in own.items() if start >= oldest}
                self._tiles[group][entity] = kept
        self._oldest_id = max(ids, self._oldest_id)
        self._ids = {one: until for one, until in self._ids.items() if until >= ids}

    def commands(self) -> list[tuple[Any, ...]]:
        """Return the commands that make the changes: what is forgotten goes first."""
        return [*self._tile_commands(), *self._id_commands(), *self._note_commands()]

    def _tile_commands(self) -> Iterator[tuple[Any, ...]]:
        for group, oldest in self._starts.items():
            yield ("EVAL", _EXPIRE, 2, *self._store._group(group), f"({oldest}")
        for group, entities in self._tiles.items():
            members = [
                (entity, start, _START.pack(start) + value)
                for entity, own in entities.items()
                for start, value in own.items()
            ]
            for some in _pieces(members):
                arguments = itertools.chain.from_iterable(some)
                yield ("EVAL", _PUT, 2, *self._store._group(group), *arguments)

    def _id_commands(self) -> Iterator[tuple[Any, ...]]:
        key = self._store._key("ids")
        if self._oldest_id > _NEVER:
            yield ("ZREMRANGEBYSCORE", key, "-inf", f"({self._oldest_id}")
        for some in _pieces([(until, one) for one, until in self._ids.items()]):
            yield ("ZADD", key, *itertools.chain.from_iterable(some))

    def _note_commands(self) -> Iterator[tuple[Any, ...]]:
        key = self._store._key("notes")
        for name, value in self._notes.items():
            yield ("HDEL", key, name) if value is None else ("HSET", key, name, value)


def _start_and_value(member: bytes) -> tuple[int, bytes]:
    (start,) = _START.unpack_from(member)
    return start, member[_START.size :]


def _pieces(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """Yield as many as go into one command."""
    for begin in range(0, len(items), _AT_ONCE):
        yield items[begin : begin + _AT_ONCE]
