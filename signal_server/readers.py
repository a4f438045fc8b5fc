"""Reads the value of each setting from its text; what is wrong with it is a ValueError of a few words."""

from __future__ import annotations

import ipaddress
import json
import math
import re
from collections.abc import Callable
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, urlsplit

from limits import RateLimitItem, parse_many

T = TypeVar("T")
Reader = Callable[[str], Any]

MAX_SECONDS: Final = 1e9
"""Redis could not count much longer times in ms."""

LONGEST_USERNAME: Final = 509
"""Bytes of a TURN username; browsers take no longer one."""

DEFAULT_PORTS: Final = {"http": 80, "https": 443}

OPAQUE: Final = ("about", "blob", "data", "javascript", "ws", "wss")
"""Schemes of addresses whose pages have another origin, or `null`."""

_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*")
_NAME: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?", re.IGNORECASE)
_LAST_IS_NUMBER: Final = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)\.?")

_PATH: Final = re.compile(r"(/[\w.~!$*+,;=:@-]+)+", re.ASCII)

_ICE_URL: Final = re.compile(
    r"(?P<scheme>stuns?|turns?):(?P<host>\[[^\]]*\]|[^:\[\]?]+)(:(?P<port>[0-9]+))?(\?(?P<query>.*))?",
    re.IGNORECASE | re.ASCII,
)

REDIS_SCHEMES: Final = ("redis", "rediss", "redis+cluster", "rediss+cluster", "unix")


# --- numbers, rates, words ---------------------------------------------------------------------------------


def seconds(text: str) -> float:
    value = _number(text)
    if value <= 0:
        raise ValueError("must be more than 0 seconds")
    return value


def seconds_or_none(text: str) -> float:
    value = _number(text)
    if value < 0:
        raise ValueError("must be 0 seconds or more")
    return value


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError("must be a number of seconds") from None
    if not math.isfinite(value):
        raise ValueError("must be a finite number of seconds")
    if value > MAX_SECONDS:
        raise ValueError("must be less than 31 years, in seconds")
    return value


def count(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and int(text) >= least):
            raise ValueError(f"must be a whole number, {least} or more")
        return int(text)

    return read


def rate(text: str) -> RateLimitItem:
    try:
        (item,) = parse_many(text)
    except ValueError:
        raise ValueError("must be one rate such as '1 per 5 seconds'") from None
    if item.amount < 1 or re.search(r"(?<!\d)0+(?!\d)", text):  # limits takes "per 0 seconds" for one
        raise ValueError("must allow at least 1 in at least a second")
    return item


def or_off(read: Callable[[str], T]) -> Callable[[str], T | None]:
    """An empty limit turns it off."""

    def read_or_off(text: str) -> T | None:
        return read(text) if text.strip() else None

    return read_or_off


def word(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    return text


def choice(*choices: str) -> Reader:
    def read(text: str) -> str:
        if text not in choices:
            raise ValueError("must be one of " + ", ".join(choices))
        return text

    return read


def prefix(text: str) -> str:
    if not is_path(text):
        raise ValueError("must be a path such as '/rift'")
    return text


def is_path(text: str) -> bool:
    """Can it stand before the routes of a server? It begins with a slash, and does not end with one."""
    return bool(_PATH.fullmatch(text)) and not {".", ".."} & {*text.split("/")}


def _shown(text: str) -> str:
    """For the one line that says what is wrong with it. An address with a password is not repeated."""
    if "@" in text:
        return "an address with '@'"
    return ascii(text if len(text) <= 100 else f"{text[:100]}…")


# --- origins -----------------------------------------------------------------------------------------------


def origins(text: str) -> tuple[str, ...]:
    """Origins by commas, each as a browser sends it; `*`, `null` and `https://*.example.com` stay."""
    return tuple(dict.fromkeys(_origin(each.strip()) for each in text.split(",")))


def _origin(text: str) -> str:
    if text in ("*", "null", "file://"):
        return text
    shown = _shown(text)
    scheme, found, rest = text.lower().partition("://")
    if not found or not _SCHEME.fullmatch(scheme):
        raise ValueError(
            f"must be '*' or a list of origins such as 'https://example.com', by commas, not {shown}"
        )
    if scheme in OPAQUE:
        raise ValueError(f"has {shown}, but no page has an origin of that scheme")
    rest = rest.removesuffix("/")
    for mark in "/?#":
        if mark in rest:
            raise ValueError(
                f"has {shown}, but an origin ends before the path: '{scheme}://{rest.split(mark)[0]}'"
            )
    if "@" in rest:
        raise ValueError(f"has {shown}, but an origin has no user and no password")
    any_subdomain = rest.startswith("*.")
    host, port = _split_port(rest.removeprefix("*."), shown)
    if "*" in host:
        raise ValueError(f"has {shown}, but '*' may only stand for subdomains: 'https://*.example.com'")
    if not host.isascii():
        raise ValueError(f"has {shown}, but a browser sends {_punycode(host)}")
    host = _host(host, shown)
    if any_subdomain and (host.startswith("[") or _LAST_IS_NUMBER.fullmatch(host)):
        raise ValueError(f"has {shown}, but an address has no subdomains")
    shown_port = "" if port in (None, DEFAULT_PORTS.get(scheme)) else f":{port}"
    return f"{scheme}://{'*.' * any_subdomain}{host}{shown_port}"


def _split_port(text: str, shown: str) -> tuple[str, int | None]:
    found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::([0-9]*))?", text, re.ASCII)
    if not found:
        raise ValueError(f"has {shown}, which has no host and port that a browser would send")
    if not found[2]:
        return found[1], None
    port = int(found[2])
    if not 0 < port < 65536:
        raise ValueError(f"has {shown}, whose port is not from 1 to 65535")
    return found[1], port


