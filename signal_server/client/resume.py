"""How the two ends of a lost link find each other again, and know each other.

Both made the link with a DTLS certificate, and its SHA-256 stands in the signal of each. The two hashes name
a room that nobody else can name, and a peer that comes into it must have the same certificate as before.
"""

from __future__ import annotations

import re
from typing import Final

from .exchange import Exchange

ROOM_PREFIX: Final = "resume:"

_FINGERPRINT: Final = re.compile(r"(?i)a=fingerprint:sha-256 ((?:[0-9a-f]{2}:){31}[0-9a-f]{2})")


def dtls_fingerprint(signal: str) -> str | None:
    """The SHA-256 of the certificate that a signal (or a bare SDP) names: 64 hexadecimal digits, or None."""
    found = _FINGERPRINT.search(signal)
    return found[1].replace(":", "").lower() if found else None


class Former:
    """The link that was lost: where its two ends meet, and how each knows the other.

    Attributes:
        room: the namespace for it.

    Raises:
        ValueError: a signal names no SHA-256 of a certificate, so nobody could be recognised.
    """

    def __init__(self, lost: Exchange) -> None:
        signals = lost.offer, lost.answer
        offer, answer = (dtls_fingerprint(each) for each in signals)
        if offer is None or answer is None:
            raise ValueError("a signal without a sha-256 fingerprint: such a link cannot be resumed")
        self.room = ROOM_PREFIX + "".join(sorted((offer, answer)))
        self._ours, self._theirs = (offer, answer) if lost.role == "initiator" else (answer, offer)
        self._remote_key = lost.remote_key

    def check_own(self, signal: str) -> None:
        """Raise ValueError if the other end would not know us by this signal."""
        if dtls_fingerprint(signal) != self._ours:
            raise ValueError("a lost link is resumed with the certificate that it was made with, not another")

    def is_other(self, signal: str, key: str | None) -> bool:
        """Whether a signal, with its verified key, is of the peer at the other end."""
        return dtls_fingerprint(signal) == self._theirs and key == self._remote_key
