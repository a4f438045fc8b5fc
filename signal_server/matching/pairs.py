"""Who met whom, until when: the memory of one pool."""

from __future__ import annotations

from collections import deque


class PairMemory:
    """Unordered pairs of peers, each until a time in ms.

    A time that has passed does not count, whether it was swept or not. All pairs live equally long, so the
    order of remembering is the order of forgetting, and a sweep looks at old ones only.
    """

    __slots__ = ("_fading", "_met")

    def __init__(self) -> None:
        self._met: dict[str, dict[str, int]] = {}
        self._fading: deque[tuple[int, str, str]] = deque()

    def __len__(self) -> int:
        return sum(map(len, self._met.values())) // 2

    def remember(self, one: str, other: str, *, until_ms: int) -> None:
        if one == other:
            return
        self._met.setdefault(one, {})[other] = until_ms
        self._met.setdefault(other, {})[one] = until_ms
        self._fading.append((until_ms, one, other))

    def have_met(self, one: str, other: str, *, now_ms: int) -> bool:
        return self._met.get(one, {}).get(other, 0) > now_ms

    def sweep(self, now_ms: int) -> None:
        """Delete the pairs whose time has passed."""
        while self._fading and self._fading[0][0] <= now_ms:
            _, one, other = self._fading.popleft()
            # A pair that met again since then has a later time, and a later entry.
            if not self.have_met(one, other, now_ms=now_ms):
                self._forget(one, other)
                self._forget(other, one)

    def _forget(self, one: str, other: str) -> None:
        met = self._met.get(one)
        if met is not None:
            met.pop(other, None)
            if not met:
                del self._met[one]
