"""What is decided in Redis itself: one Lua text, as functions or as scripts.

Where the server has functions (Redis 7 and newer, Valkey), the text is loaded once as a library, so its
parts are not made anew for each call. Elsewhere, or where an ACL forbids it, each event is a script.

The library's name holds a hash of its text, and so does that of each function: two releases that share a
Redis have a library each, and neither runs the other's. The process that loads a new library deletes those
of other releases. One of an old release that finds its own gone loads it again and deletes nothing, so the
two do not take turns. A function that is not there was not run, so such a call is made again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from ...messages import Arrival
from ..rules import Times
from .base import away, pool_hash
from .redis_client import Address, Servers
from .redis_protocol import EPOCH_LENGTH, Packed, Refused, bulk, pack, refusals

PREFIX: Final = "spacerift2"
"""Of every key and channel. The number changes with the meaning of the keys, so that two releases do not
mix."""

FOLDER = Path(__file__).parent / "lua"
"""Of the scripts."""

EVENTS: Final = ("connect", "answer", "bounce", "release", "settle", "withdraw", "leave", "poll")
KEYS: Final = ("offers", "handovers", "due", "index", "mail")
"""What a shard has in each life of its server, beside its `pairs` and its `life`."""

VIEWS: Final = ("statistics", "pools")
COMMON: Final = ("counts", "state", "rules")
"""Files that all of these need."""

TRIES: Final = 4

log = logging.getLogger(__name__)


class Place(NamedTuple):
    """A shard, as the words that begin each call there.

    Attributes:
        key: that of its pairs.
        keys: all of them as they go over the wire, in pieces between which the epoch goes.
        common: a word that is always the same, as it goes over the wire.
    """

    key: bytes
    keys: Sequence[bytes]
    common: bytes


class ScriptReply(NamedTuple):
    """What an event returns; see state.lua, and poll.lua for what is `more` there."""

    status: bytes
    is_good: int = 0
    responder: bytes = b""
    deliveries: Sequence[bytes] = ()
    more: Sequence[Any] = ()


class Script:
    """A script by its hash, for keys that are not the rules'."""

    def __init__(self, servers: Servers, *names: str) -> None:
        self._servers = servers
        self._source = b"".join(map(_read, names))
        self._command = b"EVALSHA", _sha1(self._source)

    def run(self, key: bytes, *words: bytes) -> Any:
        """Run it where `key` is.

        Args:
            words: the number of keys, the keys, the arguments.

        Raises:
            Unavailable: it is not known whether it was run.
        """
        packed = pack(*self._command, *words)
        for _ in range(TRIES):
            try:
                return self._servers.ask(key, packed)
            except Refused as refused:
                if not refused.is_unknown:
                    raise refused_by(refused) from refused
                self._servers.call(key, pack(b"SCRIPT", b"LOAD", self._source))
        raise away()  # it forgets as fast as it learns: it was started anew just now


