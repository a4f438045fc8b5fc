"""Settings: defaults, good values, bad values, each in one line that names it."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys

import pytest
from playwright.sync_api import Browser

from live import ROOT, Server, environment, free_port
from signal_server import create_app
from signal_server.errors import ConfigurationError
from signal_server.http.head import Origins
from signal_server.settings import Settings

pytest_plugins = ["browser_fixtures"]


def read(**values: str) -> Settings:
    return Settings.from_env({"SPACERIFT_" + name: value for name, value in values.items()})


def test_the_defaults_are_the_protocols() -> None:
    settings = Settings.from_env({})
    assert (settings.request_timeout, settings.answer_timeout) == (15, 5)
    assert (settings.pair_memory_ttl, settings.pair_memory_sweep) == (3600, 30)
    rates = (settings.request_limit, settings.pair_limit, settings.address_limit)
    assert [str(each) for each in rates] == ["1 per 1 second", "1 per 5 second", "50 per 1 second"]
    assert (settings.held_per_address, settings.max_waiting, settings.max_body) == (256, 20000, 65536)
    assert (settings.cors_origins, settings.trusted_proxies) == (("*",), 0)
    assert settings.url_prefix is None
    assert settings.secret_key is None
    assert settings.signatures == "off"
    assert settings.ice_servers == ()


@pytest.mark.parametrize(
    "name",
    [
        "REQUEST_LIMIT",
        "PAIR_LIMIT",
        "ADDRESS_LIMIT",
        "HELD_PER_ADDRESS",
        "CONNECTIONS_PER_ADDRESS",
        "MAX_WAITING",
    ],
)
def test_an_empty_limit_is_off(name: str) -> None:
    assert getattr(read(**{name: ""}), name.lower()) is None


def test_values_are_read() -> None:
    settings = read(
        REQUEST_TIMEOUT="0.5",
        SECRET_KEY="12345",
        CORS_ORIGINS="https://a.example, http://b.example:8080/",
        URL_PREFIX="/rift",
        ICE_SERVERS='[{"urls": "stun:stun.example"}]',
        TURN_URLS="turn:turn.example,turns:turn.example",
        TURN_SECRET="s",
    )
    assert settings.request_timeout == 0.5
    assert settings.secret_key == "12345"
    assert settings.cors_origins == ("https://a.example", "http://b.example:8080")
    assert settings.ice_servers == ({"urls": "stun:stun.example"},)
    assert settings.turn_urls == ("turn:turn.example", "turns:turn.example")


BAD = [
    ("REQUEST_TIMEOUT", ""),
    ("REQUEST_TIMEOUT", "soon"),
    ("REQUEST_TIMEOUT", "nan"),
    ("REQUEST_TIMEOUT", "inf"),
    ("REQUEST_TIMEOUT", "0"),
    ("ANSWER_TIMEOUT", "-1"),
    ("ANSWER_TIMEOUT", "1e10"),
    ("PAIR_MEMORY_TTL", "-1"),
    ("PAIR_MEMORY_TTL", "1e18"),
    ("PAIR_MEMORY_SWEEP", "1e999"),
    ("REQUEST_LIMIT", "often"),
    ("REQUEST_LIMIT", "1 per second; 2 per minute"),
    ("PAIR_LIMIT", "0 per second"),
    ("PAIR_LIMIT", "1 per 0 seconds"),
    ("HELD_PER_ADDRESS", "many"),
    ("HELD_PER_ADDRESS", "0"),
    ("MAX_WAITING", "1.5"),
    ("MAX_BODY", "-3"),
    ("TRUSTED_PROXIES", ""),
    ("TRUSTED_PROXIES", "one"),
    ("CORS_ORIGINS", ""),
    ("CORS_ORIGINS", "example.com"),
    ("CORS_ORIGINS", "https://a.example/path"),
    ("CORS_ORIGINS", "https://a.example?x"),
    ("CORS_ORIGINS", "'https://a.example'"),
    ("CORS_ORIGINS", '["https://a.example"]'),
    ("CORS_ORIGINS", "https://a.example,"),
    ("CORS_ORIGINS", "https://user:hidden@a.example"),
    ("CORS_ORIGINS", "https://münchen.example"),
    ("CORS_ORIGINS", "https://*"),
    ("CORS_ORIGINS", "https://a.*.example"),
    ("CORS_ORIGINS", "https://preview-*.example"),
    ("CORS_ORIGINS", "https://*.192.0.2.1"),
    ("CORS_ORIGINS", "*.example.com"),
    ("CORS_ORIGINS", "https://a.example:0"),
    ("CORS_ORIGINS", "https://a.example:8O80"),
    ("CORS_ORIGINS", "https://[::x]"),
    ("CORS_ORIGINS", "https://192.0.2"),
    ("CORS_ORIGINS", "https://a..example"),
    ("CORS_ORIGINS", "wss://a.example"),
    ("CORS_ORIGINS", "NULL"),
    ("URL_PREFIX", ""),
    ("URL_PREFIX", "rift"),
    ("URL_PREFIX", "//rift"),
    ("URL_PREFIX", "/a/../rift"),
    ("SECRET_KEY", ""),
    ("SIGNATURES", "yes"),
    ("ICE_SERVERS", "stun:x"),
    ("ICE_SERVERS", "{}"),
    ("ICE_SERVERS", '[{"url": "stun:x"}]'),
    ("ICE_SERVERS", '[{"urls": []}]'),
    ("ICE_SERVERS", '[{"urls": [1]}]'),
    ("TURN_URLS", "turn:x"),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_one_line_that_names_it(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        read(**{name: value})
    assert "SPACERIFT_" + name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("HTTPS://A.Example:443", "https://a.example"),
        ("http://a.example:80/", "http://a.example"),
        ("https://a.example:0443", "https://a.example"),
        ("http://a.example:443", "http://a.example:443"),
        ("https://[2001:DB8:0::1]:8443", "https://[2001:db8::1]:8443"),
        ("https://*.Example.com", "https://*.example.com"),
        ("https://*.example.com:8443", "https://*.example.com:8443"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("null", "null"),
        ("file://", "file://"),
        ("*", "*"),
    ],
)
def test_an_origin_is_as_a_browser_sends_it(written: str, normal: str) -> None:
    assert read(CORS_ORIGINS=f"{written}, {normal}").cors_origins == (normal,)


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [
        ("https://a.example", True),
        ("http://a.example", False),
        ("https://a.example:8443", False),
        ("https://x.b.example", True),
        ("https://x.y.b.example", True),
        ("https://b.example", False),
        ("https://xb.example", False),
        ("https://.b.example", False),
        ("null", True),
    ],
)
def test_an_origin_is_allowed_if_it_is_listed_or_below_one(origin: str, is_allowed: bool) -> None:
    listed = read(CORS_ORIGINS="https://a.example, https://*.b.example, null").cors_origins
    assert Origins(listed).allows(origin) is is_allowed
    assert Origins(("*",)).allows(origin)


def test_a_secret_is_not_repeated() -> None:
    for name, value in [
        ("CORS_ORIGINS", "https://user:hidden@a.example"),
        ("ICE_SERVERS", '[{"urls": "turn:user:hidden@a.example"}]'),
        ("TURN_URLS", "turn:user:hidden@a.example"),
    ]:
        with pytest.raises(ConfigurationError) as error:
            read(**{name: value})
        assert "hidden" not in str(error.value)


# --- ICE servers -------------------------------------------------------------------------------------------

GOOD_ICE_URLS = [
    "stun:a.example",
    "STUN:a.example:3478",
    "stuns:a.example:5349",
    "stun:[2001:db8::1]:3478",
    "stun:192.0.2.1",
    "stun:a_b.example",
    "turn:a.example",
    "turn:a.example?transport=udp",
    "turns:a.example:443?transport=tcp",
]

BAD_ICE_URLS = [
    "stun://a.example",
    "turn://a.example:3478",
    "a.example",
    "$STUN_URL",
    "http://a.example",
    "stun:",
    "stun: a.example",
    "stun:a.example/",
    "stun:a.example:",
    "stun:a.example:port",
    "stun:a.example:0",
    "stun:a.example:65536",
    "stun:2001:db8::1",
    "stun:a.example?transport=udp",
    "stun:a.example,stun:b.example",
    "turn:a.example turn:b.example",
    "turn:user@a.example",
    "turn:a.example?transport=tls",
    "turn:a.example?transport=",
    "turn:a.example?ttl=1",
]

CREDENTIAL = {"username": "u", "credential": "c"}

BAD_TURN_SERVERS = [
    {},
    {"username": "u"},
    {"credential": "c"},
    {"username": "", "credential": ""},
    {"username": "u" * 510, "credential": "c"},
]


def turn_server(**credential: object) -> dict[str, object]:
    return {"urls": "turn:a.example", **credential}


@pytest.mark.parametrize("url", BAD_ICE_URLS)
def test_an_ice_url_that_no_browser_takes_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^SPACERIFT_ICE_SERVERS has "):
        read(ICE_SERVERS=json.dumps([{"urls": ["stun:a.example", url], **CREDENTIAL}]))
    with pytest.raises(ConfigurationError, match=r"^SPACERIFT_TURN_URLS "):
        read(TURN_URLS=f"turn:a.example,{url}", TURN_SECRET="s")


@pytest.mark.parametrize("credential", [*BAD_TURN_SERVERS, {"username": "u", "credential": 5}])
def test_a_turn_server_without_a_credential_is_refused(credential: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=r"^SPACERIFT_ICE_SERVERS has a TURN server"):
        read(ICE_SERVERS=json.dumps([turn_server(**credential)]))


def test_the_browser_takes_what_is_taken_and_not_what_is_refused(chromium: Browser) -> None:
    good = [{"urls": url, **CREDENTIAL} for url in GOOD_ICE_URLS] + [turn_server(**CREDENTIAL)]
    assert read(ICE_SERVERS=json.dumps(good)).ice_servers == tuple(good)
    bad = [{"urls": url, **CREDENTIAL} for url in BAD_ICE_URLS]
    bad += [turn_server(**each) for each in BAD_TURN_SERVERS]
    takes = """server => {
        try { new RTCPeerConnection({iceServers: [server]}).close(); return true; } catch { return false; }
    }"""
    page = chromium.new_page()
    assert [each for each in good if not page.evaluate(takes, each)] == []
    assert [each for each in bad if page.evaluate(takes, each)] == []
    page.close()


# --- the platform's own names ------------------------------------------------------------------------------

BAD_REDIS_URLS = [
    "http://h",
    "h:6379",
    "redis:h",
    "redis://[::1",
    "redis://h:port",
    "redis://h:99999",
    "redis://h/name",
    "redis://h/0/1",
    "redis+cluster://h/1",
    "unix://",
    "redis://h?ssl_cert_reqs=none",
    "rediss://h?ssl_cert_reqs=CERT_NONE",
    "redis://h?family=0",
    "redis://h?socket_timeout=soon",
    "redis://h?protocol=9",
    "redis://h?decode_responses=true",
    "redis://h?port=x",
    "unix:///run/redis.sock?host=h",
]


@pytest.mark.parametrize("url", BAD_REDIS_URLS)
def test_an_address_that_its_driver_refuses_stops_the_start(url: str) -> None:
    url = url.replace("://h", "://:hidden@h")
    with pytest.raises(ConfigurationError) as error:
        create_app(Settings.from_env({"REDIS_URL": url, "SPACERIFT_SECRET_KEY": "s" * 16}))
    assert str(error.value).startswith("REDIS_URL ")
    assert "hidden" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("url", ["redis://:p%zz@h:1/3?db=2", "unix:///r.sock?db=1", "rediss+cluster://h/0"])
def test_an_address_that_its_driver_takes_is_taken(url: str) -> None:
    create_app(Settings.from_env({"REDIS_URL": url, "SPACERIFT_SECRET_KEY": "s" * 16}))


def test_what_a_platform_leaves_empty_is_unset() -> None:
    assert Settings.from_env({"REDIS_URL": ""}).redis_url is None
    environ = environment() | {"PORT": "", "REDIS_URL": ""}
    command = [sys.executable, "-m", "gunicorn", "--print-config"]
    shown = subprocess.check_output(command, cwd=ROOT, env=environ, text=True)
    assert re.search(r"^bind +=.*:8000", shown, re.MULTILINE)


def test_what_an_orchestrator_adds_by_itself_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    links = {
        "PORT": "tcp://10.0.0.7:8000",
        "SERVICE_HOST": "10.0.0.7",
        "SERVICE_PORT": "8000",
        "SERVICE_PORT_HTTP": "8000",
        "PORT_8000_TCP": "tcp://10.0.0.7:8000",
        "PORT_8000_TCP_PROTO": "tcp",
        "PORT_8000_TCP_PORT": "8000",
        "PORT_8000_TCP_ADDR": "10.0.0.7",
        "REDIS_PORT": "tcp://10.0.0.8:6379",
    }
    read(**links)
    assert caplog.text == ""
    read(PORT="8000")
    assert "did you mean PORT?" in caplog.text


def test_a_router_that_nobody_trusts_is_told(caplog: pytest.LogCaptureFixture) -> None:
    Settings.from_env({"DYNO": "web.1", "SPACERIFT_TRUSTED_PROXIES": "1"})
    assert caplog.text == ""
    Settings.from_env({"DYNO": "web.1"})
    assert "SPACERIFT_TRUSTED_PROXIES=1" in caplog.text


def test_redis_needs_a_secret_of_its_own() -> None:
    with pytest.raises(ConfigurationError, match="SPACERIFT_SECRET_KEY"):
        Settings.from_env({"REDIS_URL": "redis://localhost"})


def test_an_unknown_setting_is_told(caplog: pytest.LogCaptureFixture) -> None:
    read(REQUEST_TIMOUT="3")
    assert "did you mean SPACERIFT_REQUEST_TIMEOUT?" in caplog.text
    read(POOLS="3")
    assert caplog.text.count("did you mean") == 1  # the prefix alone makes no two names alike


def start(*arguments: str, **settings: object) -> tuple[int, str]:
    """How gunicorn ends, and what it says."""
    environ = environment(**settings) | {"PORT": str(free_port())}
    command = [sys.executable, "-m", "gunicorn", *arguments]
    ended = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=30, check=False
    )
    return ended.returncode, ended.stdout + ended.stderr


@pytest.mark.parametrize("name", ["REQUEST_TIMEOUT", "MAX_WAITING"])
def test_a_bad_value_stops_gunicorn_with_one_line_and_no_stack(name: str) -> None:
    code, text = start(**{name: "soon"})
    assert code != 0
    assert sum(f"SPACERIFT_{name}" in line for line in text.splitlines()) == 1
    assert "Traceback" not in text


@pytest.mark.parametrize("port", ["99999", "http"])
def test_a_bad_port_is_one_line(port: str) -> None:
    environ = environment() | {"PORT": port}
    command = [sys.executable, "-m", "gunicorn"]
    ended = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode != 0
    assert ended.stderr.splitlines()[-1] == "PORT must be a number up to 65535"
    assert "Traceback" not in ended.stderr


def test_a_worker_that_holds_one_request_is_refused() -> None:
    code, text = start("--worker-class", "sync")
    assert code != 0
    assert "gevent" in text
    assert "Traceback" not in text


def test_what_is_too_long_is_told_by_its_limit(server: Server) -> None:
    """gunicorn's limits, in the form of our refusals."""
    for path, headers, told in [
        (f"/?{'x' * 3000}", {}, (414, "2048")),
        ("/", {"Cookie": "x" * 9000}, (431, "8190")),
        ("/", {f"X-{number}": "x" for number in range(70)}, (431, "64")),
    ]:
        with server.call(method="GET", path=path, headers=headers, body=b"") as call:
            refused = call.reply()
        assert (refused.status, told[1] in refused["DETAIL"]) == (told[0], True)


def test_it_listens_on_ipv6_too(server: Server) -> None:
    for address in ("127.0.0.1", "::1"):
        with socket.create_connection((address, server.port), timeout=10) as client:
            client.sendall(b"GET /health HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")


def test_two_workers_without_redis_are_refused() -> None:
    code, text = start("--workers", "2")
    assert code != 0
    assert "REDIS_URL" in text
    assert "Traceback" not in text
