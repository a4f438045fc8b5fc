"""How the two ends of a lost link find each other again, and know each other.

Both made the link with a DTLS certificate, and its SHA-256 stands in the signal of each. The two hashes name
a room that nobody else can name, and a peer that comes into it must have the same certificate as before.
"""

from __future__ import annotations

import re
from typing import Final

from .exchange import Exchange, Only

ROOM_PREFIX: Final = "resume:"

_FINGERPRINT: Final = re.compile(r"(?i)a=fingerprint:sha-256 ((?:[0-9a-f]{2}:){31}[0-9a-f]{2})")


def dtls_fingerprint(signal: str) -> str | None:
    """The SHA-256 of the certificate that a signal (or a bare SDP) names: 64 hexadecimal digits, or None."""
    found = _FINGERPRINT.search(signal)
    return found[1].replace(":", "").lower() if found else None


def resume_room(lost: Exchange) -> str:
    """The namespace in which the two ends of a lost link meet.

    Raises:
        ValueError: a signal names no SHA-256 of a certificate, so nobody could be recognised.
    """
    fingerprints = [dtls_fingerprint(lost.offer), dtls_fingerprint(lost.answer)]
    if None in fingerprints:
        raise ValueError("a signal without a sha-256 fingerprint: such a link cannot be resumed")
    return ROOM_PREFIX + "".join(sorted(filter(None, fingerprints)))


def same_peer(lost: Exchange) -> Only:
    """Whether a signal, with its verified key, is of the peer at the other end of a lost link."""
    certificate = dtls_fingerprint(lost.remote_signal)

    def is_same(signal: str, key: str | None) -> bool:
        return dtls_fingerprint(signal) == certificate and key == lost.remote_key

    return is_same
