"""The Python client, blocking and asyncio: with the real server, and where lines and servers misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from shutil import copytree
from urllib.parse import parse_qsl

import pytest

from live import ROOT, Server, free_port
from signal_server.client import (
    BadSignal,
    Cancel,
    Cancelled,
    Exchange,
    LinkLost,
    SpaceriftError,
    connect,
    connect_async,
)

SOON = 10
"""Seconds after which something that ought to happen has not."""


@dataclass
class Peer:
    """A client with made-up signals, which remembers what it was asked for and told."""

    name: str
    bounces: tuple[str, ...] = ()
    refuses: int = 0
    offers: int = 0
    heard: list[str] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    reasons: list[SpaceriftError] = field(default_factory=list)

    def offer(self):
        self.offers += 1
        return f"offer {self.offers} of {self.name}"

    def answer(self, offer):
        self.heard.append(offer)
        if offer in self.bounces:
            return None
        return f"answer of {self.name} to {offer}"

    def link(self, exchange):
        if self.refuses:
            self.refuses -= 1
            raise LinkLost

    def on_state(self, state, why):
        self.states.append(state)
        if why is not None:
            self.reasons.append(why)

    @property
    def options(self):
        return {
            "offer": self.offer,
            "answer": self.answer,
            "link": self.link,
            "fingerprint": self.name,
            "on_state": self.on_state,
        }


def blocking(url, peer, within=SOON, **options):
    return connect(url, **{**peer.options, **options}, timeout=within)


def asynchronous(url, peer, within=SOON, **options):
    async def run():
        async with asyncio.timeout(within):
            return await connect_async(url, **{**peer.options, **options})

    return asyncio.run(run())


@pytest.fixture(params=[blocking, asynchronous], ids=["blocking", "asyncio"])
def client(request):
    return request.param


@pytest.fixture(scope="module")
def hasty():
    with Server(REQUEST_TIMEOUT=0.4) as running:
        yield running


@pytest.fixture
def threads():
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def room(request):
    """A namespace of the test's own."""
    return request.node.name


def until(happened):
    deadline = time.monotonic() + SOON
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# --- the exchange ------------------------------------------------------------------------------------------


def test_two_peers_exchange_an_offer_and_its_answer(server, client, threads, room):
    alice, bob = Peer("alice"), Peer("bob")
    first = threads.submit(client, server.url, alice, namespace=room)
    server.until(waiting=1)
    second = client(server.url, bob, namespace=room)
    offer, answer = "offer 1 of alice", "answer of bob to offer 1 of alice"
    assert first.result() == Exchange("initiator", offer, answer)
    assert second == Exchange("responder", offer, answer)
    assert alice.states == ["gathering", "waiting"]
    assert bob.states == ["gathering", "waiting", "answering"]


def test_blocking_and_asyncio_meet_each_other_in_the_default_pool(server, threads):
    first = threads.submit(blocking, server.url, Peer("alice"))
    server.until(waiting=1)
    assert asynchronous(server.url, Peer("bob")).role == "responder"
    assert first.result().role == "initiator"


def test_coroutine_functions_are_awaited(server, threads, room):
    async def offer():
        return "offer"

    async def answer(offer):
        return f"answer to {offer}"

    options = {"offer": offer, "answer": answer, "namespace": room}
    first = threads.submit(asynchronous, server.url, Peer("alice"), **options)
    server.until(waiting=1)
    asynchronous(server.url, Peer("bob"), **options)
    assert first.result().answer == "answer to offer"


def test_a_coroutine_function_is_refused_where_nobody_awaits_it(server, recwarn):
    async def offer():
        return "offer"

    with pytest.raises(TypeError, match="connect_async"):
        connect(server.url, offer=offer, answer=str)
    recwarn.clear()  # it was never awaited, as we say


def test_a_held_request_may_end_with_a_demote(quick, threads, room):
    alice = threads.submit(blocking, quick.url, Peer("alice"), namespace=room)
    quick.until(waiting=1)
    with quick.offer("mallory", NAMESPACE=room) as mallory:
        assert mallory.reply().type == "DEMOTE"  # and never answers
        carol = Peer("carol")
        assert asynchronous(quick.url, carol, namespace=room).role == "responder"
    assert carol.states == ["gathering", "waiting", "answering"]
    assert alice.result().answer == "answer of carol to offer 1 of alice"


