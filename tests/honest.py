"""Honest clients, who look how much comes through of what others do."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gevent

from wire import Wire

TRIES = 3
PATIENCE_SECONDS = 60
Ask = Callable[[Wire], tuple[int, dict[str, Any]]]


def quantile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else float("inf")


@dataclass
class Fared:
    """How pairs fared.

    Attributes:
        waits: seconds in which each was linked.
        lost: how it ended for those that were not.
        tries: requests that had to be asked again.
    """

    waits: list[float] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    tries: int = 0

    @property
    def share(self) -> float:
        """Of the pairs, those that were linked."""
        return len(self.waits) / max(1, len(self.waits) + self.lost.total())

    def __str__(self) -> str:
        linked = f"{len(self.waits)} of {len(self.waits) + self.lost.total()} pairs linked"
        took = f"p50 {quantile(self.waits, 0.5):.3f} s, p99 {quantile(self.waits, 0.99):.3f} s"
        return f"{linked}, {took}, {self.tries} asked again, others: {dict(self.lost)}"


def persist(wire: Wire, ask: Ask, fared: Fared) -> dict[str, Any]:
    """Ask up to three times, as long as it is refused, cut, or nobody is there."""
    told: dict[str, Any] = {}
    for tries in range(TRIES):
        fared.tries += tries > 0
        try:
            with gevent.Timeout(PATIENCE_SECONDS, TimeoutError("no reply")):
                _, told = ask(wire)
        except OSError as error:
            wire.close()
            told = {"TYPE": type(error).__name__, "RETRY_AFTER": 1}
        if told["TYPE"] in ("DEMOTE", "ANSWER", "DELIVERED"):
            break
        gevent.sleep(told.get("RETRY_AFTER", 0))
    return told


def link_plain(port: int, number: int, until: float, fared: Fared) -> None:
    """Two open peers, each at an address of its own, that link again and again in a room of theirs."""

    def peer(half: int, run: int) -> str:
        said = {"TYPE": "CONNECT", "NAMESPACE": f"room {number}", "FINGERPRINT": f"{half} {run}"}
        with Wire(port, f"127.{half + 1}.{number // 250}.{number % 250 + 1}") as wire:
            told = persist(wire, lambda wire: wire.ask(**said, SIGNAL=f"offer {half} {run}"), fared)
            for _ in range(TRIES):  # an answer that was late gets the same offer again
                if told["TYPE"] != "DEMOTE":
                    break
                if told["SIGNAL"] != f"offer {1 - half} {run}":
                    return "another's offer"
                said["NONCE"] = told["NONCE"]
                told = persist(wire, lambda wire: wire.ask(**said, SIGNAL=f"answer {half} {run}"), fared)
        if told["TYPE"] == "ANSWER" and told["SIGNAL"] != f"answer {1 - half} {run}":
            return "another's answer"
        return str(told["TYPE"])

    run = 0
    while time.monotonic() < until:
        run, started = run + 1, time.monotonic()
        first = gevent.spawn(peer, 0, run)
        ends = sorted((peer(1, run), first.get()))
        if ends == ["ANSWER", "DELIVERED"]:
            fared.waits.append(time.monotonic() - started)
        else:
            fared.lost[", ".join(ends)] += 1
        gevent.sleep(1)
