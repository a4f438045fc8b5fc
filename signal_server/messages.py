"""The words of the protocol: what a client may say, what it is told, and how both look on the wire.

    TYPE     needs              may have
    CONNECT  SIGNAL¹            NONCE (it is an answer), NAMESPACE¹, FINGERPRINT, REMATCH, REQUEST
    BOUNCE   SIGNAL¹, NONCE     NAMESPACE¹, FINGERPRINT, REMATCH, REQUEST
    LEAVE    REQUEST            FINGERPRINT

    status  TYPE               also carries
    200     DEMOTE             NONCE, ANSWER_WITHIN, SIGNAL²  answer this offer instead of offering your own
    200     ANSWER             SIGNAL²                        the answer to your offer
    200     DELIVERED                                         your answer was written to the other peer
    200     LEFT                                              to every LEAVE
    299     NO_PEER            RETRY_AFTER                    nobody came in time (default pool)
    298     NO_NAMESPACE_PEER  RETRY_AFTER                    the same, in a named namespace

¹ A signed peer sends SIGNED_NAMESPACE, SIGNED_SIGNAL and PUBLIC_KEY instead.
² In a signed pool: the other peer's three, as they came; and each 200 may carry a SIGNED_REPLY.

`errors` has the refusals. Parsing is strict: what is not exactly what we expect is a `BadRequest`.
"""

from __future__ import annotations

import json
import math
import re
from binascii import a2b_qp
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, Final, NamedTuple, NoReturn
from urllib.parse import unquote

from .errors import BadRequest, MissingParameter, UnsupportedMediaType

CONNECT: Final = "CONNECT"
BOUNCE: Final = "BOUNCE"
LEAVE: Final = "LEAVE"

DEMOTE: Final = "DEMOTE"
ANSWER: Final = "ANSWER"
DELIVERED: Final = "DELIVERED"
NO_PEER: Final = "NO_PEER"
LEFT: Final = "LEFT"

MAX_NAME_LENGTH: Final = 256
"""Characters of a NAMESPACE or FINGERPRINT."""

BYTE_ORDER_MARK: Final = "\ufeff"
"""Some software puts one before its text; RFC 8259, 8.1, lets a parser skip it."""

MAX_DEPTH: Final = 32
"""Nesting of a JSON body. Parameters are strings, so only ignored ones can nest at all."""

OPEN_PARAMETERS: Final = ("SIGNAL", "NAMESPACE")
SIGNED_PARAMETERS: Final = ("SIGNED_NAMESPACE", "SIGNED_SIGNAL", "PUBLIC_KEY")
PARAMETERS: Final = (
    "TYPE", "NONCE", "FINGERPRINT", "REMATCH", "REQUEST", *OPEN_PARAMETERS, *SIGNED_PARAMETERS
)  # fmt: skip

encode_text = json.encoder.encode_basestring_ascii
"""A text as a JSON string, in ASCII."""

