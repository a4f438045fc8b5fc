"""The Flask extension in somebody else's application: both work, and neither disturbs the other."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask

from live import ROOT, Reply, Server
from signal_server import ConfigurationError, Settings, Spacerift, create_app

RIFT = "/rift/"


def connect(name: str, **extra: object) -> dict[str, object]:
    return {"TYPE": "CONNECT", "SIGNAL": f"offer of {name}", "FINGERPRINT": name, **extra}


def answer(name: str, nonce: str) -> dict[str, object]:
    return {"TYPE": "CONNECT", "SIGNAL": f"answer of {name}", "NONCE": nonce, "FINGERPRINT": name}


# --- mounted -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def host() -> Iterator[Server]:
    with Host(app="tests.hosts:busy()", URL_PREFIX="/rift", ANSWER_TIMEOUT=0.5) as running:
        yield running


class Host(Server):
    def statistics(self) -> dict[str, int]:
        return json.loads(self.get("/statistics")[2])  # type: ignore[no-any-return]


def test_ten_lines_are_enough() -> None:
    lines = (ROOT / "docs/examples/mounted.py").read_text().splitlines()[1:]
    assert len([line for line in lines if line.strip()]) <= 10
    with Server(app="docs.examples.mounted:app", URL_PREFIX="/rift", REQUEST_TIMEOUT=2) as server:
        alice = server.call(connect("alice"), path=RIFT)
        while b"spacerift_waiting 1.0" not in server.get("/rift/metrics")[2]:
            time.sleep(0.01)
        bob = server.call(connect("bob"), path=RIFT)
        told = bob.reply()
        bob.send(answer("bob", told["NONCE"]), path=RIFT)
        assert bob.reply().type == "DELIVERED"
        assert alice.reply()["SIGNAL"] == "answer of bob"
        assert server.get("/")[2].startswith(b"<script")
        assert server.get("/rift/spacerift.js")[0] == server.get(RIFT)[0] == 200


def test_two_peers_link_through_the_host(host: Server) -> None:
    alice = host.call(connect("alice"), path=RIFT)
    host.until(waiting=1)
    bob = host.call(connect("bob"), path=RIFT)
    demoted = bob.reply()
    long = answer("bob", demoted["NONCE"]) | {"SIGNAL": "x" * 5000}
    bob.send(long, path=RIFT)
    delivered, answered = bob.reply(), alice.reply()
    assert (demoted.type, delivered.type, answered["SIGNAL"]) == ("DEMOTE", "DELIVERED", "x" * 5000)
    for reply in (demoted, delivered, answered):
        assert reply.status_line == "200 OK"
        assert reply.headers["content-type"] == "application/json"
        assert [reply.headers[f"x-{each}"] for each in ("host", "after", "session")] == [
            "marked",
            "stamped",
            "saved",
        ]


def test_who_leaves_is_noticed_through_the_host(host: Server) -> None:
    leaver = host.call(connect("leaver"), path=RIFT)
    host.until(waiting=1)
    leaver.close()
    host.until(waiting=0)


def test_a_reply_that_the_host_drops_was_not_delivered(host: Server) -> None:
    alice = host.call(connect("alice", NAMESPACE="boom"), path=RIFT)
    host.until(waiting=1)
    dropped = host.post(connect("bob", NAMESPACE="boom"), headers={"X-Boom": "yes"}, path=RIFT)
    assert (dropped.status, dropped.body) == (500, b"the host's own 500")
    carl = host.call(connect("carl", NAMESPACE="boom"), path=RIFT)
    told = carl.reply()  # once the offer is back: at the latest when the time for its answer is over
    assert (told.type, told["SIGNAL"]) == ("DEMOTE", "offer of alice")
    alice.close()


def test_refusals_keep_their_form_below_the_prefix_and_the_hosts_theirs_elsewhere(host: Server) -> None:
    def asked(method: str, path: str) -> Reply:
        with host.call(method=method, path=path) as call:
            return call.reply()

    assert asked("GET", "/rift/nowhere").json == {"TYPE": "NOT_FOUND", "DETAIL": "not found"}
    for path in ("/rift/", "/rift/health"):
        refused = asked("DELETE", path)
        assert (refused.status, refused.type) == (405, "METHOD_NOT_ALLOWED")
        assert "GET" in refused.headers["allow"]
        assert "DELETE" not in refused.headers["allow"]
    assert asked("GET", "/nowhere").body == b"the host has no such page"
    assert asked("DELETE", "/").body == b"the host's own 405"
    assert host.post({"TYPE": "X"}, path=RIFT).type == "BAD_REQUEST"


def test_the_hosts_limiter_and_session_are_its_own(host: Server) -> None:
    first = host.get("/")
    cookie = first[1]["set-cookie"].partition(";")[0]
    again = host.get("/", Cookie=cookie)
    assert (first[2], again[2]) == (b"visit 1", b"visit 2")
    assert first[1]["x-ratelimit-limit"] == "2"
    assert host.get("/")[0] == 429
    for _ in range(5):
        assert host.get("/rift/ice")[0] == 200


@pytest.mark.parametrize(
    ("trusted", "headers", "location"),
    [
        (0, {}, "/rift/"),
        (0, {"Host": "rift.example:8443", "X-Forwarded-Proto": "https"}, "/rift/"),
        (1, {"X-Forwarded-Prefix": "/app"}, "/app/rift/"),
        (0, {"X-Forwarded-Prefix": "/app"}, "/rift/"),  # nobody is trusted
        (1, {"X-Forwarded-Prefix": "//evil.example"}, "/rift/"),
    ],
)
def test_a_page_below_a_prefix_gets_its_slash(trusted: int, headers: dict[str, str], location: str) -> None:
    """By a relative address: the scheme and the port are the browser's."""
    app = Flask("app")
    app.config |= {"SPACERIFT_URL_PREFIX": "/rift", "SPACERIFT_TRUSTED_PROXIES": trusted}
    Spacerift(app)
    moved = app.test_client().get("/rift?room=1", headers=headers)
    assert (moved.status_code, moved.headers["Location"]) == (308, f"{location}?room=1")
    assert app.test_client().post("/rift").status_code == 415


