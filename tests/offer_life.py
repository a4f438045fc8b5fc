"""Every event at every stage of an offer's life, played on a store: the table of docs/architecture.md.

    python tests/offer_life.py     prints the table, as the rules in the process have it

Ann offers, and Ben is the responder. Each cell is a pool of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from store_contract import World

from signal_server.messages import Delivery

ARCHITECTURE = Path(__file__).parent.parent / "docs" / "architecture.md"

STAGES = ("waiting", "offered", "offered, left", "answered", "writing", "delivered")

NOTHING = "–"


class Life:
    """One offer, at a stage."""

    def __init__(self, world: World, pool: str, stage: str) -> None:
        self.world, self.pool, self.stage = world, pool, stage
        self.names: dict[str, str] = {}
        self.nonce = "0-none"
        self.offer = world.arrival("ann", pool=pool)
        self.names[self.offer.ticket] = "initiator"
        world.store.connect(self.offer, may_wait=True)
        if stage == "waiting":
            return
        (told,) = self.connect("ben")
        self.nonce = told.reply.nonce
        if stage == "offered, left":
            assert world.store.withdraw(self.offer.ticket).good
        if stage in ("answered", "writing", "delivered"):
            self.answer("yes")
        if stage in ("writing", "delivered"):
            assert world.store.claim(self.nonce).good
        if stage == "delivered":
            assert world.store.settle(self.nonce, written=True).responder

    def connect(self, peer: str) -> list[Delivery]:
        arrival = self.world.arrival(peer, pool=self.pool)
        self.names[arrival.ticket] = "newcomer"
        return self.world.store.connect(arrival, may_wait=False).deliveries

    def answer(self, text: str) -> list[Delivery]:
        arrival = self.world.arrival("ben", text, pool=self.pool)
        self.names[arrival.ticket] = "responder"
        return self.world.store.answer(arrival, self.nonce).deliveries

    def bounce(self) -> list[Delivery]:
        """Ben's own offer is out of the way: it is not what the table is about."""
        arrival = self.world.arrival("ben", pool=self.pool)
        self.names[arrival.ticket] = "responder"
        told = self.world.store.bounce(arrival, self.nonce, may_wait=True)
        if told.good:
            self.world.store.withdraw(arrival.ticket)
        return told.deliveries

    def settle(self, *, written: bool) -> list[Delivery]:
        return self.world.store.settle(self.nonce, written=written).deliveries

    def pass_time(self) -> list[Delivery]:
        from store_contract import TIMES

        terms = {"waiting": TIMES.request, "answered": TIMES.write, "writing": TIMES.write}
        told = self.world.after(terms.get(self.stage, TIMES.answer))
        return [each for each in told if each.ticket in self.names]

    def stage_now(self) -> str:
        """Where it is, as events tell that can only be good at one stage. They end the offer."""
        store = self.world.store
        if store.withdraw(self.offer.ticket, unless_offered=True).good:
            return "waiting"
        if store.withdraw(self.offer.ticket).good:
            return "offered"
        if store.claim(self.nonce).good:
            return "answered"
        if store.settle(self.nonce, written=True).responder is not None:
            return "writing"
        told = [each.reply.type for each in self.answer("yes")]
        return {"DELIVERED": "delivered", "NO_PEER": "offered, left"}.get("".join(told), "over")


EVENTS: dict[str, Callable[[Life], object]] = {
    "a newcomer's `CONNECT`": lambda life: life.connect("cat"),
    "the answer (again)": lambda life: life.answer("yes"),
    "another answer": lambda life: life.answer("no"),
    "`BOUNCE`": Life.bounce,
    "the `DEMOTE` was not written": lambda life: life.world.store.release(life.nonce).deliveries,
    "claim: may the `ANSWER` be written?": lambda life: life.world.store.claim(life.nonce).deliveries,
    "the `ANSWER` was written": lambda life: life.settle(written=True),
    "the `ANSWER` was not written": lambda life: life.settle(written=False),
    "hang-up, `LEAVE`": lambda life: life.world.store.withdraw(life.offer.ticket).deliveries,
    "its time is over": Life.pass_time,
}


def cell(life: Life, event: Callable[[Life], object]) -> str:
    told: Iterable[Delivery] = event(life)  # type: ignore[assignment]
    replies = [f"{life.names[each.ticket]} `{each.reply.type}`" for each in told]
    replies = [each for each in replies if each != "newcomer `NO_PEER`"]  # there is no offer for it
    now = life.stage_now()
    if not replies and now == life.stage:
        return NOTHING
    return "; ".join([*replies, *([f"**{now}**"] if now != life.stage else [])])


def table(world: World) -> str:
    lines = [f"| event | {' | '.join(STAGES)} |", "| --- " * (len(STAGES) + 1) + "|"]
    for number, (name, event) in enumerate(EVENTS.items()):
        cells = [cell(Life(world, f"open:{number}-{stage}", stage), event) for stage in STAGES]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    from signal_server.matching.stores.memory import MemoryStore
    from store_contract import SWEEP_MS, TIMES, World

    print(table(World(lambda clock: MemoryStore(TIMES, sweep_ms=SWEEP_MS, clock=clock))))
