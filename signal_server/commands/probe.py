"""`doctor --url`: what stands before a running server, and whether it passes on what the server must know.

Every probe plays peers in a namespace of its own, which nobody else can meet.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Final
from urllib.parse import urlsplit

from .doctor import FAULT, OK, WARNING, Finding
from .http2 import Http2

QUICK_SECONDS: Final = 10.0
"""What a reply may take that the server gives at once."""

LONGEST_SECONDS: Final = 70.0
"""What a reply may take that the server gives after REQUEST_TIMEOUT."""

GONE_SECONDS: Final = 1.0
"""So long after a client hung up its offer must be out of the pool."""

LARGE_BYTES: Final = 200_000
"""More than MAX_BODY is by default, and more than docs/examples/nginx.conf lets through."""

CLAIMED: Final = ("203.0.113.7", "203.0.113.8")
"""Addresses that are nobody's (RFC 5737)."""

AGENT: Final = "spacerift-doctor"

SEE: Final = "see docs/proxies.md"


class Failed(Exception):
    """Why something could not be probed."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A response.

    Attributes:
        body: the JSON object of the server's, or empty if it is no such object.
    """

    status: int = 0
    reason: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)

    @property
    def type(self) -> str:
        return str(self.body.get("TYPE", ""))

    def __str__(self) -> str:
        sender = self.headers.get("server")
        words = f"{self.status or ''} {self.type or 'without JSON'}".strip()
        return f"{words}, by {sender}" if sender and not self.type else words


