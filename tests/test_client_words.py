"""What the Python client says to the server beside its signals (REMATCH, REQUEST, LEAVE), and what it heeds.

The server here is a listener that keeps every request, so that each word is seen as it is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qsl

import pytest

from live import ROOT, Server
from signal_server.client import (
    Cancel,
    Cancelled,
    Exchange,
    LinkLost,
    SpaceriftError,
    connect,
    connect_async,
    ice_servers,
)

SOON = 10
NAME = re.compile(r"[A-Za-z0-9_-]{22,64}")

Reply = tuple[int, dict[str, Any]] | None
"""None: held, until the client closes."""


def whole_request(connection: socket.socket) -> bytes:
    received = b""
    while not (found := re.search(rb"(?is)content-length: (\d+).*?\r\n\r\n(.*)", received)) or len(
        found[2]
    ) < int(found[1]):
        received += connection.recv(65536)
    return received


class Listener:
    """An HTTP server that keeps what it is asked, and replies as it is told.

    Args:
        replies: for each request but LEAVE, in turn; the last one again and again.
    """

    def __init__(self, *replies: Reply, headers: str = "") -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.requests: list[dict[str, str]] = []
        self.heads: list[str] = []
        self._replies = list(replies)
        self._headers = headers
        threading.Thread(target=self._accept, daemon=True).start()

    def until(self, count: int) -> list[dict[str, str]]:
        """The requests, once there are so many."""
        deadline = time.monotonic() + SOON
        while len(self.requests) < count:
            assert time.monotonic() < deadline, self.requests
            time.sleep(0.005)
        return self.requests

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines, contextlib.suppress(OSError):
            while first := lines.readline():
                asked_head = [first.decode()]
                while (line := lines.readline()) not in (b"\r\n", b""):
                    asked_head.append(line.decode())
                found = re.search(r"(?i)content-length: (\d+)", "".join(asked_head))
                asked = dict(parse_qsl(lines.read(int(found[1]) if found else 0).decode()))
                reply = self._reply(asked)
                self.heads.append("".join(asked_head))
                self.requests.append(asked)
                if reply is None:
                    lines.read(1)
                    return
                status, body = reply
                text = json.dumps(body)
                head = f"HTTP/1.1 {status} X\r\n{self._headers}Content-Length: {len(text)}\r\n\r\n"
                connection.sendall((head + text).encode())

    def _reply(self, asked: dict[str, str]) -> Reply:
        if asked.get("TYPE") == "LEAVE":
            return 200, {"TYPE": "LEFT"}
        return self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]


ANSWER: Reply = (200, {"TYPE": "ANSWER", "SIGNAL": "an answer"})
DELIVERED: Reply = (200, {"TYPE": "DELIVERED"})
NOBODY: Reply = (298, {"TYPE": "NO_NAMESPACE_PEER", "RETRY_AFTER": 0})


def demote(**more: Any) -> Reply:
    return 200, {"TYPE": "DEMOTE", "NONCE": "n" * 22, "SIGNAL": "their offer", **more}


def blocking(url: str, **options: Any) -> Exchange:
    return connect(url, **{"offer": lambda: "my offer", "answer": str.upper, "timeout": SOON, **options})


def asynchronous(url: str, **options: Any) -> Exchange:
    return asyncio.run(connect_async(url, **{"offer": lambda: "my offer", "answer": str.upper, **options}))


def in_haste(client: Callable[..., Exchange], url: str, **options: Any) -> None:
    """Give up after 0.2 s."""
    if client is blocking:
        client(url, timeout=0.2, **options)
        return
    asynchronously = {"offer": lambda: "my offer", "answer": str.upper, **options}

    async def run() -> None:
        async with asyncio.timeout(0.2):
            await connect_async(url, **asynchronously)

    asyncio.run(run())


@pytest.fixture(params=[blocking, asynchronous], ids=["blocking", "asyncio"])
def client(request: pytest.FixtureRequest) -> Callable[..., Exchange]:
    return request.param  # type: ignore[no-any-return]


# --- REMATCH and REQUEST -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, None),
        ({"namespace": "chess"}, "1"),
        ({"namespace": "chess", "rematch": False}, None),
        ({"rematch": True}, "1"),
    ],
)
def test_it_says_rematch_in_a_namespace_unless_told_otherwise(
    client: Callable[..., Exchange], options: dict[str, Any], said: str | None
) -> None:
    listener = Listener(ANSWER)
    client(listener.url, **options)
    assert listener.requests[0].get("REMATCH") == said


def test_each_request_has_a_name_of_its_own(client: Callable[..., Exchange]) -> None:
    listener = Listener(demote(), demote(), DELIVERED)
    answers = iter([None, "an answer"])
    client(listener.url, namespace="chess", answer=lambda _: next(answers))
    assert [each["TYPE"] for each in listener.requests] == ["CONNECT", "BOUNCE", "CONNECT"]
    names = [each["REQUEST"] for each in listener.requests]
    assert len(set(names)) == 3
    assert all(NAME.fullmatch(each) for each in names)
    assert {each["REMATCH"] for each in listener.requests} == {"1"}


def test_an_empty_namespace_is_refused(client: Callable[..., Exchange]) -> None:
    with pytest.raises(ValueError, match="namespace is empty"):
        client("http://127.0.0.1:9/", namespace="")


# --- LEAVE -------------------------------------------------------------------------------------------------


def left(listener: Listener) -> None:
    """The last two requests are one that was held and its LEAVE."""
    held, leave = listener.until(2)[-2:]
    assert leave == {
        "TYPE": "LEAVE",
        "REQUEST": held["REQUEST"],
        "FINGERPRINT": held["FINGERPRINT"],
    }


def test_a_cancelled_blocking_call_says_leave() -> None:
    listener, cancel = Listener(None), Cancel()
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(blocking, listener.url, cancel=cancel)
        listener.until(1)
        cancel.cancel()
        with pytest.raises(Cancelled):
            call.result(SOON)
    left(listener)


def test_a_time_out_says_leave() -> None:
    listener = Listener(None)
    with pytest.raises(TimeoutError):
        blocking(listener.url, timeout=0.2)
    left(listener)


def test_a_cancelled_task_says_leave_before_it_ends() -> None:
    listener = Listener(None)

    async def run() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await connect_async(listener.url, offer=lambda: "offer", answer=str)

    asyncio.run(run())
    left(listener)


def test_a_bounce_that_is_held_can_be_left(client: Callable[..., Exchange]) -> None:
    listener = Listener(demote(), None)
    with pytest.raises(TimeoutError):
        in_haste(client, listener.url, answer=lambda _: None)
    assert [each["TYPE"] for each in listener.until(3)] == ["CONNECT", "BOUNCE", "LEAVE"]
    left(listener)


DAEMON = """
import sys, threading
from signal_server.client import connect
options = {"offer": lambda: "offer", "answer": str}
threading.Thread(target=connect, args=[sys.argv[1]], kwargs=options, daemon=True).start()
sys.stdin.readline()
"""


@pytest.mark.parametrize("way", ["the program ends", "Ctrl-C"])
def test_a_program_that_ends_says_leave(way: str) -> None:
    listener = Listener(None)
    code = (
        DAEMON
        if way == "the program ends"
        else DAEMON.replace("threading.Thread(target=", "(").replace(
            "connect, args=[sys.argv[1]], kwargs=options, daemon=True).start()",
            "connect)(sys.argv[1], **options)",
        )
    )
    command = [sys.executable, "-c", code, listener.url]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        try:
            listener.until(1)
            if way == "Ctrl-C":
                child.send_signal(2)
            else:
                child.communicate("\n", timeout=SOON)
            child.wait(SOON)
        finally:
            child.kill()
    left(listener)


def test_a_line_that_is_lost_is_followed_by_a_leave_and_a_new_request() -> None:
    """Behind a proxy that passes no hang-up on, the server would keep the old one."""
    listener = Listener(None, ANSWER)
    outers: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        url = f"http://127.0.0.1:{proxy.getsockname()[1]}/"

        def serve() -> None:
            for number in range(3):
                inner, _ = proxy.accept()
                outer = socket.create_connection(("127.0.0.1", listener.port))
                outers.append(outer)
                with inner:
                    outer.sendall(whole_request(inner))
                    listener.until(number + 1)
                    if number:
                        inner.sendall(outer.recv(65536))

        with ThreadPoolExecutor(1) as thread:
            served = thread.submit(serve)
            assert blocking(url).answer == "an answer"
            served.result(SOON)
    for each in outers:
        each.close()
    assert [each["TYPE"] for each in listener.requests] == ["CONNECT", "LEAVE", "CONNECT"]


def test_nobody_is_told_where_nothing_was_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
    with pytest.raises(SpaceriftError) as raised:
        blocking(url, retry=False)
    assert raised.value.type == "NETWORK"


def test_a_server_that_does_not_reply_to_leave_delays_it_little(client: Callable[..., Exchange]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            in_haste(client, url)
        assert time.monotonic() - started < 3


# --- ANSWER_WITHIN -----------------------------------------------------------------------------------------


def test_an_answer_may_ask_how_long_it_may_take(client: Callable[..., Exchange]) -> None:
    listener, told = Listener(demote(ANSWER_WITHIN=2.5), DELIVERED), []

    def answer(offer: str, within: float) -> str:
        told.append(within)
        return offer.upper()

    assert client(listener.url, answer=answer).answer == "THEIR OFFER"
    assert told == [2.5]


@pytest.mark.parametrize("within", [None, "5", True, -1, 1e12])
def test_a_server_that_does_not_say_it_is_believed_to_wait_five_seconds(within: object) -> None:
    listener, told = Listener(demote(ANSWER_WITHIN=within), DELIVERED), []

    def answer(offer: str, *, within: float) -> str:
        told.append(within)
        return offer

    blocking(listener.url, answer=answer)
    assert told == [5]


def test_an_answer_that_is_late_is_not_sent(client: Callable[..., Exchange]) -> None:
    listener = Listener(demote(ANSWER_WITHIN=0.1), ANSWER)

    def slow(offer: str) -> str:
        time.sleep(0.15)
        return offer

    with pytest.raises(SpaceriftError, match=r"took 0\.\d s, and the server waits 0\.1 s") as raised:
        client(listener.url, answer=slow, retry=False)
    assert (raised.value.type, raised.value.passes) == ("ANSWER_LATE", True)
    assert len(listener.requests) == 1
    assert client(listener.url, answer=slow).role == "initiator"


def test_a_coroutine_that_is_late_is_cut() -> None:
    listener, cut = Listener(demote(ANSWER_WITHIN=0.1), ANSWER), []

    async def hangs(offer: str) -> str:
        try:
            await asyncio.sleep(SOON)
        except asyncio.CancelledError:
            cut.append(offer)
            raise
        return offer

    assert asynchronous(listener.url, answer=hangs).role == "initiator"
    assert cut == ["their offer"]


def test_a_time_out_of_the_callers_own_is_the_callers() -> None:
    async def fails(offer: str) -> str:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        asynchronous(Listener(demote()).url, answer=fails)


# --- a link that does not open -----------------------------------------------------------------------------


def test_the_process_has_another_fingerprint_once_a_link_did_not_open(
    client: Callable[..., Exchange],
) -> None:
    listener, tries = Listener(ANSWER), iter([True, False])

    def link(_: Exchange) -> None:
        if next(tries):
            raise LinkLost

    client(listener.url, link=link)
    first, second = (each["FINGERPRINT"] for each in listener.requests)
    assert first != second
    given = Listener(ANSWER)
    tries = iter([True, False])
    client(given.url, link=link, fingerprint="mine")
    assert [each["FINGERPRINT"] for each in given.requests] == ["mine", "mine"]


def test_two_whose_link_did_not_open_try_again_at_once() -> None:
    """The server remembers them as a pair, and with their old fingerprints they would wait for an hour."""
    with Server() as server, ThreadPoolExecutor(2) as threads:
        lost: list[str] = []

        def peer(name: str) -> Exchange:
            def link(_: Exchange) -> None:
                if name not in lost:
                    lost.append(name)
                    raise LinkLost

            return blocking(
                server.url,
                namespace="friends",
                link=link,
                offer=lambda: name,
                fingerprint=None,
                rematch=False,
            )

        first = threads.submit(in_a_process, server.url)
        server.until(waiting=1)
        second = threads.submit(peer, "here")
        roles = {first.result(SOON), second.result(SOON).role}
    assert roles == {"initiator", "responder"}


LOST_ONCE = """
import sys
from signal_server.client import LinkLost, connect
tries = [LinkLost()]
def link(exchange):
    if tries: raise tries.pop()
