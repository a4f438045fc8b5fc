"""The recipes for browsers in docs/examples: they are built and opened in tabs, and do what they say."""

from __future__ import annotations

import contextlib
import http.server
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Locator, Playwright, expect

from live import ROOT, Server
from tabs import ARGUMENTS, CHROMIUM, PERMISSIONS, QuietHandler, new_context

pytest_plugins = ["browser_fixtures"]

SHOTS = os.environ.get("SCREENSHOTS")
"""A folder for pictures, to look at."""

EXAMPLES = ROOT / "docs/examples"

expect.set_options(timeout=30_000)


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


class Sleeper:
    """A browser of its own, whose pages can be put to sleep as a closed laptop does it."""

    def __init__(self, playwright: Playwright, folder: Path) -> None:
        self._pid = folder / "pid"
        start = folder / "chromium"
        start.write_text(f'#!/bin/sh\necho $$ > {self._pid}\nexec {CHROMIUM} "$@"\n')
        start.chmod(0o755)
        self.browser = playwright.chromium.launch(executable_path=str(start), args=ARGUMENTS)

    def tell_pages(self, what: signal.Signals) -> None:
        """Send a signal to the processes in which its pages run."""
        ours = {int(self._pid.read_text())}
        processes = sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
        for number in processes:
            with contextlib.suppress(OSError):
                parent = int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])
                if parent in ours:
                    ours.add(number)
                    if b"--type=renderer" in Path(f"/proc/{number}/cmdline").read_bytes():
                        os.kill(number, what)


def write(text: Locator, words: str) -> None:
    """Write at the end, in one go."""
    text.press("Control+End")
    text.page.keyboard.insert_text(words)


def test_a_text_is_shared_by_three_tabs_and_one_that_slept_catches_up(
    chromium: Browser, tmp_path: Path, playwright: Playwright
) -> None:
    with Server() as server, built("shared-text", tmp_path) as url, new_context(chromium) as context:
        sleeper = Sleeper(playwright, tmp_path)
        pages = [
            context.new_page(),
            context.new_page(),
            sleeper.browser.new_context(permissions=PERMISSIONS).new_page(),
        ]
        texts = [page.get_by_role("textbox", name="The text") for page in pages]
        for page in pages:
            page.set_viewport_size({"width": 460, "height": 400})
            page.goto(f"{url}?server={server.url}#writers")
        for page in pages:
            expect(page.locator("#others")).to_have_text("Linked with 2 others.")
        for text, words in zip(texts, ("One. ", "Two. ", "Three. "), strict=True):
            write(text, words)
        for text in texts:
            expect(text).to_have_value(re.compile(r"^(?=.*One\. )(?=.*Two\. )(?=.*Three\. ).{17}$"))

        sleeper.tell_pages(signal.SIGSTOP)
        try:
            for page in pages[:2]:
                expect(page.locator("#others")).to_contain_text("1 of them interrupted")
            write(texts[0], "Four, while Three slept.")
            if SHOTS:
                pages[0].screenshot(path=f"{SHOTS}/shared-text-1.png")
        finally:
            sleeper.tell_pages(signal.SIGCONT)
        for text in texts:
            expect(text).to_have_value(re.compile(r"Four, while Three slept\.$"))
        for page in pages:
            expect(page.locator("#others")).to_have_text("Linked with 2 others.")
        assert len({text.input_value() for text in texts}) == 1
        if SHOTS:
            pages[1].screenshot(path=f"{SHOTS}/shared-text-2.png")
            pages[2].screenshot(path=f"{SHOTS}/shared-text-3.png")
        sleeper.browser.close()
