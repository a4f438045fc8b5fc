"""What one client can do to the others: short runs of tests/hostile.py, and each bound by itself."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

import forgeries
from forgeries import under_forgeries
from honest import quantile
from hostile import BODIES, TURNS, attack
from live import Call, Server, eventually
from mutants import Mutant
from wire import head

OFFER = b'{"TYPE":"CONNECT","SIGNAL":"%b"}'


@pytest.fixture(scope="module")
def timed(driver: str) -> Iterator[Server]:
    with Server(app=TURNS) as running:
        yield running


@pytest.mark.parametrize("kind", BODIES)
def test_no_body_keeps_others_waiting(timed: Server, kind: str) -> None:
    seen = attack(timed, kind, seconds=0.7)
    assert not seen.cut
    assert 0 < seen.longest < 0.020
    assert quantile(seen.work, 0.9) < 0.020
    assert max(seen.sent) < 12 << 20  # much of which stands in the kernel


def chunks(text: bytes, around: int) -> bytes:
    """One byte a chunk, each with so many bytes around it."""
    extension = b";" + b"a" * (around - 6) if around > 6 else b""
    return b"".join(b"1%b\r\n%c\r\n" % (extension, byte) for byte in text) + b"0\r\n\r\n"


@pytest.mark.parametrize(("length", "around", "status"), [(30_000, 5, 299), (2000, 200, 413)])
def test_a_chunked_body_has_a_bound_on_the_wire(quick: Server, length: int, around: int, status: int) -> None:
    """Four times that of a body."""
    text = OFFER % (b"s" * length)
    with Call(
        quick.port, None, body=b"", headers={"Content-Length": "", "Transfer-Encoding": "chunked"}
    ) as call:
        with contextlib.suppress(ConnectionError):
            call.socket.sendall(chunks(text, around))
        assert call.reply().status == status


def ends_within(client: socket.socket, seconds: float) -> bool:
    """Does the server end this connection?"""
    client.settimeout(seconds)
    try:
        while client.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def test_a_body_that_nobody_wants_has_its_time(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(head("GET /health HTTP/1.1", "Content-Length: 1000000"))
        assert ends_within(client, 8)


def test_who_never_reads_frees_his_place() -> None:
    """With a second instead of fifteen."""
    old, new = "REPLY_SECONDS: Final = 15.0", "REPLY_SECONDS: Final = 1.0"
    with Mutant(file="signal_server/http/intake.py", old=old, new=new).planted(), Server() as server:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", server.port))
            client.settimeout(10)
            started = time.monotonic()
            with contextlib.suppress(OSError):
                while time.monotonic() < started + 10:
                    client.send(head("GET /spacerift.js HTTP/1.1"))
            assert time.monotonic() < started + 10
        assert eventually(lambda: server.get("/health")[0] == 200)
        assert "Traceback" not in server.log


def test_honest_signed_peers_link_while_others_forge() -> None:
    """Behind a proxy, from ten addresses, more than gpg can verify."""
    with Server(**forgeries.SETTINGS) as server:
        fared, statuses = under_forgeries(server.port, 400, seconds=4, pairs=3)
    assert len(fared.waits) >= 3, fared
    assert fared.share >= 0.95, fared
    assert statuses.keys() == {403, 503}  # without the latter, there were too few


def test_an_address_has_so_many_connections() -> None:
    with Server(CONNECTIONS_PER_ADDRESS=20, HELD_PER_ADDRESS="", limits=True) as server, ExitStack() as stack:

        def opened(address: str) -> socket.socket:
            return stack.enter_context(
                socket.create_connection(("127.0.0.1", server.port), source_address=(address, 0))
            )

        def status(client: socket.socket) -> bytes:
            client.settimeout(5)
            client.sendall(head("GET /health HTTP/1.1"))
            return client.recv(65536).split(b" ", 2)[1]

        silent = [opened("127.0.0.9") for _ in range(15)]
        slow = [opened("127.0.0.9") for _ in range(5)]  # which gunicorn has, or will have
        for each in slow:
            each.sendall(head("POST /nothing HTTP/1.1", "Content-Length: 9"))
            each.recv(65536)
        last = opened("127.0.0.9")
        last.settimeout(5)
        assert last.recv(65536).startswith(b"HTTP/1.1 297 Rate Limit\r\n")
        assert last.recv(1) == b""
        assert status(opened("127.0.0.10")) == b"200"
        for each in (silent[0], slow[0]):
            each.close()
        assert eventually(lambda: status_or_refusal(opened("127.0.0.9"), status) == b"200")
        counted = server.get("/metrics")[2].decode()
        assert 'spacerift_limits_hit_total{limit="connections"}' in counted


def status_or_refusal(client: socket.socket, status: Callable[[socket.socket], bytes]) -> bytes:
    try:
        return status(client)
    except OSError:
        return b"cut"


def test_no_path_and_no_header_leads_anywhere_else(quick: Server) -> None:
    for path in ("//x", "/./", "/../", "/%2e%2e/", "/.git/config", "/static/", "/x?/"):
        reply = Call(quick.port, None, method="GET", path=path, body=b"").reply()
        assert (reply.status, reply.type) == (404, "NOT_FOUND"), path
        assert "location" not in reply.headers
    for name in (
        "SCRIPT_NAME",
        "Script-Name",
        "PATH_INFO",
        "X-Forwarded-Prefix",
        "X-Script-Name",
        "REMOTE_USER",
    ):
        for value in ("/x", "//", "é", "/" * 3000):
            reply = quick.post(TYPE="LEAVE", REQUEST="r" * 22, headers={name: value})
            assert reply.type == "LEFT", name
    assert Call(quick.port, None, method="TRACE", body=b"").reply().status == 405


def test_pages_and_files_count_to_a_limit_of_their_own() -> None:
    with Server(ADDRESS_LIMIT="4 per minute", limits=True) as server:
        for path in ("/", "/spacerift.js"):
            statuses = [server.get(path)[0] for _ in range(6)]
            assert statuses == [200] * 4 + [297] * 2
        assert server.post(TYPE="LEAVE", REQUEST="r" * 22).type == "LEFT"
        assert server.get("/health")[0] == 200


REFUSED = (
    b'{"TYPE":"CONNECT"}',
    b'{"TYPE":"CONNECT","SIGNAL":"offer"',
    b'{"TYPE":"CONNECT","SIGNAL":"\xff"}',
    b'{"TYPE":"LEAVE","REQUEST":"short"}',
)


def test_what_is_refused_is_forgotten_at_once(server: Server, driver: str) -> None:
    """And not only when the collector comes, which is seldom."""

    def living() -> int:
        return int(json.loads(server.get("/test/living")[2])["objects"])

    with Call(server.port, None, body=REFUSED[0]) as call:
        call.reply()
        before = living()
        for _ in range(50):
            for body in REFUSED:
                call.send(None, body=body)
                call.reply()
        more = living() - before
    gunicorn_leaves = 10  # for each request that it reads itself
    assert more < 200 * (1 if driver == "callbacks" else gunicorn_leaves)