class Way:
    """The way to a running server.

    Args:
        url: where it is mounted, with a slash at its end.
        operator_pass: makes what lets us see how the server sees us, or None without a secret.
    """

    def __init__(self, url: str, operator_pass: Callable[[], str] | None) -> None:
        parts = urlsplit(url)
        self._host, self._path = parts.hostname or "", parts.path or "/"
        self._is_tls = parts.scheme == "https"
        self._port = parts.port or (443 if self._is_tls else 80)
        self._authority = parts.netloc.rpartition("@")[2]
        self._origin = f"{parts.scheme}://{self._authority}"
        self._pass = operator_pass
        self._seconds = GONE_SECONDS

    def findings(self) -> Iterator[Finding]:
        """Probe everything at once; it takes as long as the server holds a request."""
        started = time.monotonic()
        self._get("health")
        self._seconds = GONE_SECONDS + time.monotonic() - started
        probes: list[tuple[str, Callable[[], Finding]]] = [
            ("pairing", self._pairing),
            ("hang-ups", self._hang_ups),
            ("long requests", self._long_requests),
            ("addresses", self._addresses),
            ("large bodies", self._large_bodies),
            ("refusals", self._refusals),
        ]
        if self._is_tls:
            probes.insert(2, ("hang-ups, HTTP/2", self._hang_ups_of_http2))
        with ThreadPoolExecutor(len(probes)) as pool:
            yield from pool.map(lambda each: _finding(*each), probes)

    # --- the probes ----------------------------------------------------------------------------------------

    def _pairing(self) -> Finding:
        for is_zipped in (False, True):
            namespace, answer = _namespace(), "a" * 3000  # long enough to be compressed
            with self._post(_offer(namespace), is_zipped=is_zipped) as waiting:
                peer, demoted = self._second(namespace, is_zipped=is_zipped)
                told = self._ask(
                    peer | {"SIGNAL": answer, "NONCE": demoted.body["NONCE"]}, is_zipped=is_zipped
                )
                answered = _reply(waiting, QUICK_SECONDS)
            if told.type != "DELIVERED" or answered.body.get("SIGNAL") != answer:
                how = "compressed " if is_zipped else ""
                words = f"two {how}requests do not link: the answer gets {told}, the offer {answered}"
                return Finding("pairing", FAULT, words)
        return Finding("pairing", OK, "two requests link, compressed ones too")

    def _hang_ups(self) -> Finding:
        namespace = _namespace()
        with self._post(_offer(namespace)) as waiting:
            time.sleep(self._seconds)
            _leave(waiting.sock)
        return self._left("hang-ups", namespace, "a client that closes its connection")

    def _hang_ups_of_http2(self) -> Finding:
        about = "hang-ups, HTTP/2"
        with self._open(alpn=["h2"]) as connection:
            if connection.selected_alpn_protocol() != "h2":
                return Finding(about, OK, "not offered here: browsers use HTTP/1.1")
            namespace = _namespace()
            self._post_by(Http2(connection), _offer(namespace))
            self._second(namespace)  # so requests by HTTP/2 are met
        ways: list[tuple[str, Callable[[Http2, socket.socket], None]]] = [
            ("a tab that is closed, by HTTP/2,", lambda http2, _: http2.cancel()),
            ("a client that closes its connection of HTTP/2", lambda _, connection: _leave(connection)),
        ]
        for who, leave in ways:
            namespace = _namespace()
            with self._open(alpn=["h2"]) as connection:
                http2 = Http2(connection)
                self._post_by(http2, _offer(namespace))
                time.sleep(self._seconds)
                leave(http2, connection)
                finding = self._left(about, namespace, who)
            if finding.state != OK:
                return finding
        return Finding(about, OK, "a tab that is closed, and a connection, leave the pool at once")

    def _left(self, about: str, namespace: str, who: str) -> Finding:
        """Is the pool empty? Then the next peer is held."""
        time.sleep(self._seconds)
        with self._post(_offer(namespace)) as newcomer:
            try:
                told = _reply(newcomer, self._seconds)
            except TimeoutError:
                _leave(newcomer.sock)
                return Finding(about, OK, f"{who} leaves the pool at once")
        if told.type != "DEMOTE":
            raise Failed(f"a newcomer got {told}")
        words = (
            f"{who} stays in the pool, so DELIVERED is said for peers that have left: what stands before the "
            f"server does not pass hang-ups on. HAProxy: `option abortonclose` in `defaults`; others: {SEE}"
        )
        return Finding(about, FAULT, words)

    def _long_requests(self) -> Finding:
        started = time.monotonic()
        with self._post(_offer(_namespace())) as waiting:
            try:
                told = _reply(waiting, LONGEST_SECONDS)
            except (OSError, HTTPException):
                told = Reply()
        seconds = f"{time.monotonic() - started:.1f} s"
        if told.type == "NO_NAMESPACE_PEER" and told.status == 298:
            return Finding(
                "long requests", OK, f"one that nobody answers ends after {seconds} with 298 and JSON"
            )
        what = f"gets {told}" if told.status else "is cut off"
        words = (
            f"one that waits {what} after {seconds}: let the proxy wait longer than REQUEST_TIMEOUT. "
            f"Envoy: `timeout: 30s` of the route; others: {SEE}"
        )
        return Finding("long requests", FAULT, words)

    def _addresses(self) -> Finding:
        if self._pass is None:
            words = "not probed: set SPACERIFT_SECRET_KEY as the server has it, and it tells whom it sees"
            return Finding("addresses", WARNING, words)
        plain, *claims = [
            self._get("seen", **({"X-Forwarded-For": each} if each else {})) for each in ("", *CLAIMED)
        ]
        if plain.type != "SEEN":
            return Finding(
                "addresses", WARNING, f"not probed: /seen gets {plain}; is it the same SECRET_KEY?"
            )
        named, trusted = int(plain.body["FORWARDED"]), int(plain.body["TRUSTED_PROXIES"])
        if trusted > named:
            how_many = f"{named or 'no'} address{'' if named == 1 else 'es'}"
            words = (
                f"SPACERIFT_TRUSTED_PROXIES is {trusted}, and X-Forwarded-For has {how_many}, so anybody may "
                f"claim any: let the proxy add the client's; {SEE}"
            )
            return Finding("addresses", FAULT, words)
        if claims[0].body.get("ADDRESS") != claims[1].body.get("ADDRESS"):
            words = "an invented X-Forwarded-For is believed: let the proxy add the client's address to it"
            return Finding("addresses", FAULT, f"{words}; {SEE}")
        if named > trusted:
            words = f"{named} proxies add to X-Forwarded-For, so all clients seem to have the address of one"
            return Finding("addresses", FAULT, f"{words}: set SPACERIFT_TRUSTED_PROXIES={named}")
        words = "an invented X-Forwarded-For is not believed"
        return Finding("addresses", OK, f"{words}; proxies that are trusted: {trusted}")

    def _large_bodies(self) -> Finding:
        try:
            told = self._ask(_offer(_namespace()) | {"SIGNAL": "x" * LARGE_BYTES})
        except (OSError, HTTPException, Failed):
            told = Reply()
        if told.type == "TOO_LARGE":
            return Finding("large bodies", OK, "one that is too large gets 413 with JSON")
        if told.type == "NO_NAMESPACE_PEER":
            return Finding("large bodies", OK, "MAX_BODY is larger than what was tried")
        what = str(told) if told.status else "no reply"
        words = f"one of {LARGE_BYTES:,} bytes gets {what}, and pages cannot tell why; {SEE}"
        return Finding("large bodies", WARNING, words)

    def _refusals(self) -> Finding:
        with self._post({}, headers={"Origin": self._origin}) as asked:
            told = _reply(asked, QUICK_SECONDS)
        if told.type == "UNTRUSTED":
            return Finding("refusals", OK, "SPACERIFT_CORS_ORIGINS leaves out the server's own demo page")
        if told.type != "MISSING_PARAMETER" or told.status != 499:
            return Finding("refusals", FAULT, f"an empty request gets {told}, and not 499 with JSON; {SEE}")
        if "access-control-allow-origin" not in told.headers:
            return Finding("refusals", FAULT, f"the CORS headers of a refusal are lost on the way; {SEE}")
        words = "they arrive with JSON and CORS headers"
        if told.reason != "Missing Parameter":
            words += "; the words of the status line do not, which clients need not"
        return Finding("refusals", OK, words)

    # --- requests ------------------------------------------------------------------------------------------

    def _second(self, namespace: str, *, is_zipped: bool = False) -> tuple[dict[str, str], Reply]:
        """A second peer comes, once the first one is surely there; it is offered the first one's signal."""
        time.sleep(self._seconds)
        peer = _offer(namespace)
        told = self._ask(peer, is_zipped=is_zipped)
        if told.type != "DEMOTE":
            raise Failed(f"a second peer gets {told}")
        return peer, told

    def _ask(self, parameters: Mapping[str, str], *, is_zipped: bool = False) -> Reply:
        with self._post(parameters, is_zipped=is_zipped) as asked:
            return _reply(asked, QUICK_SECONDS)

    @contextlib.contextmanager
    def _post(
        self,
        parameters: Mapping[str, str],
        *,
        is_zipped: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[HTTPConnection]:
        """Send a request of the protocol, and do not wait for its reply."""
        body = json.dumps(parameters).encode()
        given = {"Content-Type": "application/json", "User-Agent": AGENT, **(headers or {})}
        if is_zipped:
            body = gzip.compress(body)
            given |= {"Content-Encoding": "gzip", "Accept-Encoding": "gzip"}
        with contextlib.closing(self._connection()) as connection:
            connection.connect()
            with contextlib.suppress(OSError):  # a refusal may be there before all is sent
                connection.request("POST", self._path, body, given)
            yield connection

    def _post_by(self, http2: Http2, parameters: Mapping[str, str]) -> None:
        body = json.dumps(parameters).encode()
        headers = {"content-type": "application/json", "user-agent": AGENT}
        http2.post(self._authority, self._path, headers, body)

    def _get(self, name: str, **headers: str) -> Reply:
        given = {"User-Agent": AGENT, **headers}
        if self._pass is not None:
            given["Authorization"] = f"Bearer {self._pass()}"
        with contextlib.closing(self._connection()) as connection:
            connection.request("GET", f"{self._path}{name}", headers=given)
            return _reply(connection, QUICK_SECONDS)

    def _connection(self) -> HTTPConnection:
        if self._is_tls:
            context = ssl.create_default_context()
            return HTTPSConnection(self._host, self._port, timeout=QUICK_SECONDS, context=context)
        return HTTPConnection(self._host, self._port, timeout=QUICK_SECONDS)

    def _open(self, *, alpn: list[str]) -> ssl.SSLSocket:
        context = ssl.create_default_context()
        context.set_alpn_protocols(alpn)
        plain = socket.create_connection((self._host, self._port), timeout=QUICK_SECONDS)
        return context.wrap_socket(plain, server_hostname=self._host)


def _finding(about: str, probe: Callable[[], Finding]) -> Finding:
    try:
        return probe()
    except Failed as error:
        return Finding(about, FAULT, f"not probed: {error}")
    except (OSError, HTTPException, ValueError) as error:
        return Finding(about, FAULT, f"not probed: {type(error).__name__} {error}".strip())


def _reply(connection: HTTPConnection, seconds: float) -> Reply:
    """The response to what was sent.

    Raises:
        TimeoutError: there is none yet.
    """
    assert connection.sock is not None
    connection.sock.settimeout(seconds)
    response = connection.getresponse()
    payload = response.read()
    headers = {name.lower(): value for name, value in response.getheaders()}
    body = None
    with contextlib.suppress(ValueError, OSError, EOFError):
        body = json.loads(gzip.decompress(payload) if headers.get("content-encoding") == "gzip" else payload)
    return Reply(response.status, response.reason, headers, body if isinstance(body, dict) else {})


def _leave(connection: Any) -> None:
    """Close a connection politely, with TLS's own goodbye first, which some proxies take otherwise."""
    with contextlib.suppress(OSError, ValueError):
        connection.settimeout(0.1)  # not for the other side's goodbye
        if isinstance(connection, ssl.SSLSocket):
            connection.unwrap()
    with contextlib.suppress(OSError):
        connection.close()


def _namespace() -> str:
    return f"doctor {secrets.token_urlsafe(16)}"


def _offer(namespace: str) -> dict[str, str]:
    """A peer of its own: two without a FINGERPRINT would be the same one, at one address."""
    given = {"TYPE": "CONNECT", "NAMESPACE": namespace, "SIGNAL": "an offer of the doctor's"}
    return given | {"FINGERPRINT": secrets.token_urlsafe(16)}
