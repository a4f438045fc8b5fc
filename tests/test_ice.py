"""`GET /ice`: which ICE servers a peer is told of, and the credentials of a TURN server."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time

import pytest

from signal_server import create_app
from signal_server.http.ice import CREDENTIAL_SECONDS, ice_servers, turn_credential
from signal_server.settings import Settings

STUN = {"urls": "stun:stun.example.com"}
TURN_URL = "turn:turn.example.com:3478"


def settings(**values: str) -> Settings:
    return Settings.from_env({f"SPACERIFT_{name}": value for name, value in values.items()})


def get(path="/ice", *, origin=None, **values):
    headers = {"Origin": origin} if origin else {}
    return create_app(settings(**values)).test_client().get(path, headers=headers)


def test_nobody_else_is_asked_by_default():
    assert get().json == {"iceServers": []}


def test_the_configured_servers_are_told_as_they_are():
    assert ice_servers(settings(ICE_SERVERS=json.dumps([STUN])), 0) == [STUN]


def test_turn_comes_after_the_configured_servers_with_a_credential():
    told = ice_servers(
        settings(
            ICE_SERVERS=json.dumps([STUN]), TURN_URLS=f"{TURN_URL}, turns:turn.example.com", TURN_SECRET="s"
        ),
        1_000_000,
    )
    assert told[0] == STUN
    assert told[1]["urls"] == [TURN_URL, "turns:turn.example.com"]
    assert set(told[1]) == {"urls", "username", "credential"}


def test_a_credential_is_the_hmac_of_a_name_that_says_until_when():
    given = turn_credential("sesame", 1_000_000.9)
    until, _, name = given["username"].partition(":")
    assert int(until) == 1_000_000 + CREDENTIAL_SECONDS
    assert name
    made = hmac.new(b"sesame", given["username"].encode(), hashlib.sha1).digest()
    assert base64.b64decode(given["credential"]) == made


def test_each_peer_gets_a_credential_of_its_own():
    assert turn_credential("sesame", 0) != turn_credential("sesame", 0)


def test_the_reply_is_fresh_and_never_cached():
    response = get(TURN_URLS=TURN_URL, TURN_SECRET="sesame")
    assert response.headers["Cache-Control"] == "no-store"
    until = int(response.json["iceServers"][0]["username"].partition(":")[0])
    assert until == pytest.approx(time.time() + CREDENTIAL_SECONDS, abs=5)
    assert "sesame" not in response.text


@pytest.mark.parametrize(
    ("allowed", "origin", "readable"),
    [
        ("*", "https://chess.example.com", "*"),
        ("https://chess.example.com", "https://chess.example.com", "https://chess.example.com"),
        ("https://chess.example.com", "https://evil.example.com", None),
    ],
)
def test_pages_of_the_allowed_origins_may_read_it(allowed, origin, readable):
    response = get(origin=origin, CORS_ORIGINS=allowed)
    assert response.status_code == 200
    assert response.headers.get("Access-Control-Allow-Origin") == readable


def test_it_is_mounted_with_the_endpoint():
    assert get("/rift/ice", URL_PREFIX="/rift").status_code == 200
