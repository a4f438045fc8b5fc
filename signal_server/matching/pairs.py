"""Who met whom, until when: the memory of pairs."""

from __future__ import annotations

from collections import Counter
from enum import IntEnum
from typing import Final

PEER_BYTES: Final = 16


class Met(IntEnum):
    """How two peers met."""

    LINKED = 0  # they may meet again if both say REMATCH
    BOUNCED = 1  # one of them did not want the other


class PairMemory:
    """Unordered pairs of peers of one pool, each until a time in ms.

    A time that has passed does not count, whether it was swept or not. All pairs live equally long, so the
    order of the dictionary is the order of forgetting, and a sweep looks at old ones only.

    An hour of pairs is the most that a server remembers, so each is one key (the pool, then the two peers of
    16 bytes, the smaller one first) and one number (the time, and the kind in its last bit).
    """

    __slots__ = ("_pairs",)

    def __init__(self) -> None:
        self._pairs: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._pairs)

    def remember(
        self, pool: bytes, one: bytes, other: bytes, met: Met, *, until_ms: int, now_ms: int
    ) -> None:
        """Remember a pair. A link does not make a bounce that still counts a link."""
        if met is Met.LINKED and self.met(pool, one, other, now_ms=now_ms) is Met.BOUNCED:
            met = Met.BOUNCED
        key = _key(pool, one, other)
        self._pairs.pop(key, None)  # so that it goes to the end of the order
        self._pairs[key] = until_ms << 1 | met

    def met(self, pool: bytes, one: bytes, other: bytes, *, now_ms: int) -> Met | None:
        """How the two met, if that still counts."""
        value = self._pairs.get(_key(pool, one, other))
        if value is None or value >> 1 <= now_ms:
            return None
        return Met.BOUNCED if value & 1 else Met.LINKED

    def sweep(self, now_ms: int) -> None:
        """Delete the pairs whose time has passed."""
        old = []
        for key, value in self._pairs.items():
            if value >> 1 > now_ms:
                break
            old.append(key)
        for key in old:
            del self._pairs[key]

    def by_pool(self) -> Counter[str]:
        """How many pairs of each pool are remembered."""
        return Counter(key[: -2 * PEER_BYTES].decode() for key in self._pairs)


def _key(pool: bytes, one: bytes, other: bytes) -> bytes:
    return pool + one + other if one < other else pool + other + one