def test_an_offer_that_is_not_wanted_is_bounced(server, threads, room):
    with server.offer("alice", NAMESPACE=room):
        server.until(waiting=1)
        bob = Peer("bob", bounces=("alice",))
        linked = threads.submit(blocking, server.url, bob, namespace=room)
        server.until(waiting=2)
        carol = asynchronous(server.url, Peer("carol", bounces=("alice",)), namespace=room)
    assert bob.heard == ["alice"]
    assert carol == Exchange("responder", "offer 2 of bob", "answer of carol to offer 2 of bob")
    assert linked.result().role == "initiator"


def test_an_offer_that_cannot_be_read_is_bounced(hasty, room):
    def answer(offer):
        raise BadSignal

    with hasty.offer("alice", NAMESPACE=room) as alice:
        hasty.until(waiting=1)
        with pytest.raises(SpaceriftError, match="NO_NAMESPACE_PEER"):
            asynchronous(hasty.url, Peer("bob"), namespace=room, answer=answer, retry=False)
        assert alice.reply().type == "NO_NAMESPACE_PEER"


def test_a_link_that_does_not_open_is_followed_by_a_new_offer(quick, threads, room):
    alice = Peer("alice", refuses=1)
    linked = threads.submit(blocking, quick.url, alice, namespace=room)
    quick.until(waiting=1)
    assert asynchronous(quick.url, Peer("bob"), namespace=room).role == "responder"
    quick.until(waiting=1)
    assert asynchronous(quick.url, Peer("carol"), namespace=room).offer == "offer 2 of alice"
    assert linked.result().answer == "answer of carol to offer 2 of alice"
    assert [each.type for each in alice.reasons] == ["LINK_LOST"]


def test_an_answer_to_a_peer_that_left_is_followed_by_a_new_offer(quick, threads, room):
    with quick.offer("alice", NAMESPACE=room) as alice:
        quick.until(waiting=1)

        def answer(offer):
            alice.close()
            quick.until(waiting=0, offered=0)
            return "too late"

        bob = Peer("bob")
        linked = threads.submit(blocking, quick.url, bob, namespace=room, answer=answer)
        until(lambda: bob.reasons)
        quick.until(waiting=1)
        assert asynchronous(quick.url, Peer("carol"), namespace=room).offer == "offer 2 of bob"
    assert linked.result().role == "initiator"
    assert [each.type for each in bob.reasons] == ["NO_NAMESPACE_PEER"]


# --- replies that are no link ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("namespace", "status", "type"), [(None, 299, "NO_PEER"), ("empty", 298, "NO_NAMESPACE_PEER")]
)
def test_nobody_came(hasty, namespace, status, type):
    with pytest.raises(SpaceriftError) as raised:
        asynchronous(hasty.url, Peer("alice"), namespace=namespace, retry=False)
    assert (raised.value.status, raised.value.type, raised.value.retry_after) == (status, type, 0)


def test_it_waits_on_when_nobody_came(hasty, threads, room):
    alice = Peer("alice")
    linked = threads.submit(blocking, hasty.url, alice, namespace=room)
    until(lambda: alice.reasons)
    hasty.until(waiting=1)
    asynchronous(hasty.url, Peer("bob"), namespace=room)
    assert linked.result().offer == "offer 2 of alice"
    assert alice.reasons[0].type == "NO_NAMESPACE_PEER"


def test_a_peer_that_is_too_fast_comes_back_when_it_is_told_to(threads, room):
    with Server(limits=True) as server:
        with pytest.raises(TimeoutError):
            asynchronous(server.url, Peer("alice"), namespace=room, within=0.1)
        with pytest.raises(SpaceriftError) as raised:
            asynchronous(server.url, Peer("alice"), namespace=room, retry=False)
        assert (raised.value.type, raised.value.status, raised.value.retry_after) == ("RATE_LIMIT", 297, 1)
        alice = Peer("alice")
        linked = threads.submit(blocking, server.url, alice, namespace=room)
        server.until(waiting=1)
        asynchronous(server.url, Peer("bob"), namespace=room)
        assert linked.result().role == "initiator"
        assert [each.type for each in alice.reasons] == ["RATE_LIMIT"]
        assert alice.reasons[0].retry_after >= 1