_REQUEST_NAME: Final = re.compile(r"[A-Za-z0-9_-]{22,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Sealed:
    """The three parameters of a signed request, as they came and as the other peer gets them."""

    namespace: str
    signal: str
    public_key: str

    def payload(self) -> str:
        """What the other peer gets: members of a JSON object."""
        return (
            f'"SIGNED_NAMESPACE":{encode_text(self.namespace)},"SIGNED_SIGNAL":{encode_text(self.signal)},'
            f'"PUBLIC_KEY":{encode_text(self.public_key)}'
        )

    @classmethod
    def of_payload(cls, text: str) -> Sealed:
        fields = json.loads("{" + text + "}")
        return cls(*(fields[name] for name in SIGNED_PARAMETERS))


@dataclass(slots=True)
class Request:
    """A request as it came: `CONNECT` or `BOUNCE` with an offer or, for a `CONNECT` with `nonce`, an answer;
    or `LEAVE` with nothing but a `name`.

    Attributes:
        name: the REQUEST parameter, by which a `LEAVE` can end it.
        literal: SIGNAL as the JSON string that it came in, if it can be sent on as it is.
        sealed: what a signed request carries in place of `signal` and `namespace`, which are empty then.
    """

    type: str
    signal: str = ""
    nonce: str | None = None
    namespace: str | None = None
    fingerprint: str | None = None
    rematch: bool = False
    name: str | None = None
    literal: str = ""
    sealed: Sealed | None = None

    @property
    def is_answer(self) -> bool:
        """Is it a `CONNECT` with a `nonce`?"""
        return self.nonce is not None and self.type == CONNECT

    @property
    def asks(self) -> str:
        """What it asks for, as the log has it: `CONNECT`, `ANSWER`, `BOUNCE` or `LEAVE`; `signed-CONNECT`."""
        what = ANSWER if self.is_answer else self.type
        return what if self.sealed is None else f"signed-{what}"


@dataclass(slots=True)
class Admitted:
    """A signed request that was let in: what it says, and who said it.

    Attributes:
        pool: where it meets others, from `pool_of`.
        payload: what the other peer gets: members of a JSON object, in ASCII.
        digest: equal for a repeat of the same answer; empty if it is none.
        signer: the primary fingerprint of the key that signed it.
        once: names a signed text, which may come once.
        is_replay: it came before, so it is good as the repeat of an answer only.
    """

    request: Request
    pool: str
    payload: str
    digest: bytes
    signer: str
    once: str = ""
    is_replay: bool = False


def digest_of(signal: str) -> bytes:
    """Equal for equal signals."""
    return blake2b(signal.encode("utf-8"), digest_size=16).digest()


class Count(NamedTuple):
    """What the store is to count before an event, which is refused if that is one too many.

    Or where the event takes a place, if it has to wait.

    Attributes:
        limit: names it to the client.
        key: of the count. Empty: it may have been counted, and is not to be counted there once more.
        rate: as `counts.lua` reads it.
        full: if there is one, it is told the key, and for how many ms it is full.
    """

    limit: str
    key: bytes
    rate: bytes
    full: Callable[[bytes, int], object] | None = None


@dataclass(slots=True)
class Arrival:
    """A request as the store sees it.

    Attributes:
        ticket: names the open request; unique.
        pool: where it meets others, from `pool_of`.
        peer: who it is, 16 bytes; the same peer is never matched with itself.
        bearer: whoever presents a nonce must be the bearer it was given to.
        signal: the offer or the answer, opaque; as members of a JSON object, in ASCII.
        digest: equal for a repeat of the same answer.
        wait_ms: how long it may wait from now on.
        rematch: it may meet again a peer that it was linked with.
        name, leaver: the LEAVE of this name by this client ends it; empty if it has no name.
        counts: what is to be counted with its next event, if not before.
    """

    ticket: str
    pool: str
    peer: bytes
    bearer: bytes
    signal: str
    digest: bytes
    wait_ms: int
    rematch: bool = False
    name: str = ""
    leaver: bytes = b""
    counts: Sequence[Count] = ()


class Reply(NamedTuple):
    """How a request ends. `nonce` names the handover that a `DEMOTE` or an `ANSWER` belongs to."""

    type: str
    nonce: str = ""
    signal: str = ""


class Delivery(NamedTuple):
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


def render(reply: Reply, pool: str, *, answer_within: str, signed: str | None = None) -> tuple[str, bytes]:
    """The HTTP status line and the JSON body of a reply.

    Args:
        pool: of the request.
        answer_within: ANSWER_TIMEOUT in seconds, as JSON has it.
        signed: the SIGNED_REPLY.
    """
    more = "" if signed is None else ',"SIGNED_REPLY":' + encode_text(signed)
    if reply.type == DEMOTE:
        nonce, within = f'"NONCE":"{reply.nonce}"', f'"ANSWER_WITHIN":{answer_within}'
        text = f'{{"TYPE":"DEMOTE",{nonce},{within},{reply.signal}{more}}}'
    elif reply.type == ANSWER:
        text = f'{{"TYPE":"ANSWER",{reply.signal}{more}}}'
    elif reply.type != NO_PEER:
        text = f'{{"TYPE":"{reply.type}"{more}}}'
    elif is_named(pool):
        return "298 No Namespace Peer", b'{"TYPE":"NO_NAMESPACE_PEER","RETRY_AFTER":0}'
    else:
        return "299 No Peer", b'{"TYPE":"NO_PEER","RETRY_AFTER":0}'
    return "200 OK", text.encode("ascii")


# --- parsing -----------------------------------------------------------------------------------------------


def media_type(content_type: str) -> str:
    """How a body is written: `json` or `form`.

    Args:
        content_type: the header as it came, with its parameters.

    Raises:
        UnsupportedMediaType: neither JSON, nor plain text, nor a form, or not in UTF-8.
    """
    kind, _, options = content_type.partition(";")
    kind = kind.strip().lower()
    if options and not _says_utf8(options):
        raise UnsupportedMediaType("the character set must be UTF-8")
    if kind in ("application/json", "text/plain"):
        return "json"
    if kind == "application/x-www-form-urlencoded":
        return "form"
    raise UnsupportedMediaType("send JSON, plain text that is JSON, or a form")


def decode(body: bytes, *, is_json: bool) -> dict[str, Any]:
    """Read the parameters of a request.

    Args:
        body: after decompression.

    Raises:
        BadRequest: it is not JSON, or not a form.
    """
    text = _utf8(body)
    return json_object(text.removeprefix(BYTE_ORDER_MARK)) if is_json else _form(text)


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
    if kind not in ("", CONNECT, BOUNCE, LEAVE):
        raise BadRequest("TYPE must be CONNECT, BOUNCE or LEAVE")
    if values.get("REMATCH", "") not in ("", "1"):
        raise BadRequest("REMATCH must be 1")
    name = values.get("REQUEST", "")
    if name and not _REQUEST_NAME.fullmatch(name):
        raise BadRequest("REQUEST must be 22 to 64 characters of A-Z a-z 0-9 _ -")
    if kind == LEAVE:
        if not name:
            raise MissingParameter("REQUEST")
        return Request(LEAVE, fingerprint=values.get("FINGERPRINT") or None, name=name)
    is_sealed = any(map(values.get, SIGNED_PARAMETERS))
    if is_sealed and any(map(values.get, OPEN_PARAMETERS)):
        raise BadRequest("send either open or signed parameters, not both")
    is_sealed = signatures != "off" and (is_sealed or signatures == "required")
    needed = SIGNED_PARAMETERS if is_sealed else ("SIGNAL",)
    for each in ("TYPE", *needed, *(["NONCE"] if kind == BOUNCE else [])):
        if not values.get(each):
            raise MissingParameter(each)
    return Request(
        type=kind,
        signal="" if is_sealed else values["SIGNAL"],
        nonce=values.get("NONCE") or None,
        namespace=values.get("NAMESPACE") or None,
        fingerprint=values.get("FINGERPRINT") or None,
        rematch=bool(values.get("REMATCH")),
        name=name or None,
        sealed=Sealed(*(values[each] for each in SIGNED_PARAMETERS)) if is_sealed else None,
    )


def parse_ordinary(body: bytes) -> Request | None:
    """The request in an ordinary JSON body: an open one, and all strings in it ASCII. None: use `decode`.

    The same decoder says what is JSON; what is saved is the rest. The SIGNAL goes on in the very letters in
    which it came.
    """
    try:
        text = body.decode("ascii")
        values, end = _scan(text, 0)
        if end != len(text) or type(values) is not dict or not _ORDINARY.issuperset(values):
            return None
        if not "".join(values.values()).isascii():  # which takes strings only, and no loop of ours
            return None
    except (BadRequest, TypeError, ValueError, RecursionError, StopIteration):
        return None
    get = values.get
    kind, signal, namespace, fingerprint = get("TYPE"), get("SIGNAL"), get("NAMESPACE"), get("FINGERPRINT")
    nonce, name, rematch = get("NONCE"), get("REQUEST"), get("REMATCH")
    if (kind != CONNECT and (kind != BOUNCE or not nonce)) or not signal:
        return None
    if namespace and len(namespace) > MAX_NAME_LENGTH:
        return None
    if fingerprint and len(fingerprint) > MAX_NAME_LENGTH:
        return None
    if (name and not _REQUEST_NAME.fullmatch(name)) or (rematch and rematch != "1"):
        return None
    return Request(
        kind,
        signal,
        nonce or None,
        namespace or None,
        fingerprint or None,
        bool(rematch),
        name or None,
        _literal(text),
    )


_ORDINARY: Final = frozenset(("TYPE", "NONCE", "FINGERPRINT", "REMATCH", "REQUEST", *OPEN_PARAMETERS))


def _literal(text: str) -> str:
    """The SIGNAL's own letters, in a text that is a flat object of ASCII strings with known keys; or "".

    Within a string a quote has a backslash before it, so these letters can only be the key.
    """
    start = text.find('"SIGNAL":') + 9
    if text[start : start + 1] == " ":
        start += 1
    if start < 9 or text[start : start + 1] != '"':
        return ""
    end = text.find('"', start + 1) + 1
    if text[end - 2] == "\\":  # a quote within it, or a backslash at its end
        end = scanstring(text, start + 1)[1]
    return text[start:end]


def encode(fields: dict[str, object]) -> bytes:
    """A JSON object as it is sent."""
    return json.dumps(fields, separators=(",", ":")).encode("ascii")


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
        value, end = _scan(text, 0) if text[:1] == "{" else (None, -1)
        if end != len(text):
            value = _decoder.decode(text)  # which looks for blanks around it
    except RecursionError:
        raise BadRequest("nested too deep") from None
    except (ValueError, StopIteration):  # JSONDecodeError, and Python's bound on the digits of an integer
        raise BadRequest("the body is not JSON") from None
    if not isinstance(value, dict):
        raise BadRequest("the body is not a JSON object")
    # Both checks walk the whole value, so each is done only where the text can need it.
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise BadRequest("nested too deep")
    if "\\" in text and "\\u" in text:  # the second takes as long as all of the reading
        _refuse_surrogates(json.dumps(value, ensure_ascii=False))
    return value


def _form(text: str) -> dict[str, Any]:
    try:
        fields = [
            (_unquoted(name), _unquoted(value))
            for name, _, value in (each.partition("=") for each in text.split("&") if each)
        ]
    except UnicodeDecodeError:
        raise BadRequest("the form is not UTF-8") from None
    return _unique(fields)


def _unquoted(text: str) -> str:
    """`urllib.parse.unquote_plus`, in a tenth of its time.

    %41 is =41 to the decoder of quoted-printable, which is in C. Texts with what else means something to it
    are left to urllib: line breaks, a "=", and a % that does not lose two characters, since no two
    hexadecimal digits follow.
    """
    if "+" in text:
        text = text.replace("+", " ")
    escapes = text.count("%")
    if not escapes:
        return text
    if text.isascii() and not ("=" in text or "\n" in text or "\r" in text):
        data = a2b_qp(text.replace("%", "="))
        if len(data) == len(text) - 2 * escapes:
            return data.decode("utf-8")
    return unquote(text, errors="strict")


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
_scan: Final = _decoder.scan_once  # type: ignore[attr-defined]  # `decode` looks for blanks around it, too
