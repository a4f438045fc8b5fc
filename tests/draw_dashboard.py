"""Draws docs/grafana.png: the dashboard of docs/grafana.json, with what Prometheus scraped of a busy server.

    python tests/draw_dashboard.py path/to/prometheus [minutes]

Debian has Prometheus, but no Grafana: its queries are asked as Grafana would ask them, and Chromium draws.
"""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from key_pairs import key_pair
from live import ROOT, Call, Server, free_port
from signed_peer import SignedPeer

STEP_SECONDS = 2
PEERS = 60
SETTINGS = {
    "REQUEST_TIMEOUT": 6,
    "PAIR_MEMORY_TTL": 45,
    "PAIR_LIMIT": "1 per 1 second",
    "ADDRESS_LIMIT": "",
    "HELD_PER_ADDRESS": "",
    "LOG": "off",
}

PAGE = ROOT / "tests" / "dashboard.html"


def main(prometheus: str, minutes: float) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(
            limits=True, SIGNATURES="optional", PRIVATE_KEY=key_pair("server").private, **SETTINGS
        ) as server,
    ):
        port, process = start_prometheus(prometheus, Path(folder), server.port)
        started = time.time()
        crowd = [threading.Thread(target=play, args=(server, i, minutes)) for i in range(PEERS)]
        for each in crowd:
            each.start()
        for each in crowd:
            each.join()
        end = started + minutes * 60 - STEP_SECONDS
        panels = [asked(panel, port, started + 15, end) for panel in dashboard()["panels"]]
        process.terminate()
        process.wait(30)
    photograph(panels)


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "docs/grafana.json").read_text())
    return found


def start_prometheus(program: str, folder: Path, target: int) -> tuple[int, subprocess.Popen[bytes]]:
    port = free_port()
    job = {"job_name": "spacerift", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
    configuration = {"global": {"scrape_interval": f"{STEP_SECONDS}s"}, "scrape_configs": [job]}
    (folder / "prometheus.yml").write_text(json.dumps(configuration))  # JSON is YAML
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    command = [program, *options, f"--web.listen-address=127.0.0.1:{port}"]
    return port, subprocess.Popen(command, stderr=subprocess.DEVNULL)


def play(server: Server, number: int, minutes: float) -> None:
    """A peer that comes, meets somebody and comes back, in waves; a few sign, a few leave early."""
    over = time.monotonic() + minutes * 60
    signer = SignedPeer("club") if number % 20 == 0 else None
    while time.monotonic() < over:
        busy = 0.6 + 0.4 * math.sin(time.monotonic() / 30)
        time.sleep(random.expovariate(1) * (1 + number % 5) / busy)
        room = random.choice(["", "", "chess", "go", f"room {random.randrange(6)}"])
        offer = {"TYPE": "CONNECT", "SIGNAL": "o" * 1500, "NAMESPACE": room, "FINGERPRINT": f"peer {number}"}
        with Call(server.port, signer.request() if signer else offer) as call:
            if random.random() < 0.06:
                time.sleep(random.random())
                continue
            told = call.reply()
            while told.type == "DEMOTE" and random.random() < 0.97:
                time.sleep(random.uniform(0.05, 0.4))
                nonce = told["NONCE"]
                parameters = signer.request("a", nonce=nonce) if signer else offer | {"NONCE": nonce}
                call.send(parameters)
                told = call.reply()


def asked(panel: dict[str, Any], port: int, start: float, end: float) -> dict[str, Any]:
    """The panel with what Prometheus answers to its queries."""
    series = []
    for target in panel["targets"]:
        query = target["expr"].replace("$job", ".*").replace("$__rate_interval", "20s")
        words = urllib.parse.urlencode({"query": query, "start": start, "end": end, "step": STEP_SECONDS})
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query_range?{words}") as response:
            found = json.load(response)["data"]["result"]
        for line in found:
            name = target["legendFormat"]
            for label, value in line["metric"].items():
                name = name.replace("{{" + label + "}}", value)
            points = [(at, float(value)) for at, value in line["values"] if value != "NaN"]
            series.append({"name": name.replace("{{status}} ", ""), "points": points})
    defaults = panel["fieldConfig"]["defaults"]
    return {
        "title": panel["title"],
        "type": panel["type"],
        "gridPos": panel["gridPos"],
        "unit": defaults["unit"],
        "words": (defaults.get("mappings") or [{}])[0].get("options"),
        "stack": defaults.get("custom", {}).get("stacking", {}).get("mode") == "normal",
        "series": sorted(series, key=lambda each: each["name"]) if len(series) > 3 else series,
        "from": start,
        "to": end,
    }


def photograph(panels: list[dict[str, Any]]) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1075})
        page.goto(PAGE.as_uri())
        page.evaluate("panels => panels.forEach(draw)", panels)
        page.screenshot(path=str(ROOT / "docs/grafana.png"))
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 5)