options = {"offer": lambda: "there", "answer": str, "link": link, "namespace": "friends", "rematch": False}
print(connect(sys.argv[1], **options).role)
"""


def in_a_process(url: str) -> str:
    command = [sys.executable, "-c", LOST_ONCE, url]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SOON).stdout.strip()


# --- redirects ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed_and_says_where_it_points(
    client: Callable[..., Exchange], status: int
) -> None:
    listener = Listener((status, {}), headers="Location: https://rift.example.com/\x1b[2J\r\n")
    with pytest.raises(SpaceriftError) as raised:
        client(listener.url)
    assert f"replies {status} and points to 'https://rift.example.com/\\x1b[2J'" in str(raised.value)
    assert (raised.value.status, raised.value.passes, len(listener.requests)) == (status, False, 1)


# --- GET /ice ----------------------------------------------------------------------------------------------


def test_ice_servers_come_as_strict_libraries_take_them() -> None:
    stun = "stun:stun.example.com:3478?transport=udp"
    turn = {"urls": ["turn:turn.example.com?transport=udp"], "username": "someone", "credential": "secret"}
    listed = [{"url": stun, "urls": stun}, {**turn, "url": turn["urls"][0], "credentialType": "password"}]
    listener = Listener((200, {"iceServers": listed}))
    assert ice_servers(listener.url + "rift") == [{"urls": ["stun:stun.example.com:3478"]}, turn]
    assert listener.heads[0].startswith("GET /rift/ice HTTP/1.1\r\n")


def test_a_busy_server_is_asked_again_and_a_refusal_is_no_empty_list() -> None:
    empty: Reply = (200, {"iceServers": []})
    busy = Listener((297, {"TYPE": "RATE_LIMIT", "RETRY_AFTER": 0.1}), (503, {}), empty)
    assert ice_servers(busy.url) == []
    assert len(busy.requests) == 3
    for refused, status in ((503, 503), (404, 404), (200, 200), (297, 297)):
        with pytest.raises(SpaceriftError) as raised:
            ice_servers(Listener((refused, {"RETRY_AFTER": 60})).url)
        assert raised.value.status == status
