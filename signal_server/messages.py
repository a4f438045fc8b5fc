"""The words of the protocol: what a client may say, what it is told, and how both look on the wire.

    status  TYPE               also carries
    200     DEMOTE             NONCE, SIGNAL¹     answer this offer instead of offering your own
    200     ANSWER             SIGNAL¹            the answer to your offer
    200     DELIVERED                             your answer was written to the other peer
    299     NO_PEER            RETRY_AFTER        nobody came in time (default pool)
    298     NO_NAMESPACE_PEER  RETRY_AFTER        the same, in a named namespace

¹ In a signed pool: the other peer's SIGNED_NAMESPACE, SIGNED_SIGNAL and PUBLIC_KEY, as they came; and each
200 may carry a SIGNED_REPLY.

`errors` has the refusals. Parsing is strict: what is not exactly what we expect is a `BadRequest`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, NoReturn
from urllib.parse import parse_qsl

from .errors import BadRequest, MissingParameter, UnsupportedMediaType

CONNECT: Final = "CONNECT"
BOUNCE: Final = "BOUNCE"

DEMOTE: Final = "DEMOTE"
ANSWER: Final = "ANSWER"
DELIVERED: Final = "DELIVERED"
NO_PEER: Final = "NO_PEER"

MAX_NAME_LENGTH: Final = 256
"""Characters of a NAMESPACE or FINGERPRINT."""

MAX_DEPTH: Final = 32
"""Nesting of a JSON body. Parameters are strings, so only ignored ones can nest at all."""

OPEN_PARAMETERS: Final = ("SIGNAL", "NAMESPACE")
SIGNED_PARAMETERS: Final = ("SIGNED_NAMESPACE", "SIGNED_SIGNAL", "PUBLIC_KEY")
PARAMETERS: Final = ("TYPE", "NONCE", "FINGERPRINT", *OPEN_PARAMETERS, *SIGNED_PARAMETERS)


@dataclass(frozen=True, slots=True)
class Sealed:
    """The three parameters of a signed request, as they came and as the other peer gets them."""

    namespace: str
    signal: str
    public_key: str

    def pack(self) -> str:
        """One text for the stores, to which a signal is opaque."""
        return json.dumps([self.namespace, self.signal, self.public_key])

    @classmethod
    def unpack(cls, text: str) -> Sealed:
        return cls(*json.loads(text))

    def fields(self) -> dict[str, str]:
        return dict(zip(SIGNED_PARAMETERS, (self.namespace, self.signal, self.public_key), strict=True))


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks: `CONNECT` or `BOUNCE`, with an offer or, for a `CONNECT` with `nonce`, an answer.

    Attributes:
        sealed: what a signed request carries in place of `signal` and `namespace`. These are empty until
            `signatures` has read them there.
        signer: the primary fingerprint of the key that signed it, None for an open request.
        once: names a signed text, which may come once.
        is_replay: it came before, so it is good as the repeat of an answer only.
    """

    type: str
    signal: str
    nonce: str | None = None
    namespace: str | None = None
    fingerprint: str | None = None
    sealed: Sealed | None = None
    signer: str | None = None
    once: str = ""
    is_replay: bool = False

    @property
    def payload(self) -> str:
        """What the other peer gets, in one text."""
        return self.signal if self.sealed is None else self.sealed.pack()

    @property
    def pool(self) -> str:
        return pool_of(self.namespace, signed=self.signer is not None)

    @property
    def is_answer(self) -> bool:
        return self.type == CONNECT and self.nonce is not None

    @property
    def digest(self) -> str:
        """Equal for a repeat of the same answer."""
        return blake2b(self.signal.encode("utf-8"), digest_size=16).hexdigest() if self.nonce else ""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request as the store sees it.

    Attributes:
        ticket: names the open request; unique.
        pool: where it meets others, from `pool_of`.
        peer: who it is; the same peer is never matched with itself.
        bearer: whoever presents a nonce must be the bearer it was given to.
        signal: the offer or the answer, opaque.
        digest: equal for a repeat of the same answer.
        waited_ms: how long ago the request came in; its body took that long.
    """

    ticket: str
    pool: str
    peer: str
    bearer: str
    signal: str
    digest: str
    waited_ms: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """How a request ends. `nonce` names the handover that a `DEMOTE` or an `ANSWER` belongs to."""

    type: str
    nonce: str = ""
    signal: str = ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A decision of the store: this open request ends with this reply."""

    ticket: str
    reply: Reply


def pool_of(namespace: str | None, *, signed: bool = False) -> str:
    """The pool's name. Signed and open peers never meet, even in a namespace of the same name."""
    return ("signed:" if signed else "open:") + (namespace or "")


def is_named(pool: str) -> bool:
    return pool not in ("open:", "signed:")


def is_signed(pool: str) -> bool:
    return pool.startswith("signed:")