def test_a_page_knows_the_prefix_that_a_trusted_proxy_cut_off() -> None:
    def base(trusted: int, prefix: str) -> str | None:
        app = create_app(Settings.from_env({"SPACERIFT_TRUSTED_PROXIES": str(trusted)}))
        page = app.test_client().get("/", headers={"X-Forwarded-Prefix": prefix})
        found = re.search(r'<base href="([^"]*)">', page.get_data(as_text=True))
        assert ("base-uri 'self'" in page.headers["Content-Security-Policy"]) is bool(found)
        return found and found[1]

    assert base(1, "/rift") == base(1, "/rift/") == "/rift/"
    assert base(0, "/rift") is None
    for bad in ("//evil.example", "/a/../b", '/"><script>', "rift", ""):
        assert base(1, bad) is None


# --- several, and none --------------------------------------------------------------------------------------


def test_several_applications_in_one_process_are_strangers() -> None:
    extension = Spacerift()
    apps = []
    for _ in range(2):
        app = Flask("app")
        app.config |= {"SPACERIFT_REQUEST_TIMEOUT": 0.5, "SPACERIFT_REQUEST_LIMIT": None}
        extension.init_app(app)
        apps.append(app)
    told: list[int] = []

    def ask(app: Flask, name: str) -> None:
        told.append(app.test_client().post("/", json=connect(name)).status_code)

    threads = [threading.Thread(target=ask, args=(app, f"peer {i}")) for i, app in enumerate(apps)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert told == [299, 299]
    first, second = (app.extensions["spacerift"] for app in apps)
    assert first is not second
    assert first.store is not second.store


def test_an_import_does_no_work() -> None:
    program = (
        "import os, threading; before = len(os.listdir('/proc/self/fd')); import signal_server, sys\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "assert len(os.listdir('/proc/self/fd')) == before\n"
    )
    environ = os.environ | {"SPACERIFT_REQUEST_TIMEOUT": "not a number", "REDIS_URL": "redis://127.0.0.1:1"}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environ, check=True)


# --- settings from app.config -------------------------------------------------------------------------------


def settings_of(**config: object) -> Settings:
    app = Flask("app")
    app.config |= {f"SPACERIFT_{name}": value for name, value in config.items()}
    Spacerift(app)
    settings: Settings = app.extensions["spacerift"].settings
    return settings


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("REQUEST_TIMEOUT", 2.5, 2.5),
        ("REQUEST_TIMEOUT", "2.5", 2.5),
        ("MAX_WAITING", 7, 7),
        ("MAX_WAITING", None, None),
        ("ADDRESS_LIMIT", None, None),
        (
            "CORS_ORIGINS",
            ["https://a.example", "https://b.example"],
            ("https://a.example", "https://b.example"),
        ),
        ("CORS_ORIGINS", "*", ("*",)),
        ("ICE_SERVERS", [{"urls": "stun:s.example"}], ({"urls": "stun:s.example"},)),
        ("ICE_SERVERS", [], ()),
        ("SECRET_KEY", 12345, "12345"),
        ("TRUSTED_KEYS", Path("/nowhere"), "/nowhere"),
        ("URL_PREFIX", None, None),
    ],
)
def test_a_setting_may_be_what_it_is_or_text(name: str, value: object, expected: object) -> None:
    assert getattr(settings_of(**{name: value}), name.lower()) == expected


def test_the_applications_configuration_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACERIFT_ANSWER_TIMEOUT", "3")
    monkeypatch.setenv("SPACERIFT_REQUEST_TIMEOUT", "4")
    settings = settings_of(REQUEST_TIMEOUT=9)
    assert (settings.answer_timeout, settings.request_timeout) == (3, 9)


@pytest.mark.parametrize("value", ["soon", None, True, -1, float("nan"), [1, 2], object()])
def test_a_bad_value_is_named(value: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^SPACERIFT_REQUEST_TIMEOUT must be") as error:
        settings_of(REQUEST_TIMEOUT=value)
    assert "\n" not in str(error.value)


def test_an_unknown_name_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        settings_of(REQUEST_TIMEOUTS=3)
    assert "did you mean SPACERIFT_REQUEST_TIMEOUT?" in caplog.text


def test_settings_may_be_handed_over() -> None:
    app = create_app(Settings.from_env({"SPACERIFT_MAX_BODY": "10"}))
    rift = app.extensions["spacerift"]
    assert rift.settings.max_body == 10
    assert rift.sources["max_body"] == "application"


# --- Flask-Limiter, for what is made for each who asks ------------------------------------------------------


def test_minting_is_limited_by_address_and_apart() -> None:
    app = create_app(Settings.from_env({"SPACERIFT_ADDRESS_LIMIT": "2 per minute"}))
    client = app.test_client()
    assert [client.get("/ice").status_code for _ in range(3)] == [200, 200, 297]
    refused = client.get("/ice")
    assert refused.get_json() == {"TYPE": "RATE_LIMIT", "RETRY_AFTER": 60}
    assert (refused.headers["Retry-After"], refused.headers["Access-Control-Allow-Origin"]) == ("60", "*")
    assert client.get("/ice", environ_base={"REMOTE_ADDR": "192.0.2.1"}).status_code == 200
    assert client.post("/", json={}).status_code == 499
    assert client.get("/health").status_code == 200
    assert not app.before_request_funcs
    assert not app.after_request_funcs
