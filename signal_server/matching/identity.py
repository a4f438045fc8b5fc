"""Who a peer is, from plain values. Nothing here knows of a web framework, and nothing keeps an address."""

from __future__ import annotations

import ipaddress
from hashlib import blake2b
from typing import Any, NamedTuple

Hash = Any
"""A hash that was fed with some of its text already."""


class Caller(NamedTuple):
    """Keyed hashes that stand for a client, of 16 bytes, useless without the deployment's secret.

    Attributes:
        peer: who it is.
        bearer: who may present a nonce that it was given: its FINGERPRINT and its key, but not its address,
            because a phone that changes networks between two requests is the same peer still.
    """

    peer: bytes
    bearer: bytes


class Identity:
    """Names clients by hashes under one secret."""

    def __init__(self, secret: str) -> None:
        self._key = blake2b(secret.encode("utf-8"), digest_size=32, person=b"spacerift").digest()
        self._bearer = self._fed("bearer")
        self._addresses: dict[str, bytes] = {}

    def address(self, address: str) -> bytes:
        """The name of an address, as a socket or a proxy writes it."""
        known = self._addresses.get(address)
        if known is None:
            if len(self._addresses) >= 4096:
                self._addresses.clear()
            known = self._addresses[address] = self._fed("address", normal_address(address)).digest()
        return known

    def headers(self, *headers: str) -> Hash:
        """What `caller` needs of `User-Agent`, `Accept` and `Accept-Language`, for any number of calls."""
        return self._fed("peer", *headers)

    def caller(self, headers: Hash, address: bytes, fingerprint: str | None) -> Caller:
        """Name an open peer.

        Args:
            headers: from `headers`.
            address: from `address`.
            fingerprint: the FINGERPRINT parameter.
        """
        own = (fingerprint or "").encode("utf-8")
        peer = headers.copy()
        peer.update(address + own)
        bearer = self._bearer.copy()
        bearer.update(own)
        return Caller(peer.digest(), bearer.digest())

    def signed_caller(self, signer: str, fingerprint: str | None) -> Caller:
        """Name a signed peer: by its key's primary fingerprint, wherever it comes from."""
        own = fingerprint or ""
        peer, bearer = self._fed("signer", signer, own), self._fed("signed bearer", signer, own)
        return Caller(peer.digest(), bearer.digest())

    def leaver(self, fingerprint: str | None) -> bytes:
        """Who may end a request by its name: whoever has its FINGERPRINT, signed or not."""
        leaver = self._bearer.copy()
        leaver.update((fingerprint or "").encode("utf-8"))
        return bytes(leaver.digest())

    def request_name(self, name: str) -> str:
        """The name of a request, of which a shared store need not know the client's own text."""
        return str(self._fed("request", name).hexdigest())

    def _fed(self, *parts: str) -> Hash:
        # Lengths first, so that no two lists of parts run together into the same bytes.
        text = b""
        for part in parts:
            encoded = part.encode("utf-8", "surrogateescape")
            text += b"%d:%b" % (len(encoded), encoded)
        return blake2b(text, key=self._key, digest_size=16)


def normal_address(address: str) -> str:
    """One text for all addresses of one client.

    A port is cut off, an IPv4-mapped IPv6 address is the IPv4 one, and any other IPv6 address is its /64,
    which is the least that a provider hands out. What is no address is taken as it stands.
    """
    try:
        ip = ipaddress.ip_address(_without_port(address))
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ip.ipv4_mapped or ipaddress.IPv6Network((int(ip) >> 64 << 64, 64)))
    return str(ip)


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(_without_port(text))
    except ValueError:
        return False
    return True


def _without_port(address: str) -> str:
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address