def render(reply: Reply, pool: str, signed: str | None = None) -> tuple[str, dict[str, object]]:
    """The HTTP status line and the JSON body of a reply, to a request of `pool`, with its SIGNED_REPLY."""
    if reply.type == NO_PEER:
        if is_named(pool):
            return "298 No Namespace Peer", {"TYPE": "NO_NAMESPACE_PEER", "RETRY_AFTER": 0}
        return "299 No Peer", {"TYPE": NO_PEER, "RETRY_AFTER": 0}
    body: dict[str, object] = {"TYPE": reply.type}
    if reply.type == DEMOTE:
        body["NONCE"] = reply.nonce
    if reply.type != DELIVERED:
        body |= Sealed.unpack(reply.signal).fields() if is_signed(pool) else {"SIGNAL": reply.signal}
    if signed is not None:
        body["SIGNED_REPLY"] = signed
    return "200 OK", body


# --- parsing -----------------------------------------------------------------------------------------------


def decode(content_type: str, body: bytes) -> dict[str, Any]:
    """Read the parameters of a request.

    Args:
        content_type: the header as it came, with its parameters.
        body: after decompression.

    Raises:
        UnsupportedMediaType: neither JSON, nor plain text, nor a form, or not in UTF-8.
        BadRequest: not what the content type says.
    """
    media_type, _, options = content_type.partition(";")
    media_type = media_type.strip().lower()
    if options and not _says_utf8(options):
        raise UnsupportedMediaType("the character set must be UTF-8")
    if media_type in ("application/json", "text/plain"):
        return json_object(_utf8(body))
    if media_type == "application/x-www-form-urlencoded":
        return _form(_utf8(body))
    raise UnsupportedMediaType("send JSON, plain text that is JSON, or a form")


def parse(parameters: Mapping[str, Any], *, signatures: str = "off") -> Request:
    """Check the parameters and make a request of them.

    Args:
        parameters: from `decode`.
        signatures: the setting: whether a request may be signed, or must be.

    Raises:
        BadRequest: a parameter of the wrong type, too long, or an unknown `TYPE`.
        MissingParameter: the first that is missing, by name. Only if nothing is bad.
    """
    values = {name: _text(name, parameters[name]) for name in PARAMETERS if name in parameters}
    for name in ("NAMESPACE", "FINGERPRINT"):
        if len(values.get(name, "")) > MAX_NAME_LENGTH:
            raise BadRequest(f"{name} is longer than {MAX_NAME_LENGTH} characters")
    kind = values.get("TYPE", "")
    if kind not in ("", CONNECT, BOUNCE):
        raise BadRequest("TYPE must be CONNECT or BOUNCE")
    is_sealed = any(map(values.get, SIGNED_PARAMETERS))
    if is_sealed and any(map(values.get, OPEN_PARAMETERS)):
        raise BadRequest("send either open or signed parameters, not both")
    is_sealed = signatures != "off" and (is_sealed or signatures == "required")
    needed = SIGNED_PARAMETERS if is_sealed else ("SIGNAL",)
    for name in ("TYPE", *needed, *(["NONCE"] if kind == BOUNCE else [])):
        if not values.get(name):
            raise MissingParameter(name)
    return Request(
        type=kind,
        signal="" if is_sealed else values["SIGNAL"],
        nonce=values.get("NONCE") or None,
        namespace=values.get("NAMESPACE") or None,
        fingerprint=values.get("FINGERPRINT") or None,
        sealed=Sealed(*(values[name] for name in SIGNED_PARAMETERS)) if is_sealed else None,
    )


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise BadRequest(f"{name} must be a string")
    return value


def _says_utf8(options: str) -> bool:
    for option in options.split(";"):
        name, _, value = option.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip('"').lower() in ("utf-8", "utf8", "us-ascii")
    return True


def _utf8(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest("the body is not UTF-8") from None


def json_object(text: str) -> dict[str, Any]:
    """Read a JSON object, and nothing that is only almost one.

    Raises:
        BadRequest: it is none.
    """
    try:
        value = _decoder.decode(text)
    except RecursionError:
        raise BadRequest("nested too deep") from None
    except ValueError:  # JSONDecodeError, and Python's bound on the digits of an integer
        raise BadRequest("the body is not JSON") from None
    if not isinstance(value, dict):
        raise BadRequest("the body is not a JSON object")
    # Both checks walk the whole value, so each is done only where the text can need it.
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise BadRequest("nested too deep")
    if "\\u" in text:
        _refuse_surrogates(json.dumps(value, ensure_ascii=False))
    return value


def _form(text: str) -> dict[str, Any]:
    try:
        fields = parse_qsl(text, keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        raise BadRequest("the form is not UTF-8") from None
    return _unique(fields)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise BadRequest("a parameter stands twice")
    return values


def _no_constant(_: str) -> NoReturn:
    raise BadRequest("NaN and Infinity are not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise BadRequest("a number is too large")
    return number


def _depth(value: object) -> int:
    # Level by level and not by recursion: the value is the client's.
    level, depth = [value], 0
    while level:
        depth += 1
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
    return depth - 1


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRequest("a lone surrogate is not UTF-8") from None


_decoder: Final = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
)
