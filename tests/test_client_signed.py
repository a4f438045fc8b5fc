"""What a signed Python peer sends, what it takes from others, and how two of them link."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from key_pairs import KeyPair, key_pair
from live import Server
from signal_server.client import (
    BadSignal,
    Cancel,
    Cancelled,
    Exchange,
    SpaceriftError,
    connect,
    connect_async,
)
from signal_server.client.codecs import Message, SignedCodec
from signal_server.errors import Untrusted
from signal_server.openpgp.message import read_message
from signal_server.openpgp.signer import OpenpgpSigner


@pytest.fixture(scope="module")
def keys() -> dict[str, KeyPair]:
    return {name: key_pair(name) for name in ("alice", "bob", "server")}


@pytest.fixture(scope="module")
def alice(keys: dict[str, KeyPair]) -> Iterator[OpenpgpSigner]:
    with OpenpgpSigner(keys["alice"].private) as signer:
        yield signer


@pytest.fixture(scope="module")
def bob(keys: dict[str, KeyPair]) -> Iterator[OpenpgpSigner]:
    with OpenpgpSigner(keys["bob"].private) as signer:
        yield signer


async def at_once(function: Any, *arguments: Any, **named: Any) -> Any:
    return function(*arguments, **named)


def run(coroutine: Any) -> Any:
    """Nothing here waits."""
    with pytest.raises(StopIteration) as done:
        coroutine.send(None)
    return done.value.value


def pool(signer: OpenpgpSigner, namespace: str = "chess", server_key: str | None = None) -> SignedCodec:
    return SignedCodec(namespace, signer, server_key, at_once)


def sent(signer: OpenpgpSigner, kind: str = "DEMOTE", **changed: Any) -> dict[str, str]:
    """A reply of the server's with what this peer signed, except for what is changed in the text."""
    text = {"TYPE": "CONNECT", "NAMESPACE": "chess", "SIGNAL": "offer", "TIME": round(time.time() * 1000)}
    text |= {name: value for name, value in changed.items() if name in (*text, "NONCE")}
    reply = {"TYPE": kind, "NONCE": "n" * 22, "PUBLIC_KEY": signer.public_key()}
    reply["SIGNED_NAMESPACE"] = signer.sign(changed.get("SIGNED_NAMESPACE", "chess"))
    return reply | {"SIGNED_SIGNAL": signer.sign(json.dumps(text))}


def test_a_peer_reads_what_another_wrote(alice: OpenpgpSigner, bob: OpenpgpSigner) -> None:
    wrote = run(pool(alice).write(Message("CONNECT", "an offer ☕")))
    assert set(wrote) == {"TYPE", "SIGNED_NAMESPACE", "SIGNED_SIGNAL", "PUBLIC_KEY"}
    read = run(pool(bob).read({"TYPE": "DEMOTE", **{k: v for k, v in wrote.items() if k != "TYPE"}}))
    assert read == ("an offer ☕", alice.fingerprint)


def test_the_text_that_is_signed_is_one_line_of_ascii_and_says_what_stands_in_clear(
    alice: OpenpgpSigner,
) -> None:
    wrote = run(pool(alice).write(Message("BOUNCE", "an offer ☕", "n" * 22)))
    text, _ = alice.verify(wrote["SIGNED_SIGNAL"], alice.public_key())
    assert text.isascii()
    assert "\n" not in text
    said = json.loads(text)
    assert abs(said.pop("TIME") - time.time() * 1000) < 5000
    expected = {"TYPE": "BOUNCE", "NAMESPACE": "chess", "NONCE": "n" * 22, "SIGNAL": "an offer ☕"}
    assert said == expected
    assert (wrote["TYPE"], wrote["NONCE"]) == ("BOUNCE", "n" * 22)


def test_a_namespace_is_signed_once(alice: OpenpgpSigner) -> None:
    own = pool(alice)
    first, second = (run(own.write(Message("CONNECT", signal))) for signal in ("one", "two"))
    assert first["SIGNED_NAMESPACE"] == second["SIGNED_NAMESPACE"]
    assert first["SIGNED_SIGNAL"] != second["SIGNED_SIGNAL"]


