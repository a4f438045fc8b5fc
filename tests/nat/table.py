"""Who links with whom: every kind of NAT with every other, with STUN alone and with TURN.

PYTHONPATH=tests:. python tests/nat/table.py [stun|turn|networks] [--browsers chromium,firefox]

Prints one line for each try, and the table of docs/nat.md at the end. It takes some minutes.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator

from laboratory import KINDS, SERVER, SERVER_V6, Laboratory
from peers import STUN, STUN_V6, TURN_SECRET, Browsers, Try, Window, World, attempt

IPV4 = ["public", "firewall", "full cone", "open masquerade", "home router", "symmetric", "double", "no UDP"]
NETWORKS = [
    ("one LAN", "one LAN"),
    ("isolated", "isolated"),
    ("isolated, hairpin", "isolated, hairpin"),
    ("IPv6", "IPv6"),
    ("IPv6", "IPv6 firewall"),
    ("IPv6 firewall", "IPv6 firewall"),
    ("IPv6 firewall", "NAT66"),
    ("NAT66", "NAT66"),
    ("IPv6", "public"),
    ("IPv6", "home router"),
    ("NAT66", "home router"),
]
RELAYED = [
    ("home router", "symmetric"),
    ("symmetric", "symmetric"),
    ("home router", "open masquerade"),
    ("isolated", "isolated"),
    ("home router", "no UDP"),
    ("symmetric", "no UDP"),
    ("no UDP", "no UDP"),
    ("IPv6", "public"),
    ("IPv6", "home router"),
    ("NAT66", "home router"),
]
RELAYS = {
    "UDP 3478": [f"turn:{SERVER}:3478"],
    "TCP 3478": [f"turn:{SERVER}:3478?transport=tcp"],
    "TCP 443": [f"turn:{SERVER}:443?transport=tcp"],
    "all of them, and one of IPv6": [
        f"turn:{SERVER}:3478",
        f"turn:{SERVER}:443?transport=tcp",
        f"turn:[{SERVER_V6}]:3478",
    ],
}


class Meetings:
    """The browsers of both homes, and what came of their tries."""

    def __init__(self, lab: Laboratory, world: World, browsers: Browsers, names: list[str]) -> None:
        self.lab, self.world, self.browsers, self.names = lab, world, browsers, names
        self.pages: dict[tuple[str, str], Window] = {}
        self._networks = ("", "")

    def start(self) -> None:
        """Start the browsers, where they are now."""
        self.browsers.end()
        self.pages = {
            (side, name): self.browsers.start(name, f"home-{side}") for side in "ab" for name in self.names
        }

    def tries(self, one: str, other: str) -> Iterator[tuple[str, Try]]:
        """Both orders of waiting, with every pair of browsers."""
        self.lab.put("a", one)
        self.lab.put("b", other)
        networks = (KINDS[one].addresses, KINDS[other].addresses)
        if networks != self._networks:
            self.start()  # a browser that has moved is not as one that begins there
        self._networks = networks
        for (side, page), name in itertools.product([("a", one), ("b", other)], self.names):
            for its_name in self.names:
                waits, comes = self.pages[side, name], self.pages["ba"["ab".index(side)], its_name]
                self._load(waits, comes, one if side == "a" else other, other if side == "a" else one)
                yield f"{page} waits, {name} ← {its_name}", attempt(self.world, waits, comes)

    def _load(self, waits: Window, comes: Window, kind: str, its_kind: str) -> None:
        for page, behind in ((waits, kind), (comes, its_kind)):
            self.world.open(page, over_v6=KINDS[behind].addresses in ("IPv6", "NAT66"))


def cell(meetings: Meetings, one: str, other: str) -> str:
    """One cell of the table: how many linked of how many tries, in which times and by which ways."""
    linked: dict[str, list[Try]] = {}
    for what, found in meetings.tries(one, other):
        told = f"{found.ms:.0f} ms, {found.way}" if found.linked else f"{found.waited['error']}"
        print(f"{one} + {other}: {what}: {told} {found.waited.get('candidates') or ''}", flush=True)
        linked.setdefault(what.split(" waits")[0], []).append(found)
    counts = {who: f"{sum(each.linked for each in tries)}/{len(tries)}" for who, tries in linked.items()}
    all_tries = [each for tries in linked.values() for each in tries]
    times = sorted(each.ms for each in all_tries if each.linked)
    ways = sorted({each.way for each in all_tries if each.linked})
    span = f" ({times[0]:.0f}-{times[-1]:.0f} ms; {', '.join(ways)})" if times else ""
    if len({share(each) for each in counts.values()}) > 1:
        return "; ".join(f"{who} waits: {count}" for who, count in counts.items()) + span
    return f"{len(times)}/{len(all_tries)}{span}"


def share(count: str) -> float:
    linked, _, tries = count.partition("/")
    return int(linked) / int(tries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("tables", nargs="*", default=["stun", "networks", "turn"])
    parser.add_argument("--browsers", default="chromium,firefox")
    asked = parser.parse_args()
    with Laboratory() as lab, World(lab) as world, Browsers(lab) as browsers:
        world.start_turn()
        meetings = Meetings(lab, world, browsers, asked.browsers.split(","))
        stun = json.dumps([{"urls": [STUN]}, {"urls": [STUN_V6]}])
        lines = []
        if "stun" in asked.tables:
            world.start_server(ICE_SERVERS=json.dumps([{"urls": [STUN]}]))
            lines += [f"| STUN | {' | '.join(IPV4)} |", "|---" * (len(IPV4) + 1) + "|"]
            for number, one in enumerate(IPV4):
                cells = [cell(meetings, one, other) for other in IPV4[number:]]
                lines.append(f"| {one} | {' | '.join([''] * number + cells)} |")
        if "networks" in asked.tables:
            world.start_server(ICE_SERVERS=stun)
            lines += ["", "| networks, STUN | linked |", "|---|---|"]
            lines += [f"| {one} + {other} | {cell(meetings, one, other)} |" for one, other in NETWORKS]
        if "turn" in asked.tables:
            lines += ["", f"| TURN | {' | '.join(RELAYS)} |", "|---" * (len(RELAYS) + 1) + "|"]
            for pair in RELAYED:
                cells = []
                for name, urls in RELAYS.items():
                    world.start_server(ICE_SERVERS=stun, TURN_URLS=",".join(urls), TURN_SECRET=TURN_SECRET)
                    print(name, end=": ")
                    cells.append(cell(meetings, *pair))
                lines.append(f"| {' + '.join(pair)} | {' | '.join(cells)} |")
        print("\n".join(lines))


if __name__ == "__main__":
    main()