@pytest.mark.parametrize(
    ("path", "options", "status", "type"),
    [
        ("nowhere", {}, 404, "NOT_FOUND"),
        ("health", {}, 405, "METHOD_NOT_ALLOWED"),
        ("", {"offer": lambda: "x" * 70_000}, 413, "TOO_LARGE"),
        ("", {"namespace": "x" * 257}, 400, "BAD_REQUEST"),
        ("", {"offer": lambda: ""}, 499, "MISSING_PARAMETER"),
    ],
)
def test_what_will_not_pass_is_raised_at_once(server, path, options, status, type):
    peer = Peer("alice")
    with pytest.raises(SpaceriftError, match=type) as raised:
        asynchronous(server.url + path, peer, **options)
    assert (raised.value.status, raised.value.type) == (status, type)
    assert "paused" not in peer.states


def test_a_missing_parameter_is_named(server):
    with pytest.raises(SpaceriftError, match="SIGNAL"):
        asynchronous(server.url, Peer("alice"), offer=lambda: "")


@pytest.mark.parametrize(
    "url", ["rift.example.com", "ftp://rift.example.com/", "http:///", "http://ex.com/a b"]
)
def test_a_url_that_is_none_is_refused(client, url):
    with pytest.raises(ValueError):
        client(url, Peer("alice"))


def test_it_links_by_itself_once_the_server_is_up(threads, room):
    server = Server()
    alice = Peer("alice")
    linked = threads.submit(blocking, server.url, alice, namespace=room)
    until(lambda: alice.reasons)
    assert alice.reasons[0].type == "NETWORK"
    with server:
        server.until(waiting=1)
        asynchronous(server.url, Peer("bob"), namespace=room)
        assert linked.result().role == "initiator"


# --- leaving -----------------------------------------------------------------------------------------------


def leaves_at_once(server, leave):
    server.until(waiting=1)
    before = time.monotonic()
    leave()
    server.until(waiting=0)
    return time.monotonic() - before < 5


def test_a_cancelled_blocking_call_leaves_the_pool_at_once(server, threads):
    cancel = Cancel()
    alice = threads.submit(connect, server.url, **Peer("alice").options, cancel=cancel)
    assert leaves_at_once(server, cancel.cancel)
    with pytest.raises(Cancelled):
        alice.result(SOON)


def test_a_cancelled_pause_is_over_at_once(threads):
    cancel = Cancel()
    alice = Peer("alice")
    linked = threads.submit(connect, f"http://127.0.0.1:{free_port()}/", **alice.options, cancel=cancel)
    until(lambda: alice.reasons)
    cancel.cancel()
    with pytest.raises(Cancelled):
        linked.result(SOON)


def test_a_call_that_was_cancelled_before_asks_nobody():
    cancel = Cancel()
    cancel.cancel()
    with pytest.raises(Cancelled):
        connect("http://127.0.0.1:9/", **Peer("alice").options, cancel=cancel)


def test_a_cancelled_task_leaves_the_pool_at_once(server):
    async def run():
        task = asyncio.create_task(connect_async(server.url, **Peer("alice").options))
        await asyncio.to_thread(server.until, waiting=1)
        before = time.monotonic()
        task.cancel()
        await asyncio.to_thread(server.until, waiting=0)
        assert time.monotonic() - before < 5
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_a_time_out_ends_it(server):
    with pytest.raises(TimeoutError):
        connect(server.url, **Peer("alice").options, timeout=0.2)
    server.until(waiting=0)


GREENLETS = """
from gevent import monkey; monkey.patch_all()
import sys, gevent
from signal_server.client import connect
def peer(name):
    return connect(sys.argv[1], offer=lambda: name, answer=str.upper, fingerprint=name, namespace="greenlets")
alice, bob = gevent.spawn(peer, "alice"), gevent.spawn(peer, "bob")
gevent.joinall([alice, bob], timeout=10, raise_error=True)
print(alice.value.answer, bob.value.answer, flush=True)
carol = gevent.spawn(peer, "carol")
gevent.get_hub().threadpool.apply(sys.stdin.readline)
carol.kill()
print(carol.ready(), flush=True)
sys.stdin.readline()
"""


def test_greenlets_block_only_themselves_and_a_killed_one_leaves(server):
    command = [sys.executable, "-c", GREENLETS, server.url]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            first, second = child.stdout.readline().split()
            assert first == second
            assert first in ("ALICE", "BOB")

            def kill():
                child.stdin.write("\n")
                child.stdin.flush()
                assert child.stdout.readline() == "True\n"

            assert leaves_at_once(server, kill)
        finally:
            child.kill()


