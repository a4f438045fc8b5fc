"""The recipes for browsers in docs/examples: they are built and opened in tabs, and do what they say."""

from __future__ import annotations

import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from playwright.sync_api import BrowserContext, expect

from live import ROOT, Server
from tabs import QuietHandler

pytest_plugins = ["browser_fixtures"]

EXAMPLES = ROOT / "docs/examples"

expect.set_options(timeout=15_000)


@contextmanager
def built(name: str, folder: Path) -> Iterator[str]:
    """The address of an example that was built elsewhere, with the packages that the tests have."""
    place = shutil.copytree(
        EXAMPLES / name, folder / name, ignore=shutil.ignore_patterns("node_modules", "bundle.js")
    )
    packages = place / "node_modules"
    packages.mkdir()
    for package in (ROOT / "node_modules").iterdir():
        (packages / package.name).symlink_to(package)
    (packages / "spacerift").symlink_to(ROOT)
    subprocess.run(["node", "build.js"], cwd=place, check=True, timeout=60)
    handler = partial(QuietHandler, directory=str(place))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


def test_the_recipe_for_kbpgp_links_two_tabs(context: BrowserContext, tmp_path: Path) -> None:
    with Server(SIGNATURES="required") as server, built("kbpgp", tmp_path) as url:
        alice, bob = context.new_page(), context.new_page()
        for page in (alice, bob):
            page.goto(f"{url}?server={server.url}#friends")
        for page in (alice, bob):
            expect(page.locator("body")).to_contain_text("Linked with")
            expect(page.locator("body")).to_contain_text("It says: hello")
        own = alice.locator("body").inner_text().split()[2].rstrip(".")
        expect(bob.locator("body")).to_contain_text(f"Linked with {own}.")
