"""A real Chromium, a web site whose pages run spacerift.js, and tabs with such a page."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, BrowserContext, Playwright, sync_playwright

from live import Server
from tabs import ARGUMENTS, CHROMIUM, OpenTab, Tab, new_context, serve_site


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    """Not for the whole session: its event loop runs as long, and other tests have loops of their own."""
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="module")
def chromium(playwright: Playwright) -> Iterator[Browser]:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of another web site, which has the tests' page and the npm packages bundled into it."""
    with serve_site(tmp_path_factory.mktemp("site")) as url:
        yield url


@pytest.fixture(scope="module")
def context(chromium: Browser) -> Iterator[BrowserContext]:
    """One browser of one person, who has tabs."""
    with new_context(chromium) as made:
        yield made


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> str:
    """A pool of this test's own."""
    return str(request.node.name)


@pytest.fixture(scope="module")
def idle_tabs() -> list[Tab]:
    """Tabs that are open already and belong to no test: to open one takes longer than to link two."""
    return []


@pytest.fixture
def open_tab(
    context: BrowserContext, site: str, server: Server, namespace: str, idle_tabs: list[Tab]
) -> Iterator[OpenTab]:
    """Open a tab whose peers meet in the test's own pool, of the shared server or of another."""
    tabs: list[Tab] = []

    def opened(url: str = server.url, *, fresh: bool = False) -> Tab:
        page = f"{site}page.html?server={quote(url, safe='')}"
        same = [tab for tab in idle_tabs if tab.page.url == page and not fresh]
        tab = same[0] if same else Tab(context.new_page(), page)
        if same:
            idle_tabs.remove(tab)
        tab.namespace = namespace
        tabs.append(tab)
        return tab

    yield opened
    for tab in tabs:
        if tab.can_be_used_again(server.url):
            idle_tabs.append(tab)
        else:
            tab.page.close()
