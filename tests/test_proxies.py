"""The server behind real proxies, with the settings of docs/proxies.md, and what the doctor says of them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from live import ROOT, Server, environment
from proxies import (
    APACHE,
    HAPROXY,
    HAPROXY_TCP,
    NGINX,
    PAGE,
    SECRET,
    SERVER,
    SUITE,
    Look,
    Proxy,
    Running,
    Told,
    all_running,
    looked_at,
    told,
)

LINKED = ("DEMOTE", "DELIVERED", "ANSWER")

Looks = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def looks(tmp_path_factory: pytest.TempPathFactory) -> Looks:
    """What was seen through each of them, by name. All run at once, for most of it is waiting."""
    folder = tmp_path_factory.mktemp("proxies")
    by_tcp = SERVER | {"TRUSTED_PROXIES": 0, "REQUEST_TIMEOUT": 5}
    with (
        Server(**SERVER) as server,
        Server(*HAPROXY_TCP.server, **by_tcp) as plain,
        all_running(SUITE, server, folder) as running,
        Running(HAPROXY_TCP, plain.port, folder / "tcp") as tcp,
        ThreadPoolExecutor(len(SUITE) + 1) as pool,
    ):
        begun = [
            (each, pool.submit(looked_at, Look(each, to, f"127.0.{number}.1"), each.proxy))
            for number, (each, to) in enumerate([*((each, server) for each in running), (tcp, plain)], 10)
        ]
        seen = {each.proxy.name: each_look.result() for each, each_look in begun}
        ended = _through_the_end(server, running, pool)
        for each in running:
            seen[each.proxy.name] |= ended[each.proxy.name]
    return seen


def _through_the_end(server: Server, running: list[Running], pool: ThreadPoolExecutor) -> Looks:
    """Somebody waits behind each while the server is told to end; then others come."""
    places = [Look(each, server, "127.0.0.1") for each in running]
    held = [each.send(each.offer("last", "last")) for each in places]
    for each in places:
        assert each.until("last", 1, 10) is not None
    server.process.send_signal(signal.SIGTERM)
    last = list(pool.map(told, held))
    server.process.wait(30)
    after = list(pool.map(lambda each: each.post(each.offer("after", "after")), places))
    return {
        each.proxy.name: {"last": one, "after": other}
        for each, one, other in zip(running, last, after, strict=True)
    }


@pytest.fixture(params=SUITE, ids=lambda proxy: proxy.name)
def proxy(request: pytest.FixtureRequest) -> Proxy:
    found: Proxy = request.param
    return found


@pytest.fixture
def seen(looks: Looks, proxy: Proxy) -> dict[str, Any]:
    return looks[proxy.name]


def test_two_peers_link(seen: dict[str, Any], proxy: Proxy) -> None:
    assert seen["links"] == LINKED
    if proxy.speaks == "h2":
        assert seen["links by HTTP/2"] == LINKED


def test_a_closed_tab_leaves_the_pool(seen: dict[str, Any], proxy: Proxy) -> None:
    """Or does not, behind the one of which the page says so."""
    gone = [seen[each] for each in ("closed", "cancelled", "goodbye") if each in seen]
    assert [each is not None for each in gone] == [proxy.hears] * len(gone)
    assert seen["ghost"] is not proxy.hears


def test_a_long_request_ends_as_the_server_ends_it(seen: dict[str, Any]) -> None:
    status, type_, seconds = seen["long"]
    assert (status, type_) == (298, "NO_NAMESPACE_PEER")
    assert 14 < seconds < 30  # on a busy machine; a proxy that cut it would not say 298


def test_every_reply_arrives_with_its_status_and_form(seen: dict[str, Any]) -> None:
    refusals: dict[str, Told] = seen["refusals"]
    assert {name: each.short for name, each in refusals.items()} == {
        "499": (499, "MISSING_PARAMETER"),
        "298": (298, "NO_NAMESPACE_PEER"),
        "299": (299, "NO_PEER"),
        "297": (297, "RATE_LIMIT"),
        "413": (413, "TOO_LARGE"),
        "413, larger": (413, "TOO_LARGE"),
    }
    assert refusals["297"].headers["retry-after"] == str(refusals["297"].json["RETRY_AFTER"])
    for each in refusals.values():
        assert each.headers["access-control-allow-origin"] == "*"


def test_an_invented_address_does_not_count(seen: dict[str, Any]) -> None:
    assert seen["claims"] == "client"


def test_who_waits_is_answered_when_the_server_ends(seen: dict[str, Any]) -> None:
    last: Told = seen["last"]
    assert last.short == (503, "UNAVAILABLE")
    assert int(last.headers["retry-after"]) >= 1


def test_nginx_speaks_for_a_server_that_is_away(looks: Looks) -> None:
    after: Told = looks[NGINX.name]["after"]
    assert after.short == (503, "UNAVAILABLE")
    assert after.headers["retry-after"] == str(after.json["RETRY_AFTER"])
    assert after.headers["access-control-allow-origin"] == "*"


def test_the_proxy_protocol_names_the_client(looks: Looks) -> None:
    seen = looks[HAPROXY_TCP.name]
    assert (seen["links"], seen["claims"], seen["ghost"]) == (LINKED, "client", False)
    assert seen["closed"] is not None


# --- the doctor --------------------------------------------------------------------------------------------

DOCTORS = {
    "HAProxy as it comes": (HAPROXY, True),
    "HAProxy as it should be": (HAPROXY, False),
    "Apache": (APACHE, False),
}

FOUND = {
    "HAProxy as it comes": {
        "hang-ups": "abortonclose",
        "hang-ups, HTTP/2": "abortonclose",
        "addresses": "claim",
    },
    "HAProxy as it should be": {},
    "Apache": {"hang-ups": "docs/proxies.md", "hang-ups, HTTP/2": "docs/proxies.md"},
}


@pytest.fixture(scope="module")
def doctors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, str]]]:
    """What the doctor finds, by what it looked at; all of them at once."""
    folder = tmp_path_factory.mktemp("doctors")

    def ask(name: str, server: Server) -> dict[str, dict[str, str]]:
        proxy, as_it_comes = DOCTORS[name]
        with Running(proxy, server.port, folder / name.replace(" ", "-"), as_it_comes=as_it_comes) as running:
            command = [sys.executable, "-m", "flask", "--app", "signal_server", "spacerift", "doctor"]
            environ = environment(SECRET_KEY=SECRET)
            environ["SSL_CERT_FILE"] = str(running.folder / "fullchain.pem")
            ran = subprocess.run(
                [*command, "--json", "--url", running.url],
                cwd=ROOT,
                env=environ,
                capture_output=True,
                text=True,
            )
        assert ran.returncode == (1 if FOUND[name] else 0), ran.stderr
        return {each["about"]: each for each in json.loads(ran.stdout)}

    with Server(**SERVER | {"REQUEST_TIMEOUT": 4}) as server, ThreadPoolExecutor(len(DOCTORS)) as pool:
        return dict(zip(DOCTORS, pool.map(lambda name: ask(name, server), DOCTORS), strict=True))


@pytest.mark.parametrize("name", DOCTORS)
def test_the_doctor_finds_what_a_proxy_hides(
    doctors: dict[str, dict[str, dict[str, str]]], name: str
) -> None:
    found = doctors[name]
    assert {about for about, each in found.items() if each["state"] == "fault"} == FOUND[name].keys()
    for about, words in FOUND[name].items():
        assert words in found[about]["words"]
    assert {found[each]["state"] for each in ("pairing", "long requests", "refusals")} == {"ok"}


# --- the page ----------------------------------------------------------------------------------------------


def test_the_page_tells_of_each(proxy: Proxy) -> None:
    table = PAGE.read_text().split("<!-- made by tests/proxies.py -->")[1].split("<!-- end -->")[0]
    (row,) = [line for line in table.splitlines() if line.startswith(f"| {proxy.name} ")]
    assert ("yes" in row.split("|")[3]) is proxy.hears
