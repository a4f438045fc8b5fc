"""Who a peer is, from plain values. Nothing here knows of a web framework, and nothing keeps an address."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True, slots=True)
class Caller:
    """Keyed hashes that stand for a client, useless without the deployment's secret.

    Attributes:
        peer: who it is.
        bearer: who may present a nonce that it was given: its FINGERPRINT and its key, but not its address,
            for a phone that changes networks between two requests is the same peer still.
        address: where it is, for the limits.
    """

    peer: str
    bearer: str
    address: str


class Identity:
    """Names clients by hashes under one secret."""

    def __init__(self, secret: str) -> None:
        self._key = blake2b(secret.encode("utf-8"), digest_size=32, person=b"spacerift").digest()

    def address(self, address: str) -> str:
        return self._hash("address", normal_address(address))

    def caller(
        self,
        *,
        address: str,
        fingerprint: str | None,
        headers: tuple[str, ...],
        signer: str | None = None,
    ) -> Caller:
        """Name a client.

        Args:
            address: from `address`.
            fingerprint: the FINGERPRINT parameter.
            headers: `User-Agent`, `Accept` and `Accept-Language`.
            signer: the primary fingerprint of a signed peer's key. It is the peer, wherever it comes from.
        """
        own = fingerprint or ""
        if signer is None:
            peer = self._hash("peer", own, address, *headers)
            return Caller(peer, self._hash("bearer", own), address)
        return Caller(self._hash("signer", signer, own), self._hash("signed bearer", signer, own), address)

    def _hash(self, *parts: str) -> str:
        # Lengths first, so that no two lists of parts run together into the same bytes.
        text = "".join(f"{len(part)}:{part}" for part in parts)
        return blake2b(text.encode("utf-8", "surrogateescape"), key=self._key, digest_size=16).hexdigest()


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