def test_the_default_pool_can_be_signed_too(alice: OpenpgpSigner, bob: OpenpgpSigner) -> None:
    wrote = run(pool(alice, "").write(Message("CONNECT", "offer")))
    assert run(pool(bob, "").read({**wrote, "TYPE": "DEMOTE"})) == ("offer", alice.fingerprint)


FAR = 10 * 60_000


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"NAMESPACE": "go"}, "another namespace"),
        ({"SIGNED_NAMESPACE": "go"}, "another namespace"),
        ({"TIME": round(time.time() * 1000) - FAR}, "not of now"),
        ({"TIME": round(time.time() * 1000) + FAR}, "not of now"),
        ({"TIME": None}, "not of now"),
        ({"TYPE": "DEMOTE"}, "another type"),
        ({"TYPE": "BOUNCE"}, "nonce does not fit"),
        ({"NONCE": "n" * 22}, "nonce does not fit"),
        ({"kind": "ANSWER"}, "nonce does not fit"),
        ({"kind": "ANSWER", "TYPE": "BOUNCE", "NONCE": "n" * 22}, "another type"),
        ({"SIGNAL": 7}, "cannot be read"),
    ],
)
def test_a_text_that_does_not_fit_is_not_taken(
    alice: OpenpgpSigner, bob: OpenpgpSigner, changed: dict[str, Any], why: str
) -> None:
    assert sent(alice)  # it is what is changed that counts
    with pytest.raises(BadSignal, match=why):
        pool(bob).read(sent(alice, **changed)).send(None)


@pytest.mark.parametrize("missing", ["SIGNED_NAMESPACE", "SIGNED_SIGNAL", "PUBLIC_KEY"])
def test_a_part_that_is_missing_or_somebody_elses_is_not_taken(
    alice: OpenpgpSigner, bob: OpenpgpSigner, missing: str
) -> None:
    reply = sent(alice)
    assert run(pool(bob).read(reply)) == ("offer", alice.fingerprint)
    for other in ({}, {missing: sent(bob)[missing]}):
        with pytest.raises(BadSignal):
            pool(bob).read({**{k: v for k, v in reply.items() if k != missing}, **other}).send(None)


def test_only_trusted_keys_are_taken(
    keys: dict[str, KeyPair], alice: OpenpgpSigner, bob: OpenpgpSigner, tmp_path: Path
) -> None:
    (tmp_path / "alice.asc").write_text(keys["alice"].public)
    with OpenpgpSigner(keys["server"].private, trusted=str(tmp_path)) as carol:
        assert run(pool(carol).read(sent(alice))) == ("offer", alice.fingerprint)
        with pytest.raises(BadSignal):
            pool(carol).read(sent(bob)).send(None)
        # A server's key may be pinned that is not among them.
        assert carol.verify(bob.sign("reply"), keys["bob"].public, pinned=True).text == "reply"


# --- a pinned server ---------------------------------------------------------------------------------------


def signed_reply(
    server: OpenpgpSigner, to: OpenpgpSigner, reply: dict[str, str], **changed: Any
) -> dict[str, str]:
    about = hashlib.sha256(reply.get("SIGNED_SIGNAL", "").encode()).hexdigest()
    text = {"TYPE": reply["TYPE"], "NONCE": reply.get("NONCE"), "SHA256": about, "TO": to.fingerprint}
    text |= {"TIME": round(time.time() * 1000), **changed}
    return {**reply, "SIGNED_REPLY": server.sign(json.dumps(text))}


@pytest.fixture(scope="module")
def server(keys: dict[str, KeyPair]) -> Iterator[OpenpgpSigner]:
    with OpenpgpSigner(keys["server"].private) as signer:
        yield signer


