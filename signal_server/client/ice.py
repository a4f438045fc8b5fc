"""The ICE servers that the server tells its clients of: `GET /ice`."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from .errors import SpaceriftError, refusal
from .target import Target
from .transport import HEADERS, MAX_REPLY, connection_to, unreachable

SECONDS: Final = 5.0
"""For one request."""

BUSY_SECONDS: Final = 2.0
"""So long a server is asked again that is busy."""

KEYS: Final = ("urls", "username", "credential")


def ice_servers(url: str, *, tls: ssl.SSLContext | None = None) -> list[dict[str, Any]]:
    """Ask for the `iceServers` of an RTCConfiguration, and block until they are there.

    Each is as the strictest WebRTC libraries want it: `urls` is a list, there is nothing beside `username`
    and `credential`, and a STUN URL has no query.

    Args:
        url: where the server is mounted.

    Raises:
        SpaceriftError: they are not known. That is not the same as an empty list.
    """
    parts = urlsplit(url)
    target = Target(urlunsplit(parts._replace(path=parts.path.rstrip("/") + "/ice")), tls)
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return _ask(target)
        except SpaceriftError as error:
            wait = error.retry_after or 0.1
            if error.status not in (297, 429, 503) or time.monotonic() + wait > deadline:
                raise
        time.sleep(wait)


def _ask(target: Target) -> list[dict[str, Any]]:
    connection = connection_to(target, SECONDS)
    headers = {**HEADERS, **target.headers}
    try:
        connection.request("GET", target.request_target, headers=headers)
        response = connection.getresponse()
        body, location = response.read(MAX_REPLY), response.headers.get("Location", "")
    except (OSError, http.client.HTTPException) as error:
        raise unreachable(error, target) from error
    finally:
        connection.close()
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        reply = None
    reply = reply if isinstance(reply, dict) else {}
    servers = reply.get("iceServers")
    if response.status != 200 or not isinstance(servers, list):
        raise refusal(response.status, reply, location)
    return [_plain(each) for each in servers if isinstance(each, dict)]


def _plain(server: dict[str, Any]) -> dict[str, Any]:
    urls = server.get("urls", [])
    plain: dict[str, Any] = {key: server[key] for key in KEYS if key in server}
    plain["urls"] = [
        each.partition("?")[0] if each.startswith("stun") else each
        for each in (urls if isinstance(urls, list) else [urls])
    ]
    return plain
