"""Where a URL points to, and the HTTP proxy that the environment names for the way there."""

from __future__ import annotations

import base64
import ipaddress
import ssl
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy, from `HTTP_PROXY`, `HTTPS_PROXY` or `ALL_PROXY`.

    Attributes:
        headers: what it wants to know of us, beside the request.
    """

    host: str
    port: int
    headers: dict[str, str]


class Target:
    """Where a URL points to.

    Attributes:
        tls: the context for `https:`, or None.
        authority: for the `Host` header.
        proxy: asked instead of the host: for `https:` to `CONNECT` to it, for `http:` to pass the request on.
        request_target: what stands in the first line of a request.
        headers: what the proxy wants to find in a request that it passes on.

    Raises:
        ValueError: the URL, or the proxy's, cannot be used.
    """

    def __init__(self, url: str, tls: ssl.SSLContext | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
            raise ValueError("the URL must begin with http:// or https:// and name a host")
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("the URL must be plain ASCII: write anything else as %-escapes and punycode")
        self.url = url
        self.host = parts.hostname
        self.port = parts.port or DEFAULT_PORTS[parts.scheme]
        self.tls = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
        self.authority = parts.netloc.rpartition("@")[2]
        self.proxy = proxy_for(parts)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        passed_on = self.proxy is not None and self.tls is None
        self.request_target = f"http://{self.authority}{path}" if passed_on else path
        self.headers = self.proxy.headers if self.proxy and passed_on else {}


def proxy_for(url: SplitResult) -> Proxy | None:
    """The proxy on the way to this URL, as the environment variables of that name say, or None.

    Raises:
        ValueError: the variable names no HTTP proxy.
    """
    named = getproxies()
    address = named.get(url.scheme) or named.get("all")
    if not address or is_excepted(url.hostname or "", url.port, named.get("no", "")):
        return None
    parts = urlsplit(address if "://" in address else f"http://{address}")
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(
            f"{url.scheme.upper()}_PROXY must be http://host:port, the only kind of proxy known here"
        )
    headers = {}
    if parts.username is not None:
        secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
    return Proxy(parts.hostname, parts.port or DEFAULT_PORTS["http"], headers)


def is_excepted(host: str, port: int | None, no_proxy: str) -> bool:
    """Whether `NO_PROXY` names this host: itself, with its port, a domain above it, or its network (CIDR)."""
    if proxy_bypass(f"{host}:{port}" if port and ":" not in host else host):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(address in network for network in _networks(no_proxy))


def _networks(no_proxy: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    found = []
    for each in no_proxy.split(","):
        try:
            found.append(ipaddress.ip_network(each.strip().strip("[]"), strict=False))
        except ValueError:
            continue  # a name
    return found
