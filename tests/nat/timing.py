"""When the checks of the one that comes begin: with its answer, or half a round trip later.

PYTHONPATH=tests:. python tests/nat/timing.py [--tries 4] [--waits chromium] [--comes firefox|aiortc]
    [--kind native] [--ms 0/0,5/5,40/40,120/120,5/60,60/5] [--pairs 6]

The two modules differ in nothing else, and take turns. Prints one line for each pair of kinds and each
distance: the ms from the answer to the open link at the one that waited, or `x`.
"""

from __future__ import annotations

import argparse
import json

from laboratory import Laboratory
from peers import MODULE, STUN, Browsers, Example, World, attempt

KIND_PAIRS = [
    ("open masquerade", "home router"),
    ("home router", "open masquerade"),
    ("open masquerade", "open masquerade"),
    ("home router", "home router"),
    ("public", "home router"),
    ("home router", "public"),
    ("public", "symmetric"),
    ("symmetric", "full cone"),
    ("double", "firewall"),
]
FAR = "const FAR = 20;"
"""What decides in the module; larger than any distance, it never waits."""


def parse(text: str) -> tuple[float, float, float | None, float | None]:
    """`A/B` or `A/B/A/B`: ms one way of each side, and those to the server if they differ."""
    first, second, *to_server = map(float, text.split("/"))
    return (first, second, *to_server) if to_server else (first, second, None, None)  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tries", type=int, default=4)
    parser.add_argument("--waits", default="chromium")
    parser.add_argument("--comes", default="chromium")
    parser.add_argument("--kind", default="native")
    parser.add_argument("--ms", default="0/0,5/5,40/40,120/120,5/60,60/5,2/2/60/60")
    parser.add_argument("--pairs", type=int, default=len(KIND_PAIRS))
    asked = parser.parse_args()
    with Laboratory(delays=True) as lab, World(lab) as world, Browsers(lab) as browsers:
        world.start_turn()
        world.start_server(ICE_SERVERS=json.dumps([{"urls": [STUN]}]))
        module = MODULE.read_text()
        assert FAR in module
        world.offer_module("at once.js", module.replace(FAR, "const FAR = Infinity;"))
        world.offer_module("late.js", module)
        for side in "ab":
            lab.put(side, "public")
        waits, comes = (
            Example(lab, home) if name == "aiortc" else browsers.start(name, home)
            for name, home in ((asked.waits, "home-a"), (asked.comes, "home-b"))
        )
        for distance in asked.ms.split(","):
            one, other, one_server, other_server = parse(distance)
            lab.delay("a", one, to_server=one_server)
            lab.delay("b", other, to_server=other_server)
            for kinds in KIND_PAIRS[: asked.pairs]:
                found: dict[str, list[str]] = {"at once": [], "late": []}
                for _ in range(asked.tries):
                    for name, results in found.items():
                        if results[:2] == ["x", "x"]:
                            continue  # each costs 5 s
                        for side, page, kind in zip("ab", (waits, comes), kinds, strict=True):
                            lab.put(side, kind)
                            world.open(page, module=f"{name}.js")
                        result = attempt(world, waits, comes, kind=asked.kind)
                        results.append(f"{result.ms:.0f}" if result.linked else "x")
                told = "; ".join(f"{name}: {' '.join(results)}" for name, results in found.items())
                print(f"{distance} ms: {kinds[0]} waits, {kinds[1]} comes: {told}", flush=True)


if __name__ == "__main__":
    main()
