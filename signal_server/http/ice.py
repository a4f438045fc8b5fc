"""The ICE servers that peers are told of, and short-lived credentials for the TURN servers among them."""

from __future__ import annotations

import base64
import hmac
import secrets
from typing import Any, Final

from ..settings import Settings

CREDENTIAL_SECONDS: Final = 6 * 3600
"""How long a TURN credential is good.

A TURN server asks for it when a relay is allocated, so it must outlive the time from being told to linking,
and not the link. A page may have been open for hours by then; a credential that leaks is worth little later.
"""


def ice_servers(settings: Settings, now: float) -> list[dict[str, Any]]:
    """What goes into `RTCConfiguration.iceServers`: empty where nothing is set, so nobody else is asked.

    Args:
        now: seconds since 1970, of the same clock as the TURN server's.
    """
    servers = list(settings.ice_servers)
    if settings.turn_urls and settings.turn_secret:
        credential = turn_credential(settings.turn_secret, now)
        servers.append({"urls": list(settings.turn_urls), **credential})
    return servers


def turn_credential(secret: str, now: float) -> dict[str, str]:
    """A name and a password as coturn's `use-auth-secret` takes them (draft-uberti-behave-turn-rest-00).

    The name says until when it is good and, after the colon, whose it is: random here, for a TURN server need
    not know who asks, but may count by the name.
    """
    username = f"{int(now) + CREDENTIAL_SECONDS}:{secrets.token_hex(8)}"
    password = hmac.digest(secret.encode(), username.encode(), "sha1")
    return {"username": username, "credential": base64.b64encode(password).decode("ascii")}