# --- connections -------------------------------------------------------------------------------------------


class Line:
    """A TCP proxy in front of the server that counts connections and can cut them."""

    def __init__(self, port, tls=None):
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        if tls:
            self._listener = tls.wrap_socket(self._listener, server_side=True, do_handshake_on_connect=False)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._listener.getsockname()[1]}/"
        self.connections = 0
        self.requests = []
        self.cuts = []
        """For each request in turn: None, "lost" to lose its reply, or "idle" to close once it is replied."""
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                inner, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=[inner], daemon=True).start()

    def _serve(self, inner):
        with (
            inner,
            socket.create_connection(("127.0.0.1", self._port)) as outer,
            contextlib.suppress(OSError),
        ):
            while request := _read_message(inner):
                self.requests.append(request)
                cut = self.cuts.pop(0) if self.cuts else None
                outer.sendall(request)
                if inner in select.select([inner, outer], [], [])[0]:
                    return  # a client that leaves
                reply = _read_message(outer)
                if cut == "lost":
                    return
                inner.sendall(reply)
                if cut == "idle":
                    return


def parameters(request):
    return dict(parse_qsl(request.partition(b"\r\n\r\n")[2].decode(), strict_parsing=True))


def _read_message(connection):
    received = b""
    while b"\r\n\r\n" not in received:
        if not (piece := connection.recv(65536)):
            return b""
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(
        next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")).split()[1]
    )
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


@pytest.fixture
def line(server):
    proxy = Line(server.port)
    yield proxy
    proxy.close()


def test_a_responder_needs_one_connection_for_its_two_requests(server, client, line, room):
    with server.offer("alice", NAMESPACE=room) as alice:
        server.until(waiting=1)
        client(line.url, Peer("bob"), namespace=room)
        assert alice.reply()["SIGNAL"] == "answer of bob to alice"
    assert (len(line.requests), line.connections) == (2, 1)


def test_a_kept_connection_that_was_closed_is_replaced(server, client, line, room):
    line.cuts = ["idle"]
    bob = Peer("bob")
    with server.offer("alice", NAMESPACE=room) as alice:
        server.until(waiting=1)
        assert client(line.url, bob, namespace=room).role == "responder"
        assert alice.reply().type == "ANSWER"
    assert (len(line.requests), line.connections) == (2, 2)
    assert bob.reasons == []


def test_an_answer_that_came_too_fast_is_sent_again(client, threads, room):
    with Server(limits=True, ADDRESS_LIMIT="2 per 2 seconds") as server:
        alice, bob = Peer("alice"), Peer("bob")
        waiting = threads.submit(client, server.url, alice, namespace=room)
        server.until(waiting=1)
        assert client(server.url, bob, namespace=room).role == "responder"
        assert waiting.result(10).role == "initiator"
        assert bob.heard == ["offer 1 of alice"]
        assert bob.reasons == []


def test_an_answer_whose_reply_is_lost_is_repeated_and_arrives_once(server, client, line, room):
    line.cuts = ["idle", "lost", "lost"]
    bob = Peer("bob")
    with server.offer("alice", NAMESPACE=room) as alice:
        server.until(waiting=1)
        assert client(line.url, bob, namespace=room).role == "responder"
        assert alice.reply()["SIGNAL"] == "answer of bob to alice"
    answers = [parameters(request) for request in line.requests[1:]]
    assert len(answers) == 3
    assert len({(each["NONCE"], each["SIGNAL"], each["FINGERPRINT"]) for each in answers}) == 1
    assert len({each["REQUEST"] for each in answers}) == 3
    assert bob.offers == 1


HELLO = json.dumps({"TYPE": "ANSWER", "SIGNAL": "hello"}).encode()
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(HELLO), HELLO)


class Scripted:
    """A server that says exactly this, to one connection."""

    def __init__(self, *replies):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        self._replies = replies
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._listener.close()
        self._thread.join()

    def _run(self):
        for reply in self._replies:
            connection, _ = self._listener.accept()
            with connection:
                _read_message(connection)
                connection.sendall(reply)