def test_a_pinned_servers_replies_are_taken(
    alice: OpenpgpSigner, bob: OpenpgpSigner, server: OpenpgpSigner
) -> None:
    own, message = pool(bob, server_key=server.public_key()), Message("CONNECT", "answer", "n" * 22)
    run(own.check(signed_reply(server, bob, sent(alice)), message))
    written = run(own.write(message))
    delivered = {"TYPE": "DELIVERED", "SIGNED_SIGNAL": written["SIGNED_SIGNAL"], "NONCE": "n" * 22}
    run(own.check(signed_reply(server, bob, delivered), message))


@pytest.mark.parametrize(
    "changed",
    [{"TYPE": "ANSWER"}, {"NONCE": "m" * 22}, {"SHA256": "0" * 64}, {"TO": "0" * 40}, {"TIME": 0}],
    ids=lambda changed: next(iter(changed)),
)
def test_a_reply_that_a_pinned_server_did_not_mean_is_refused(
    alice: OpenpgpSigner, bob: OpenpgpSigner, server: OpenpgpSigner, changed: dict[str, Any]
) -> None:
    own, message = pool(bob, server_key=server.public_key()), Message("CONNECT", "offer")
    with pytest.raises(SpaceriftError, match="not trusted"):
        own.check(signed_reply(server, bob, sent(alice), **changed), message).send(None)


def test_a_reply_that_a_pinned_server_did_not_sign_is_refused(
    alice: OpenpgpSigner, bob: OpenpgpSigner, server: OpenpgpSigner
) -> None:
    own, message = pool(bob, server_key=server.public_key()), Message("CONNECT", "offer")
    for reply in (sent(alice), signed_reply(alice, bob, sent(alice))):
        with pytest.raises(SpaceriftError) as raised:
            own.check(reply, message).send(None)
        assert (raised.value.type, raised.value.passes) == ("UNTRUSTED", False)


def test_a_pinned_server_needs_a_signer(server: OpenpgpSigner) -> None:
    with pytest.raises(TypeError):
        connect("http://127.0.0.1:9/", offer=lambda: "", answer=str, server_key=server.public_key())


# --- with a server -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def signing(keys: dict[str, KeyPair]) -> Iterator[Server]:
    with Server(SIGNATURES="required", PRIVATE_KEY=keys["server"].private, REQUEST_TIMEOUT=1.5) as running:
        yield running


def link(url: str, name: str, **options: Any) -> Exchange:
    whole = {"offer": lambda: f"offer of {name}", "answer": lambda offer: f"answer of {name} to {offer}"}
    return connect(url, **{**whole, "namespace": "chess", "timeout": 10, **options})


def test_two_signed_peers_link_and_know_each_other(
    signing: Server, alice: OpenpgpSigner, bob: OpenpgpSigner, keys: dict[str, KeyPair]
) -> None:
    pinned = keys["server"].public
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(link, signing.url, "alice", signer=alice, server_key=pinned)
        signing.until(waiting=1)
        options = {"offer": lambda: "unused", "answer": lambda offer: f"answer to {offer}"}
        second = asyncio.run(
            connect_async(signing.url, **options, namespace="chess", signer=bob, server_key=pinned)
        )
        answer = "answer to offer of alice"
        assert first.result() == Exchange("initiator", "offer of alice", answer, bob.fingerprint)
        assert second == Exchange("responder", "offer of alice", answer, alice.fingerprint)


def test_an_unsigned_peer_is_told_what_is_missing(signing: Server) -> None:
    with pytest.raises(SpaceriftError, match="SIGNED_NAMESPACE") as raised:
        link(signing.url, "alice")
    assert raised.value.status == 499


def test_a_peer_that_is_not_trusted_is_bounced(
    signing: Server, alice: OpenpgpSigner, bob: OpenpgpSigner, keys: dict[str, KeyPair], tmp_path: Path
) -> None:
    (tmp_path / "bob.asc").write_text(keys["bob"].public)
    with (
        OpenpgpSigner(keys["server"].private, trusted=str(tmp_path)) as carol,
        ThreadPoolExecutor(2) as threads,
    ):
        stranger = threads.submit(link, signing.url, "alice", signer=alice, namespace=None, retry=False)
        signing.until(waiting=1)
        linked = threads.submit(link, signing.url, "carol", signer=carol, namespace=None)
        signing.until(waiting=2)
        with pytest.raises(SpaceriftError, match="NO_PEER"):
            stranger.result()
        assert link(signing.url, "bob", signer=bob, namespace=None).remote_key == carol.fingerprint
        assert linked.result().remote_key == bob.fingerprint