def _host(host: str, shown: str) -> str:
    """As a browser writes it."""
    if host.startswith("["):
        try:
            return f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            raise ValueError(f"has {shown}, which has no IPv6 address in its brackets") from None
    if not _NAME.fullmatch(host):
        raise ValueError(f"has {shown}, which has no name of a host")
    if _LAST_IS_NUMBER.fullmatch(host):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise ValueError(f"has {shown}, which has no IPv4 address of four numbers") from None
    return host


def _punycode(host: str) -> str:
    try:
        return f"the name as {host.encode('idna').decode()!r}"
    except UnicodeError:
        return "names in ASCII only"


# --- ICE servers -------------------------------------------------------------------------------------------


def ice_servers(text: str) -> tuple[dict[str, Any], ...]:
    """A JSON list of RTCIceServer objects that every browser's `new RTCPeerConnection` takes."""
    try:
        servers = json.loads(text)
    except ValueError:
        raise ValueError("must be a JSON list of ICE servers") from None
    if not isinstance(servers, list) or not all(isinstance(each, dict) for each in servers):
        raise ValueError("must be a JSON list of objects with 'urls'")
    for each in servers:
        urls = each.get("urls")
        listed = [urls] if isinstance(urls, str) else urls
        if not (isinstance(listed, list) and listed and all(isinstance(url, str) for url in listed)):
            raise ValueError("must be a JSON list of objects with 'urls', a text or a list of texts")
        schemes = {ice_url(url) for url in listed}
        if schemes & {"turn", "turns"}:
            _check_credential(each)
    return tuple(servers)


def _check_credential(server: dict[str, Any]) -> None:
    for name in ("username", "credential"):
        value = server.get(name)
        if not (isinstance(value, str) and value):
            raise ValueError(f"has a TURN server without a '{name}', which must be a text")
    if len(server["username"].encode()) > LONGEST_USERNAME:
        raise ValueError(f"has a TURN server with a 'username' of more than {LONGEST_USERNAME} bytes")


def turn_urls(text: str) -> tuple[str, ...]:
    urls = tuple(each.strip() for each in text.split(","))
    if not all(ice_url(each) in ("turn", "turns") for each in urls):
        raise ValueError("must be a list of 'turn:' or 'turns:' addresses, by commas")
    return urls


def ice_url(url: str) -> str:
    """The scheme of a STUN or TURN server's address, as RFC 7064 and RFC 7065 write it.

    Raises:
        ValueError: a browser would not take it.
    """
    shown = _shown(url)
    found = _ICE_URL.fullmatch(url)
    if not found or found["host"].startswith("//"):
        raise ValueError(f"has {shown}, which is no address such as 'stun:host:3478', without '//'")
    scheme, host, port, query = found["scheme"].lower(), found["host"], found["port"], found["query"]
    if port is not None and not 0 < int(port) < 65536:
        raise ValueError(f"has {shown}, whose port is not from 1 to 65535")
    if host.startswith("["):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            raise ValueError(f"has {shown}, which has no IPv6 address in its brackets") from None
    elif not _NAME.fullmatch(host):
        raise ValueError(f"has {shown}, which has no name of a host")
    if query is None:
        return scheme
    if scheme.startswith("stun"):
        raise ValueError(f"has {shown}, but only 'turn:' and 'turns:' have a '?transport='")
    if not re.fullmatch(r"transport=(udp|tcp)", query):
        raise ValueError(f"has {shown}, where only '?transport=udp' or '?transport=tcp' may follow")
    return scheme


# --- Redis -------------------------------------------------------------------------------------------------


def redis_url(text: str) -> str | None:
    """The address of a Redis. Never shown, since it may hold a password; what is empty is not set.

    The driver takes an address that is not quite one, and would go to another database than was meant.
    """
    text = text.strip()
    if not text:
        return None
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("must be such as 'redis://host:6379/0'") from None
    if parts.scheme not in REDIS_SCHEMES or "://" not in text or port == 0:
        raise ValueError("must be such as 'redis://host:6379/0'")
    if parts.scheme == "unix":
        if len(parts.path) < 2:
            raise ValueError("must have a path, such as 'unix:///run/redis/redis.sock'")
    elif not re.fullmatch(r"/?|/[0-9]+", parts.path, re.ASCII):
        raise ValueError("has a path that is no number of a database, such as '/0'")
    elif parts.scheme.endswith("+cluster") and parts.path not in ("", "/", "/0"):
        raise ValueError("is of a cluster, which has no database but 0")
    if {"decode_responses", "encoding", "encoding_errors"} & parse_qs(parts.query).keys():
        raise ValueError("must not say how replies are decoded: nothing here is")
    return text
