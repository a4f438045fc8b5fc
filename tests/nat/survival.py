"""What becomes of an open link when the network changes under it.

PYTHONPATH=tests:. python tests/nat/survival.py [--module FILE] [--browsers chromium,firefox] [EVENT…]

Both sides say something ten times a second. Prints the longest silence that either of them heard and how it
ended, as a line of the table in docs/nat.md. `--module` is another spacerift.js, to compare.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from laboratory import SERVER, Laboratory
from peers import MODULE, STUN, TURN_SECRET, Browsers, Window, World, attempt

Event = Callable[[World, str], None]
PATIENCE = 75  # seconds; a link is looked for again for 60


def forget_one(world: World, kind: str) -> None:
    world.lab.forget("router-a")


def forget_both(world: World, kind: str) -> None:
    world.lab.forget("router-a")
    world.lab.forget("router-b")


def other_port(world: World, kind: str) -> None:
    world.lab.other_mapping("a", kind)


def other_interface(world: World, kind: str) -> None:
    world.lab.other_interface("a")


def other_relay(world: World, kind: str) -> None:
    world.replace_turn()


def out(seconds: float) -> Event:
    """A's router has no network for so long."""

    def event(world: World, kind: str) -> None:
        world.lab.run("router-a", "ip link set wan down")
        time.sleep(seconds)
        world.lab.run("router-a", "ip link set wan up; ip route replace default via 198.51.100.1")

    return event


EVENTS: dict[str, Event] = {
    "one router forgets its mappings": forget_one,
    "both routers forget": forget_both,
    "one router forgets, the next port is another": other_port,
    "one client has another interface": other_interface,
    "one router is without a network for 3 s": out(3),
    "one router is without a network for 20 s": out(20),
    "the TURN server dies, another takes over": other_relay,
}
TWO = f"turn:{SERVER}:3478,turn:{SERVER}:3479"
"""The second is silent at first."""
UDP, TCP_443 = f"turn:{SERVER}:3478", f"turn:{SERVER}:443?transport=tcp"
ROWS = [
    ("home router", "home router", "", list(EVENTS)[:6]),
    ("home router", "public", "", list(EVENTS)[2:4]),
    ("home router", "home router", UDP, list(EVENTS)[2:4]),
    ("symmetric", "symmetric", TCP_443, list(EVENTS)[2:4]),
    ("symmetric", "symmetric", TWO, list(EVENTS)[6:]),
]


def survive(world: World, pages: tuple[Window, Window], event: Event, kind: str) -> str:
    """Link the two, let it happen, and tell what they heard."""
    found = attempt(world, *pages, keep=True)
    if not found.linked:
        return f"no link: {found.waited['error']}"
    for page in pages:
        page.evaluate("() => rift.chatter()")
    time.sleep(1)
    begun = [page.evaluate("() => rift.clock()") for page in pages]
    deadline = time.monotonic() + PATIENCE
    event(world, kind)
    while True:
        time.sleep(2)
        told: list[dict[str, Any]] = [
            page.evaluate("since => rift.silence(since)", since)
            for page, since in zip(pages, begun, strict=True)
        ]
        is_over = all(each["closed"] is not None for each in told)
        is_well = all(each["closed"] is None and each["last"] < 0.5 for each in told)
        if is_over or is_well or time.monotonic() > deadline:
            break
    for page in pages:
        page.end()
    longest = max(each["longest"] for each in told)
    if is_over:
        return f"**lost**, closed after {', '.join(str(each['closed']) for each in told)} s"
    if not is_well:
        return f"**silent** for {longest} s, and not over: {told}"
    return f"{longest} s" + (", resumed" if any(each["resumed"] for each in told) else "")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--module", type=Path, default=MODULE)
    parser.add_argument("--browsers", default="chromium,chromium")
    parser.add_argument("events", nargs="*", default=list(EVENTS))
    asked = parser.parse_args()
    with Laboratory() as lab, World(lab) as world, Browsers(lab) as browsers:
        world.start_turn()
        world.offer_module("spacerift.js", asked.module.read_text())
        for kind, its_kind, turn, events in ROWS:
            relays = {"TURN_URLS": turn, "TURN_SECRET": TURN_SECRET} if turn else {}
            world.start_server(ICE_SERVERS=json.dumps([{"urls": [STUN]}]), **relays)
            for name in events:
                if name not in asked.events:
                    continue
                lab.put("a", kind)
                lab.put("b", its_kind)
                browsers.end()  # one that has moved is not as one that begins there
                names = zip(asked.browsers.split(","), ["home-a", "home-b"], strict=True)
                one, other = (browsers.start(*each) for each in names)
                for page in (one, other):
                    world.open(page)
                told = survive(world, (one, other), EVENTS[name], kind)
                print(f"| {kind} + {its_kind}, {turn or 'STUN'} | {name} | {told} |", flush=True)


if __name__ == "__main__":
    main()
