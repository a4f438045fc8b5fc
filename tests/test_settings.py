"""Settings: defaults, good values, bad values, each in one line that names it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from live import ROOT, environment, free_port
from signal_server.errors import ConfigurationError
from signal_server.settings import Settings


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
    "name", ["REQUEST_LIMIT", "PAIR_LIMIT", "ADDRESS_LIMIT", "HELD_PER_ADDRESS", "MAX_WAITING"]
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
    ("URL_PREFIX", ""),
    ("URL_PREFIX", "rift"),
    ("SECRET_KEY", ""),
    ("SIGNATURES", "yes"),
    ("ICE_SERVERS", "stun:x"),
    ("ICE_SERVERS", "{}"),
    ("TURN_URLS", "turn:x"),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_one_line_that_names_it(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        read(**{name: value})
    assert "SPACERIFT_" + name in str(error.value)
    assert "\n" not in str(error.value)


def test_redis_needs_a_secret_of_its_own() -> None:
    with pytest.raises(ConfigurationError, match="SPACERIFT_SECRET_KEY"):
        Settings.from_env({"REDIS_URL": "redis://localhost"})


def test_an_unknown_setting_is_told(caplog: pytest.LogCaptureFixture) -> None:
    read(REQUEST_TIMOUT="3")
    assert "did you mean SPACERIFT_REQUEST_TIMEOUT" in caplog.text


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


def test_two_workers_without_redis_are_refused() -> None:
    code, text = start("--workers", "2")
    assert code != 0
    assert "REDIS_URL" in text
    assert "Traceback" not in text
