"""What every store promises. There is one matcher, and it does not ask which store it has."""

from __future__ import annotations

import random
import secrets
from abc import ABC, abstractmethod
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from hashlib import blake2b

from ...errors import Unavailable
from ...messages import Arrival, Delivery

_random = random.SystemRandom()  # whoever has seeded the common one keeps its sequence

LEAVE_SECONDS = 2.0
"""A LEAVE that overtakes its CONNECT is remembered for so long."""


class Name(Enum):
    """What became of the name of a request, its REQUEST parameter."""

    TAKEN = "taken"  # it is this request's now
    IN_USE = "in use"  # of another request that is open
    LEFT = "left"  # its LEAVE came before it


@dataclass(slots=True)
class Outcome:
    """What one atomic step decided.

    Attributes:
        deliveries: replies for requests that are open in this process. An event may also decide those of
            others: whose request has run out of time, or was returned and matched.
        good: `answer`, `bounce`: the nonce was good. `withdraw`: no reply will come. `claim`: write it now.
        responder: `settle`: the peer whose answer was delivered.
        lost: requests of this process of which the store knows nothing any more: no reply will come.
        is_crowded: `connect`: it would have to wait, and too many of its address do. Nothing was done.
    """

    deliveries: list[Delivery] = field(default_factory=list)
    good: bool = True
    responder: bytes | None = None
    lost: list[str] = field(default_factory=list)
    is_crowded: bool = False


class Nonces:
    """Nonces of 22 URL-safe characters, 128 random bits. The kernel is asked for many at a time."""

    def __init__(self) -> None:
        self._ready: list[str] = []

    def __call__(self) -> str:
        try:
            return self._ready.pop()
        except IndexError:  # another thread may make some now, too
            random = secrets.token_bytes(16 * 64)
            pieces = [random[at : at + 16] for at in range(0, len(random), 16)]
            first, *self._ready = [urlsafe_b64encode(each)[:22].decode("ascii") for each in pieces]
            return first


@dataclass(frozen=True, slots=True)
class PoolCounts:
    """What stands in one pool.

    Attributes:
        pool: from `pool_hash`. A namespace may be what lets people in, so nobody is shown it.
        waiting, offered: requests.
        pairs: that are remembered.
    """

    pool: str
    waiting: int
    offered: int
    pairs: int


def pool_hash(pool: str) -> str:
    """A pool's name for those who need not know its namespace."""
    return urlsafe_b64encode(blake2b(pool.encode(), digest_size=15).digest()).decode()


class Store(ABC):
    """The state of the server. Each method is atomic, over all processes that share the store.

    Raises, each of them:
        Unavailable: the store is away; nothing is known to have happened.

    Attributes:
        blocks: its calls may wait for another process, so they are not made from an event loop's callback.
    """

    blocks = False

    @abstractmethod
    def start(self, apply: Callable[[Outcome], object]) -> None:
        """From the first event on, call `apply` with what is decided outside of this process's events."""

    @abstractmethod
    def connect(self, arrival: Arrival, *, may_wait: bool) -> Outcome:
        """Match a newcomer with the oldest offer that it may meet (`DEMOTE`), or let it wait (no delivery),
        or tell it that there is nobody (`NO_PEER`), if it may not wait, or has left already (`leave`).

        What is left in its `counts` is counted before, here and in `answer` and `bounce`.

        Raises:
            RateLimited: one of the counts is full; nothing else was done.
        """

    @abstractmethod
    def answer(self, arrival: Arrival, nonce: str) -> Outcome:
        """Take an answer. Not `good`: nothing was changed.

        The initiator gets an `ANSWER`, whose process must `claim` it, write it and `settle` it. Then the
        responder gets its own reply, within 3 s: `DELIVERED`, or the next `DEMOTE`, or `NO_PEER`.
        """

    @abstractmethod
    def bounce(self, arrival: Arrival, nonce: str, *, may_wait: bool) -> Outcome:
        """Give the offer back and take the bouncing peer's own. Not `good`: nothing was changed."""

    @abstractmethod
    def release(self, nonce: str) -> Outcome:
        """Give the offer back, because its `DEMOTE` could not be written."""

    @abstractmethod
    def claim(self, nonce: str) -> Outcome:
        """Ask, just before an `ANSWER` is written, whether it may be. `good` at most once for a nonce."""

    @abstractmethod
    def settle(self, nonce: str, *, written: bool) -> Outcome:
        """Say whether an `ANSWER` was written to the initiator's open connection."""

    @abstractmethod
    def withdraw(self, ticket: str, *, unless_offered: bool = False) -> Outcome:
        """Take a waiting or offered request out. Not `good`: its reply is decided already and will come.

        With `unless_offered` one whose offer is out with a responder stays, and is not `good` either.
        """

    @abstractmethod
    def abandon(self, ticket: str) -> None:
        """A request was ended without asking: take it out soon, if it is there. Does not block."""

    @abstractmethod
    def take_name(self, name: str, leaver: bytes, ticket: str, pool: str) -> Name:
        """Let a `leave` of this name by this leaver end the request of this ticket in this pool, until
        `drop_name`."""

    @abstractmethod
    def drop_name(self, name: str) -> None:
        """The request of this name is over."""

    @abstractmethod
    def leave(self, name: str, leaver: bytes) -> Outcome:
        """Withdraw the request of this name, if it is this leaver's: it ends with `NO_PEER`.

        One that has not come yet is withdrawn when it comes, for `LEAVE_SECONDS`.
        """

    @abstractmethod
    def expire(self) -> Outcome:
        """End what has run out of time."""

    @abstractmethod
    def is_idle(self) -> bool:
        """Is there nothing for which `expire` need be called?"""

    @abstractmethod
    def remember_once(self, key: str, *, seconds: float) -> bool:
        """Remember a key for `seconds`. Returns whether it was remembered already."""

    @abstractmethod
    def forget_once(self, key: str) -> None:
        """Forget a key of `remember_once`."""

    @abstractmethod
    def statistics(self) -> dict[str, int]:
        """Counts, without a signal, a peer or a namespace."""

    @abstractmethod
    def pools(self) -> list[PoolCounts]:
        """The pools with anything in them. It looks through all of them, so it is for an operator only."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Can it decide now?"""


def away(kind: type[Unavailable] = Unavailable) -> Unavailable:
    """The shared store is away. Clients ask again, but not all in the same second."""
    return kind("the store is away", retry_after=_random.randint(1, 3))
