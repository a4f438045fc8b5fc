"""What the head of a request says, as far as the protocol needs it; the same for both drivers.

Clients of one kind send the same head over and over, so it is read once, and kept with the hash that names
them half-fed. What differs from request to request (lengths, a proxy's addresses and ids) is no part of it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ..errors import UnsupportedMediaType
from ..matching.identity import Hash, Identity
from ..messages import media_type
from ..settings import Settings

Header = tuple[str, str]

NAMES: Final = (
    "User-Agent",
    "Accept",
    "Accept-Language",
    "Content-Type",
    "Content-Encoding",
    "Accept-Encoding",
    "Origin",
    "X-Envoy-Expected-Rq-Timeout-Ms",
)
"""The headers that `Heads.read` takes, in its order."""

EXPOSED: Final = ("Access-Control-Expose-Headers", "Retry-After")

MOST_KEPT: Final = 1024


class Head(NamedTuple):
    """The head of a request.

    Attributes:
        peer: what names the client, but for its address and fingerprint; see `Identity.headers`.
        is_json: its body is a JSON text and not a form.
        is_gzip: its body is compressed.
        accepts_gzip: the reply may be.
        cors: the headers that let a page of a listed origin read the reply.
        is_refused: the page's origin is not listed.
        hold_seconds: how long the request may be held, if a proxy before us says how long it waits.
        unsupported: why its body cannot be read, or "".
    """

    peer: Hash
    is_json: bool
    is_gzip: bool
    accepts_gzip: bool
    cors: tuple[Header, ...]
    is_refused: bool
    hold_seconds: float | None
    unsupported: str


class Origins:
    """The origins whose pages may ask: the setting CORS_ORIGINS."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        self._any = "*" in allowed
        self._listed = {each for each in allowed if "*" not in each}
        self._below = tuple(tuple(each.split("*", 1)) for each in allowed if "://*." in each)

    def allows(self, origin: str) -> bool:
        """Is a page of this origin, which is not empty, allowed to ask?"""
        if self._any or origin in self._listed:
            return True
        return any(
            origin.startswith(scheme) and origin.endswith(domain) and len(origin) > len(scheme) + len(domain)
            for scheme, domain in self._below
        )

    def headers(self, origin: str) -> tuple[Header, ...]:
        """What lets a page of this origin, or "", read a reply."""
        if self._any:
            return (("Access-Control-Allow-Origin", "*"), EXPOSED)
        if origin and self.allows(origin):
            return (("Access-Control-Allow-Origin", origin), EXPOSED, ("Vary", "Origin"))
        return (("Vary", "Origin"),)


class Heads:
    """Reads heads, and keeps those that it has read."""

    def __init__(self, settings: Settings, identity: Identity) -> None:
        self.origins = Origins(settings.cors_origins)
        self._identity = identity
        self._kept: dict[tuple[str, ...], Head] = {}

    def read(self, values: tuple[str, ...]) -> Head:
        """Read a head.

        Args:
            values: of the headers `NAMES`, "" for those that are not there.
        """
        head = self._kept.get(values)
        if head is None:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            head = self._kept[values] = self._read(*values)
        return head

    def _read(
        self,
        agent: str,
        accept: str,
        language: str,
        content_type: str,
        coding: str,
        accepts: str,
        origin: str,
        expected: str,
    ) -> Head:
        coding = coding.strip().lower()
        is_json, unsupported = False, ""
        try:
            if coding not in ("", "identity", "gzip", "x-gzip"):
                raise UnsupportedMediaType("a body may be gzip, and nothing else")
            is_json = media_type(content_type) == "json"
        except UnsupportedMediaType as error:
            unsupported = error.detail
        return Head(
            peer=self._identity.headers(agent, accept, language),
            is_json=is_json,
            is_gzip=coding.endswith("gzip"),
            accepts_gzip=_accepts_gzip(accepts),
            cors=self.origins.headers(origin),
            is_refused=bool(origin) and not self.origins.allows(origin),
            hold_seconds=_hold_seconds(expected),
            unsupported=unsupported,
        )


def _accepts_gzip(accepted: str) -> bool:
    weights = {}
    for each in accepted.lower().split(","):
        coding, _, weight = each.partition(";")
        weights[coding.strip()] = weight.replace(" ", "").rstrip("0")
    # `*` stands for the codings that are not named.
    weight = next((weights[each] for each in ("gzip", "x-gzip", "*") if each in weights), "q=0.")
    return weight not in ("q=", "q=0.")


def _hold_seconds(expected: str) -> float | None:
    """A second less than Envoy waits, so that our 299 comes before its 504; a second at the least."""
    if not (expected.isascii() and expected.isdigit() and len(expected) < 10) or int(expected) == 0:
        return None  # Envoy leaves the header out, or says 0, where it has no time-out
    return max(1.0, int(expected) / 1000 - 1)