class Library:
    """The rules, as Redis runs them."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        common = b"".join(map(_read, COMMON))
        text = common + b"".join(map(_read, (*EVENTS, *VIEWS)))
        self._name = b"spacerift_" + _sha1(text)[:12]
        functions = b"".join(_function(self._name.decode(), name) for name in (*EVENTS, *VIEWS))
        self._text = b"#!lua name=%b\n%b%b" % (self._name, text, functions)
        self._sources = {name: common + _read(name) + _call(name) for name in (*EVENTS, *VIEWS)}
        self._commands = {
            True: {
                name: bulk(b"FCALL") + bulk(b"%b_%b" % (self._name, name.encode())) for name in self._sources
            },
            False: {name: bulk(b"EVALSHA") + bulk(_sha1(text)) for name, text in self._sources.items()},
        }
        self._heads: dict[tuple[str, bytes, int, int, bool], Packed] = {}
        self._loaded: set[Address | None] = set()
        self.uses_functions = True

    def run(self, name: str, place: Place, *words: bytes, keys: Sequence[bytes] = ()) -> Any:
        """Run an event.

        Args:
            keys: more keys, after those of the place, and on the same server.

        Raises:
            Unavailable: it is not known whether it was run.
        """
        more_keys = b"".join([b"$%d\r\n%b\r\n" % (len(key), key) for key in keys])
        packed = b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])
        rest = place.keys[-1] + more_keys + place.common + packed
        for _ in range(TRIES):
            is_function = self.uses_functions
            head = self._head(name, place, len(keys), len(words), is_function)
            try:
                return self._servers.ask(place.key, *head, rest)
            except Refused as refused:
                if refused.is_divided:
                    self._servers.is_divided = True  # the next calls have none of these keys
                self._load(name, place.key, refused, is_function)
        raise away()  # it forgets as fast as it learns: it was started anew just now

    def view(self, name: str, place: Place) -> Any:
        """Run one that changes nothing."""
        for _ in range(TRIES):
            is_function = self.uses_functions
            try:
                head = self._head(name, place, 0, 0, is_function)
                return self._servers.ask(place.key, *head, place.keys[-1] + place.common)
            except Refused as refused:
                self._load(name, place.key, refused, is_function)
        raise away()

    def _head(self, name: str, place: Place, keys: int, words: int, is_function: bool) -> Packed:
        """A command up to the last of the place's keys, of so many more keys and words."""
        head = self._heads.get((name, place.key, keys, words, is_function))
        if head is None:
            all_keys = 2 + len(KEYS) + keys
            command, number = self._commands[is_function][name], bulk(b"%d" % all_keys)
            first = b"*%d\r\n%b%b%b" % (4 + all_keys + words, command, number, place.keys[0])
            head = first, *place.keys[1:-1]
            if words <= 16:  # most have always as many
                self._heads[name, place.key, keys, words, is_function] = head
        return head

    def _load(self, name: str, key: bytes, refused: Refused, is_function: bool) -> None:
        """Let the server know what it did not know."""
        if is_function and refused.is_forbidden:
            self.uses_functions = False
        elif not refused.is_unknown:
            raise refused_by(refused) from refused
        elif not is_function:
            self._servers.call(key, pack(b"SCRIPT", b"LOAD", self._sources[name]))
        else:
            self._load_functions(key)

    def _load_functions(self, key: bytes) -> None:
        try:
            self._servers.ask(key, pack(b"FUNCTION", b"LOAD", self._text))
        except Refused as refused:
            if refused.is_forbidden:
                self.uses_functions = False
            elif "already exists" not in str(refused):  # else another process was faster
                raise refused_by(refused) from refused
            return
        node = self._servers.node_of(key)
        if node not in self._loaded:
            self._loaded.add(node)
            self._delete_others(key)

    def _delete_others(self, key: bytes) -> None:
        try:
            found = self._servers.ask(key, pack(b"FUNCTION", b"LIST", b"LIBRARYNAME", b"spacerift_*"))
            for library in found:
                other = dict(zip(library[::2], library[1::2], strict=True))[b"library_name"]
                if other != self._name:
                    self._servers.ask(key, pack(b"FUNCTION", b"DELETE", other))
        except Refused:  # another process was faster, or an ACL allows no more
            log.info("libraries of other releases stay in Redis")


def key_of(shard: int, name: str) -> bytes:
    return f"{PREFIX}:{{{shard}}}:{name}".encode()


def place_of(shard: int, times: Times, lease_ms: int) -> Place:
    common = times.request, times.answer, times.write, times.pair_memory, lease_ms, shard
    pairs, life, begin = (key_of(shard, name) for name in ("pairs", "life", ""))
    keys = bulk(pairs) + bulk(life)
    for name in KEYS:
        end = f":{name}".encode()
        keys += b"$%d\r\n%b%b%b\r\n" % (len(begin) + EPOCH_LENGTH + len(end), begin, _EPOCH, end)
    return Place(pairs, keys.split(_EPOCH), bulk(" ".join(map(str, common)).encode()))


_EPOCH: Final = b"\0"

_pool_hash = lru_cache(1024)(pool_hash)


def word_of(arrival: Arrival) -> bytes:
    """What an event must know of a request beside its signal: its fields as state.lua lists them."""
    # Redis never sees a namespace.
    return (
        f"{arrival.ticket} {_pool_hash(arrival.pool)} {arrival.peer.hex()} {arrival.bearer.hex()}"
        f" {arrival.digest.hex()} {arrival.wait_ms} {arrival.rematch:d} {bool(arrival.name):d}"
    ).encode()


def refused_by(refused: Refused) -> Exception:
    """What a caller is told whose command was refused."""
    refusals.tell(refused)
    return away()


def _call(name: str) -> bytes:
    """The end of a script of its own."""
    return f"\nreturn {_run(name)}\n".encode()


def _function(library: str, name: str) -> bytes:
    """The line that makes a function of it. While a library is loaded Lua has no `pairs` and no `unpack`."""
    flags = "" if name in EVENTS else "'no-writes'"
    callback = f"function(KEYS, ARGV) return {_run(name)} end"
    named = f"function_name = '{library}_{name}', callback = {callback}, flags = {{ {flags} }}"
    return f"\nredis.register_function({{ {named} }})\n".encode()


def _run(name: str) -> str:
    return f"run(events.{name}, KEYS, ARGV)" if name in EVENTS else f"look(views.{name}, KEYS)"


def _read(name: str) -> bytes:
    return (FOLDER / f"{name}.lua").read_bytes()


def _sha1(text: bytes) -> bytes:
    return hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
