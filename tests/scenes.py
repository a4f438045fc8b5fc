"""Peers that come and go, in scenes: what tests/soak.py has a server play for an hour."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Any

import gevent
from gevent.pool import Group

from forgeries import QuickPeer, forgery
from wire import Wire

LATE_SECONDS = 0.2
SCENE_SECONDS = 3
"""No more than are due in so many seconds play at a time; most are over at once, so about half of it do."""
LEAD_SECONDS = 1  # so that who is to come first does, on a busy machine too
SIGNAL = "v=0 candidate " * 107  # 1.5 KB, an offer with a few candidates
LINKED = ["ANSWER", "DELIVERED"]
ALONE = ["NO_NAMESPACE_PEER", "NO_PEER"]

SHARES = {
    "strangers": 75.6,
    "crowded": 10,
    "gone": 4,
    "left": 3,
    "left_early": 1,
    "in_vain": 1,
    "bounced": 2,
    "silent": 1,
    "again": 2,
    "signed": 0.4,
}
"""How many in a hundred play which of the scenes below."""


class Play:
    """Peers that come and go.

    Args:
        friends_seconds: the pause of two that were linked and come again, which is to be above PAIR_LIMIT.

    Attributes:
        linked: pairs.
        done: scenes that went as they should.
        odd: those that did not, and how they ended.
        waits: seconds in which two strangers were linked, from their first system call on.
    """

    def __init__(self, port: int, seed: int, *, friends_seconds: float = 6) -> None:
        self._port, self._friends_seconds = port, friends_seconds
        self._random = random.Random(seed)
        self._number = 0
        self._signers: list[QuickPeer] = []  # those that have nothing to do
        self.linked = 0
        self.done: Counter[str] = Counter()
        self.odd: Counter[str] = Counter()
        self.waits: list[float] = []

    def go_on(self, pairs: float, seconds: float, *, unsigned: bool = False) -> None:
        """So many scenes a second, most of which are one pair; with `unsigned`, none in which somebody signs.

        What is late is left out: after a pause of ours the server would get it all at once.
        """
        group, started, due = Group(), time.monotonic(), 0.0
        shares = {name: share for name, share in SHARES.items() if not (unsigned and name == "signed")}
        names, weights = zip(*shares.items(), strict=True)
        first = list(shares)  # each once, so that none is missing in a short run
        while (now := time.monotonic()) < started + seconds:
            due = max(due, now - LATE_SECONDS - started)
            while started + due < now and len(group) < pairs * SCENE_SECONDS:
                due += 1 / pairs
                self._number += 1
                name = first.pop() if first else self._random.choices(names, weights)[0]
                group.start(gevent.Greenlet(self._play, name, f"{self._number:x}"))
            gevent.sleep(0.005)
        if not group.join(timeout=60):
            self.odd["did not end"] += len(group)
            group.kill()

    def _play(self, name: str, room: str) -> None:
        scene: Callable[[str], object] = getattr(self, name)
        try:
            told = scene(room)
        except OSError as error:
            told = type(error).__name__
        if told is None:
            self.done[name] += 1
        else:
            self.odd[f"{name}: {told}"] += 1

    def wire(self) -> Any:
        number = self._random.randrange(16_000)
        return closing(
            Wire(self._port, f"127.{1 + number // 4000}.{number % 4000 // 250}.{1 + number % 250}")
        )

    def name(self) -> str:
        return f"{self._random.getrandbits(128):032x}"

    def meet(self, room: str, peer: str = "", **more: object) -> str:
        """One peer, from its connection until it is linked or has nobody. Returns how it ended."""
        try:
            return self._meet(room, peer, **more)
        except OSError:
            return "CUT"

    def _meet(self, room: str, peer: str, **more: object) -> str:
        said = {"TYPE": "CONNECT", "NAMESPACE": room, "FINGERPRINT": peer or self.name(), **more}
        with self.wire() as wire:
            _, told = wire.ask(SIGNAL=SIGNAL, **said)
            if told["TYPE"] == "DEMOTE":
                _, told = wire.ask(SIGNAL=SIGNAL, NONCE=told["NONCE"], **said)
                self.linked += told["TYPE"] == "DELIVERED"
        return str(told["TYPE"])

    def two(self, room: str, *peers: str, **more: object) -> object:
        """Two that link. Returns how it ended if they did not."""
        one, other = peers or ("", "")
        first = gevent.spawn(self.meet, room, one, **more)
        ends = sorted((self.meet(room, other, **more), first.get()))
        return None if ends == LINKED else ends

    # --- scenes: each returns None, or what went otherwise -------------------------------------------------

    def strangers(self, room: str) -> object:
        started = time.monotonic()
        told = self.two(room)
        self.waits.append(time.monotonic() - started)
        return told

    def crowded(self, room: str) -> object:
        end = self.meet(f"lobby {int(room, 16) % 20}" if int(room, 16) % 21 else "")
        return None if end in LINKED or end in ALONE else end

    def gone(self, room: str) -> object:
        """The first one hangs up. Who comes then waits for the next."""
        with self.wire() as wire:
            wire.send(TYPE="CONNECT", NAMESPACE=room, FINGERPRINT=self.name(), SIGNAL=SIGNAL)
            gevent.sleep(self._random.uniform(0.1, 3))
        gevent.sleep(0.5)
        return self.two(room)

    def left(self, room: str) -> object:
        return self._leave(room, self._random.uniform(0.1, 3))

    def left_early(self, room: str) -> object:
        return self._leave(room, -self._random.uniform(0.1, 1))

    def _leave(self, room: str, after: float) -> object:
        peer, request = self.name(), self.name()
        with self.wire() as wire, self.wire() as other:

            def leave() -> str:
                return str(other.ask(TYPE="LEAVE", REQUEST=request, FINGERPRINT=peer)[1]["TYPE"])

            told = leave() if after < 0 else ""
            gevent.sleep(-min(0, after))
            wire.send(TYPE="CONNECT", NAMESPACE=room, FINGERPRINT=peer, REQUEST=request, SIGNAL=SIGNAL)
            gevent.sleep(max(0, after))
            told = told or leave()
            if told != "LEFT":
                return told
            asked = time.monotonic()
            end, took = wire.reply()[1]["TYPE"], time.monotonic() - asked
            return self.two(room) if end in ALONE and took < 5 else f"{end} after {took:.0f} s"

    def in_vain(self, room: str) -> object:
        end = self.meet(room)
        return None if end in ALONE else end

    def bounced(self, room: str) -> object:
        """Bob bounces Alice's offer; both are linked, with two others."""
        alice = gevent.spawn(self.meet, room)
        gevent.sleep(LEAD_SECONDS)
        with self.wire() as wire:
            said = {"TYPE": "CONNECT", "NAMESPACE": room, "FINGERPRINT": self.name(), "SIGNAL": SIGNAL}
            _, told = wire.ask(**said)
            if told["TYPE"] != "DEMOTE":
                return told["TYPE"]
            wire.send(**said | {"TYPE": "BOUNCE", "NONCE": told["NONCE"]})
            gevent.sleep(LEAD_SECONDS)
            others = [self.meet(room) for _ in range(2)]
            ends = [alice.get(), wire.reply()[1]["TYPE"], *others]
        return None if ends == ["ANSWER"] * 2 + ["DELIVERED"] * 2 else ends

    def silent(self, room: str) -> object:
        """Bob takes an offer and is gone, so another has it once ANSWER_TIMEOUT is over."""
        alice = gevent.spawn(self.meet, room)
        gevent.sleep(LEAD_SECONDS)
        with self.wire() as wire:
            wire.ask(TYPE="CONNECT", NAMESPACE=room, FINGERPRINT=self.name(), SIGNAL=SIGNAL)
        ends = sorted((self.meet(room), alice.get()))
        return None if ends == LINKED else ends

    def again(self, room: str) -> object:
        """Two friends whose link is lost."""
        peers = self.name(), self.name()
        told = self.two(room, *peers, REMATCH="1")
        gevent.sleep(self._friends_seconds)
        return told or self.two(room, *peers, REMATCH="1")

    def signed(self, room: str) -> object:
        """Two signed peers; before them one with a forgery."""
        one, other, bad = mine = [self._signers.pop() if self._signers else QuickPeer("") for _ in range(3)]
        try:
            for each in mine:
                each.namespace, each.signed_namespace = room, each.sign(room)
            with self.wire() as wire:
                status, _ = wire.ask(**forgery(bad, 1))
            if status != 403:
                return status
            first = gevent.spawn(self._meet_signed, one)
            ends = sorted((self._meet_signed(other), first.get()))
            return None if ends == LINKED else ends
        finally:
            self._signers += mine

    def _meet_signed(self, peer: QuickPeer) -> str:
        name = self.name()  # with its key, it is the peer
        try:
            with self.wire() as wire:
                _, told = wire.ask(**peer.request("offer"), FINGERPRINT=name)
                if told["TYPE"] == "DEMOTE":
                    _, told = wire.ask(**peer.request("answer", nonce=told["NONCE"]), FINGERPRINT=name)
                    self.linked += told["TYPE"] == "DELIVERED"
        except OSError:
            return "CUT"
        return str(told["TYPE"])