def test_a_server_with_another_key_than_the_pinned_one_is_refused(
    signing: Server, alice: OpenpgpSigner, bob: OpenpgpSigner
) -> None:
    cancel = Cancel()
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(link, signing.url, "alice", signer=alice, namespace="pinned", cancel=cancel)
        signing.until(waiting=1)
        with pytest.raises(SpaceriftError) as raised:
            link(signing.url, "bob", signer=bob, namespace="pinned", server_key=alice.public_key())
        assert raised.value.type == "UNTRUSTED"
        cancel.cancel()
        with pytest.raises(Cancelled):
            waiting.result()


# --- a clock that is off -----------------------------------------------------------------------------------


class Abroad:
    """A signer on a machine whose clock is off."""

    def __init__(self, signer: OpenpgpSigner, off_ms: int, *, is_stubborn: bool = False) -> None:
        self.fingerprint, self.public_key, self.verify = signer.fingerprint, signer.public_key, signer.verify
        self.sign = signer.sign
        self._signer, self._off_ms, self._is_stubborn = signer, off_ms, is_stubborn
        signer.set_clock(off_ms)

    def set_clock(self, ahead_ms: int) -> None:
        if not self._is_stubborn:
            self._signer.set_clock(self._off_ms + ahead_ms)


@pytest.fixture(params=[90_000, -90_000], ids=["ahead", "behind"])
def off_ms(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How far our clock is ahead. The server is another process, and has the right time."""
    now_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + request.param * 10**6)
    return int(request.param)


def test_peers_whose_clocks_are_off_take_the_servers_and_link(
    signing: Server, keys: dict[str, KeyPair], off_ms: int
) -> None:
    with (
        OpenpgpSigner(keys["alice"].private) as alice,
        OpenpgpSigner(keys["bob"].private) as bob,
        ThreadPoolExecutor(1) as thread,
    ):
        options = {"namespace": f"off by {off_ms}", "server_key": keys["server"].public}
        first = thread.submit(link, signing.url, "alice", signer=Abroad(alice, off_ms), **options)
        signing.until(waiting=1)
        second = link(signing.url, "bob", signer=Abroad(bob, off_ms), **options)
        assert (second.role, second.remote_key) == ("responder", alice.fingerprint)
        assert first.result().remote_key == bob.fingerprint


def test_a_clock_that_cannot_be_mended_is_named(
    signing: Server, keys: dict[str, KeyPair], off_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time
    with OpenpgpSigner(keys["alice"].private) as alice:
        signer = Abroad(alice, off_ms, is_stubborn=True)
        monkeypatch.setattr("signal_server.client.errors.time.time", lambda: now() + off_ms / 1000)
        with pytest.raises(SpaceriftError) as raised:
            link(signing.url, "alice", signer=signer)
    which = "behind" if off_ms > 0 else "ahead of"
    assert raised.value.type == "UNTRUSTED"
    assert re.search(rf"the server's clock is (8\d|9\d) s {which} this machine's", str(raised.value))


def test_a_signature_claims_the_time_of_the_clock_that_was_set(keys: dict[str, KeyPair]) -> None:
    with OpenpgpSigner(keys["alice"].private) as alice, OpenpgpSigner(keys["bob"].private) as bob:
        alice.set_clock(90_000)
        message = alice.sign("from the future")
        assert abs(read_message(message).signature.created - time.time() - 90) < 10
        with pytest.raises(Untrusted) as refused:
            bob.verify(message, alice.public_key())
        assert "future" in refused.value.reason
        bob.set_clock(90_000)
        assert bob.verify(message, alice.public_key()).text == "from the future"