@pytest.mark.parametrize(
    "reply",
    [
        PLAIN,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5;x=y\r\n%s\r\n%x\r\n%s\r\n0\r\nTrailer: x\r\n\r\n" % (HELLO[:5], len(HELLO) - 5, HELLO[5:]),
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + HELLO,
        b"HTTP/1.0 200 OK\r\n\r\n" + HELLO,
        b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(HELLO), HELLO),
    ],
    ids=["length", "chunked", "close", "HTTP/1.0", "lower case"],
)
def test_every_form_of_an_http_reply_is_read(client, reply):
    with Scripted(reply) as server:
        assert client(server.url, Peer("alice"), retry=False).answer == "hello"


@pytest.mark.parametrize(
    ("reply", "type", "status", "passes"),
    [
        (b"", "NETWORK", 0, True),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "NETWORK", 0, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}", "NETWORK", 0, True),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (1 << 20) + b"{}", "NETWORK", 0, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "BAD_REPLY", 200, False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{\"TYPE\":\"PONG\"}", "BAD_REPLY", 200, False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n[[[[[[", "BAD_REPLY", 200, False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{\"TYPE\":\"DEMOTE\"}", "BAD_REPLY", 200, False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{\"TYPE\":\"ANSWER\"}", "BAD_SIGNAL", 0, True),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>", "UNAVAILABLE", 502, True),
        (b"HTTP/1.1 301 Moved\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", "BAD_REPLY", 301, False),
        (b"HTTP/1.1 429 Slow\r\nContent-Length: 18\r\n\r\n{\"RETRY_AFTER\": 7}", "BAD_REPLY", 429, True),
    ],
)  # fmt: skip
def test_what_is_no_reply_is_an_error_in_plain_words(client, reply, type, status, passes):
    with Scripted(reply) as server, pytest.raises(SpaceriftError) as raised:
        client(server.url, Peer("alice"), retry=False)
    error = raised.value
    assert (error.type, error.status, error.passes) == (type, status, passes)
    assert error.retry_after == (7 if status == 429 else None)


# --- TLS ---------------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    about = [
        "-subj",
        "/CN=test",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        key,
        "-out",
        certificate,
    ]
    kind = ["-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    subprocess.run(["openssl", "req", *kind, *about], check=True, capture_output=True)
    return key, certificate


def test_tls_is_spoken_with_a_server_whose_certificate_holds(server, client, threads, room, certificate):
    key, chain = certificate
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(chain, key)
    with contextlib.closing(Line(server.port, own)) as line:
        tls = ssl.create_default_context(cafile=chain)
        alice = threads.submit(client, line.url, Peer("alice"), namespace=room, tls=tls)
        server.until(waiting=1)
        assert client(line.url, Peer("bob"), namespace=room, tls=tls).role == "responder"
        assert alice.result().role == "initiator"
        with pytest.raises(SpaceriftError, match="certificate") as raised:
            client(line.url, Peer("carol"), namespace=room)
    assert raised.value.type == "TLS"


def test_a_cancelled_call_under_tls_leaves_the_pool_at_once(server, threads, certificate):
    key, chain = certificate
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(chain, key)
    cancel, tls = Cancel(), ssl.create_default_context(cafile=chain)
    with contextlib.closing(Line(server.port, own)) as line:
        alice = threads.submit(connect, line.url, **Peer("alice").options, tls=tls, cancel=cancel)
        assert leaves_at_once(server, cancel.cancel)
        with pytest.raises(Cancelled):
            alice.result(SOON)


# --- what it needs -----------------------------------------------------------------------------------------

ALONE = """
import importlib, sys
folder, module, url, namespace = sys.argv[1:]
sys.path.insert(0, folder)
client = importlib.import_module(module)
print(client.connect(url, offer=lambda: "x", answer=str.upper, namespace=namespace, fingerprint="x").answer)
"""


@pytest.mark.parametrize("module", ["signal_server.client", "client"])
def test_it_needs_nothing_but_python_and_its_folder(server, room, module, tmp_path):
    folder = ROOT
    if module == "client":
        folder = tmp_path
        copytree(ROOT / "signal_server" / "client", tmp_path / "client")
    with server.offer("alice", NAMESPACE=room) as alice:
        server.until(waiting=1)
        command = [sys.executable, "-I", "-S", "-c", ALONE, str(folder), module, server.url, room]
        child = subprocess.run(command, capture_output=True, text=True, timeout=SOON)
        assert (child.stdout, child.stderr) == ("ALICE\n", "")
        assert alice.reply()["SIGNAL"] == "ALICE"
