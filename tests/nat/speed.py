"""From the click to the open link, beside another spacerift.js.

PYTHONPATH=tests:. python tests/nat/speed.py OLD_MODULE [--tries 5] [--ms 40]

Two home routers, so many ms one way from the server each; a stranger waits already. With STUN that answers,
and with one more address that does not. The modules take turns. Prints the medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from laboratory import OTHER, Laboratory
from peers import MODULE, STUN, Browsers, World, attempt

SILENT = f"stun:{OTHER}:7777"
DROP = "table inet silent { chain in { type filter hook input priority 0; udp dport 7777 drop; }; }"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("old", type=Path)
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--ms", type=float, default=40)
    asked = parser.parse_args()
    with Laboratory(delays=True) as lab, World(lab) as world, Browsers(lab) as browsers:
        world.start_turn()
        world.start_server()
        world.offer_module("old.js", asked.old.read_text())
        world.offer_module("new.js", MODULE.read_text())
        lab.rule("world", DROP)
        for side in "ab":
            lab.put(side, "home router")
        waits, comes = browsers.start("chromium", "home-a"), browsers.start("chromium", "home-b")
        for side in "ab":
            lab.delay(side, asked.ms)
        for name, servers in (
            ("STUN answers", [STUN]),
            ("one of two STUN addresses is silent", [STUN, SILENT]),
        ):
            rtc = {"iceServers": [{"urls": [url]} for url in servers]}
            took: dict[str, list[float]] = {"old": [], "new": [], "new, prepared": []}
            for _ in range(asked.tries):
                for what, times in took.items():
                    for window in (waits, comes):
                        world.open(window, module=f"{what[:3]}.js")
                    if what == "new, prepared":
                        comes.evaluate("options => rift.prepare(options)", {"rtc": rtc})
                        time.sleep(2)  # somebody reads the page before clicking
                    found = attempt(world, waits, comes, rtc=rtc)
                    assert found.linked, found
                    times.append(found.click)
            old = statistics.median(took["old"])
            for what, times in took.items():
                middle = statistics.median(times)
                span = f"{min(times):.0f}-{max(times):.0f}"
                print(
                    f"{name}: {what}: {middle:.0f} ms ({span}), {middle / old:.2f} of the old one", flush=True
                )


if __name__ == "__main__":
    main()
