"""Signed requests: what they must say, by tables; and the whole of it through gunicorn and gpg."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crafted import armour
from live import NO_LIMITS, Server, eventually
from signal_server.app import create_app
from signal_server.errors import Untrusted
from signal_server.messages import Admitted, Request, Sealed, digest_of
from signal_server.openpgp.keyring import Signed
from signal_server.openpgp.signatures import agree, read_namespace, read_statement
from signal_server.openpgp.trust import open_keyring
from signal_server.settings import Settings
from signed_peer import SignedPeer, make_private_key
from test_keyring import children, traces, until

# --- what a request must say -------------------------------------------------------------------------------

NOW = 1_800_000_000
KEY = "A" * 40
SAID = {"TYPE": "CONNECT", "NAMESPACE": "chess", "SIGNAL": "offer", "TIME": NOW * 1000}


def judged(
    *,
    said: object = None,
    clear: Request | None = None,
    namespace: bytes = b"chess",
    signers: tuple[str, str] = (KEY, KEY),
    signed_at: tuple[int, int] = (NOW, NOW),
) -> tuple[Admitted, float]:
    text = said if isinstance(said, bytes) else json.dumps(SAID if said is None else said).encode()
    asked = clear or Request("CONNECT", "", sealed=Sealed("", "", ""))
    first = Signed(namespace, signers[0], signed_at[0])
    return agree(asked, first, Signed(text, signers[1], signed_at[1]), now_ms=NOW * 1000)


def test_a_request_is_what_its_messages_say() -> None:
    asked, again_ms = judged()
    assert (asked.digest, asked.request.nonce) == (b"", None)
    assert asked.signer == KEY
    assert asked.pool == "signed:chess"
    assert again_ms == 60_000


def test_a_clock_may_have_fractions_of_a_millisecond() -> None:
    asked, _ = judged(said=SAID | {"TIME": NOW * 1000 + 0.5})
    assert asked.pool == "signed:chess"


def test_the_default_pool_has_an_empty_name() -> None:
    asked, _ = judged(said=SAID | {"NAMESPACE": ""}, namespace=b"")
    assert asked.pool == "signed:"


def test_a_nonce_is_signed_too() -> None:
    sealed = Sealed("its namespace", "its signal", "its key")
    clear = Request("CONNECT", nonce="n", sealed=sealed)
    asked, _ = judged(said=SAID | {"NONCE": "n"}, clear=clear)
    assert asked.request.is_answer
    assert asked.digest == digest_of("offer"), "of what was signed, and not of its signature"
    assert Sealed.of_payload(asked.payload) == sealed


def test_clocks_may_differ_by_a_minute_and_a_namespace_lasts_an_hour() -> None:
    for seconds in (-60, 60):
        judged(said=SAID | {"TIME": (NOW + seconds) * 1000}, signed_at=(NOW, NOW + seconds))
    for seconds in (-3600, 60):
        judged(signed_at=(NOW + seconds, NOW))


@pytest.mark.parametrize(
    ("reason", "given"),
    [
        ("said otherwise in clear", {"said": SAID | {"TYPE": "BOUNCE"}}),
        ("said otherwise in clear", {"said": SAID | {"NAMESPACE": ""}}),
        ("said otherwise in clear", {"said": SAID | {"NAMESPACE": "Chess"}}),
        ("said otherwise in clear", {"namespace": b"chess "}),
        ("said otherwise in clear", {"said": SAID | {"NONCE": "n"}}),
        ("said otherwise in clear", {"clear": Request("CONNECT", "", nonce="n")}),
        (
            "said otherwise in clear",
            {"said": SAID | {"NONCE": "m"}, "clear": Request("CONNECT", "", nonce="n")},
        ),
        ("said otherwise in clear", {"clear": Request("BOUNCE", "")}),
        ("two signers", {"signers": (KEY, "B" * 40)}),
        ("not of now", {"said": SAID | {"TIME": NOW * 1000 - 60_001}}),
        ("not of now", {"said": SAID | {"TIME": NOW * 1000 + 60_001}}),
        ("not of now", {"said": SAID | {"TIME": NOW}}),
        ("not of now", {"signed_at": (NOW, NOW - 61)}),
        ("not of now", {"signed_at": (NOW, NOW + 61)}),
        ("namespace not of now", {"signed_at": (NOW - 3601, NOW)}),
        ("namespace not of now", {"signed_at": (NOW + 61, NOW)}),
        ("namespace", {"namespace": b"x" * 257}),
        ("namespace", {"namespace": b"\xff"}),
        ("statement", {"said": b""}),
        ("statement", {"said": b"chess"}),
        ("statement", {"said": b"[]"}),
        ("line ends", {"said": json.dumps(SAID).encode() + b"\n"}),
        ("line ends", {"said": json.dumps(SAID, indent=1).encode()}),
        ("line ends", {"namespace": b"chess\n"}),
        ("line ends", {"namespace": b"\n", "said": SAID | {"NAMESPACE": ""}}),
        ("said otherwise in clear", {"namespace": b"chess\n\n"}),
        ("statement", {"said": json.dumps(SAID | {"SIGNAL": "é"}, ensure_ascii=False).encode()}),
        ("statement", {"said": json.dumps(SAID)[:-1].encode() + b', "TYPE": "CONNECT"}'}),
        ("statement", {"said": SAID | {"SIGNAL": ""}}),
        ("statement", {"said": SAID | {"SIGNAL": None}}),
        ("statement", {"said": SAID | {"SIGNAL": {"sdp": ""}}}),
        ("statement", {"said": SAID | {"NAMESPACE": None}}),
        ("statement", {"said": SAID | {"NONCE": 5}}),
        ("statement", {"said": SAID | {"TIME": str(NOW * 1000)}}),
        ("statement", {"said": SAID | {"TIME": True}}),
        ("statement", {"said": SAID | {"TIME": None}}),
        *[("statement", {"said": {k: v for k, v in SAID.items() if k != name}}) for name in SAID],
    ],
)
def test_anything_else_is_untrusted(reason: str, given: dict[str, object]) -> None:
    with pytest.raises(Untrusted) as refusal:
        judged(**given)  # type: ignore[arg-type]
    assert refusal.value.reason == reason


def test_a_namespace_may_have_256_characters_of_any_script() -> None:
    assert read_namespace(("é" * 256).encode()) == "é" * 256


def test_an_unknown_field_is_ignored() -> None:
    assert read_statement(json.dumps(SAID | {"MOOD": "good"}).encode()).signal == "offer"


# --- through the server ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(SIGNATURES="optional", PRIVATE_KEY=make_private_key("")) as running:
        yield running


@pytest.fixture(scope="module")
def alice() -> SignedPeer:
    return SignedPeer("chess")


@pytest.fixture(scope="module")
def bob() -> SignedPeer:
    return SignedPeer("chess")


def named(**clear: object) -> dict[str, object]:
    """A FINGERPRINT that nobody has met yet."""
    return {"FINGERPRINT": hashlib.sha256(str(time.monotonic()).encode()).hexdigest(), **clear}


def demoted(server: Server, alice: SignedPeer, bob: SignedPeer, own: dict[str, object]):  # type: ignore[no-untyped-def]
    """Alice's held call, and the reply by which Bob is handed her offer."""
    call = server.call(alice.request("her offer", **named()))
    server.until(waiting=1)
    reply = server.post(bob.request("his offer", **own))
    assert reply.type == "DEMOTE"
    return call, reply


def test_two_signed_peers_get_each_others_messages_unchanged(
    server: Server, alice: SignedPeer, bob: SignedPeer
) -> None:
    own = named()
    hers = alice.request("her offer", **named())
    with server.call(hers) as call:
        server.until(waiting=1)
        demote = server.post(bob.request("his offer", **own))
        his = bob.request("his answer", nonce=demote["NONCE"], **own)
        delivered = server.post(his)
        answer = call.reply()
    for reply, sent in ((demote, hers), (answer, his)):
        for name in ("SIGNED_NAMESPACE", "SIGNED_SIGNAL", "PUBLIC_KEY"):
            assert reply[name] == sent[name]
        assert "SIGNAL" not in reply.json
    assert delivered.type == "DELIVERED"
    keyring = open_keyring(openpgp="gnupg", trusted_keys=None, private_key=None, passphrase=None)
    try:
        key = server.get("/key")
        assert key[0] == 200
        assert key[1]["content-type"] == "application/pgp-keys"
        assert key[1]["access-control-allow-origin"] == "*"
        for reply, about, to in ((demote, hers, bob), (answer, his, alice), (delivered, his, bob)):
            said = json.loads(keyring.verify(reply["SIGNED_REPLY"], key[2].decode()).text)
            digest = hashlib.sha256(about["SIGNED_SIGNAL"].encode()).hexdigest()
            assert said.pop("TIME") == pytest.approx(time.time() * 1000, abs=10_000)
            nonce = {"TYPE": reply.type, "NONCE": demote["NONCE"]}
            assert said == {**nonce, "SHA256": digest, "TO": to.fingerprint}
    finally:
        keyring.close()


def test_signed_and_open_peers_never_meet(server: Server, alice: SignedPeer) -> None:
    with server.call(alice.request()), server.offer("open", NAMESPACE="chess"):
        server.until(waiting=2)


def test_a_signed_peer_is_its_key_wherever_it_comes_from(server: Server, alice: SignedPeer) -> None:
    with (
        server.call(alice.request("1"), headers={"User-Agent": "one"}) as first,
        server.call(alice.request("2"), headers={"User-Agent": "other"}) as second,
    ):
        server.until(waiting=2)
        assert first.is_held()
        assert second.is_held()
    until(lambda: server.statistics()["waiting"] == 0)
    with server.call(alice.request("1", FINGERPRINT="one tab")):
        server.until(waiting=1)
        assert server.post(alice.request("2", FINGERPRINT="another tab")).type == "DEMOTE"


def test_a_nonce_is_bound_to_its_signer_and_fingerprint(
    server: Server, alice: SignedPeer, bob: SignedPeer
) -> None:
    own = named()
    call, demote = demoted(server, alice, bob, own)
    with call:
        nonce = demote["NONCE"]
        eve = SignedPeer("chess")
        elsewhere = SignedPeer("go", bob.author)
        for wrong in (
            eve.request("x", nonce=nonce, **own),
            bob.request("x", nonce=nonce),
            bob.request("x", nonce=nonce, FINGERPRINT="other"),
            elsewhere.request("x", nonce=nonce, **own),
            {"TYPE": "CONNECT", "SIGNAL": "x", "NONCE": nonce, "NAMESPACE": "chess", **own},
        ):
            assert server.post(wrong).type == "NO_NAMESPACE_PEER"
        assert server.post(bob.request("his answer", nonce=nonce, **own)).type == "DELIVERED"
        assert call.reply().type == "ANSWER"


def test_every_failed_check_gets_the_same_answer_and_the_log_knows_why(
    server: Server, alice: SignedPeer, bob: SignedPeer
) -> None:
    stranger = bob.request()
    late = SignedPeer("chess", alice.author)
    late.signed_namespace = late.sign("chess", at=time.time() - 3700)
    both = armour(alice.author.certificate() + bob.author.certificate(), "PUBLIC KEY BLOCK")
    text = alice.statement()
    cases = {
        "not by this key": alice.request(SIGNED_SIGNAL=stranger["SIGNED_SIGNAL"]),
        "two signers": alice.request(SIGNED_NAMESPACE=bob.signed_namespace),
        "armour": alice.request(SIGNED_SIGNAL=text),
        "key form": alice.request(PUBLIC_KEY=both),
        "statement": alice.request(SIGNED_SIGNAL=alice.signed_namespace),
        "said otherwise in clear": alice.request(SIGNED_NAMESPACE=alice.sign("go")),
        "namespace not of now": late.request(),
        "not of now": alice.request(SIGNED_SIGNAL=alice.sign(alice.statement(TIME=5))),
        "BADSIG": alice.request(SIGNED_SIGNAL=armour(alice.author.message(text.encode(), spoil=True))),
    }
    bodies = set()
    for reason, request in cases.items():
        if reason == "two signers":  # each by its own key, so that both verify
            continue
        reply = server.post(request)
        assert reply.status == 403, reason
        assert eventually(lambda reason=reason: f'why="{reason}"' in server.log)
        assert abs(reply["TIME"] - time.time() * 1000) < 10_000
        bodies.add(re.sub(rb'"TIME":\d{13}', b'"TIME":0', reply.body))
    assert bodies == {b'{"TYPE":"UNTRUSTED","TIME":0}'}
    for secret in ("BEGIN PGP", text, alice.fingerprint):
        assert secret not in server.log


@pytest.mark.parametrize("missing", ["TYPE", "SIGNED_NAMESPACE", "SIGNED_SIGNAL", "PUBLIC_KEY"])
def test_what_is_missing_is_named(server: Server, alice: SignedPeer, missing: str) -> None:
    for value in (None, ""):
        reply = server.post(alice.request(**{missing: value}))
        wanted = alice.request(**{missing: value})
        if value == "":
            reply = server.post({**wanted, missing: ""})
        assert reply.status == 499
        assert reply["PARAMETER"] == missing


def test_a_bounce_needs_its_nonce(server: Server, alice: SignedPeer) -> None:
    assert server.post(alice.request(type_="BOUNCE"))["PARAMETER"] == "NONCE"


@pytest.mark.parametrize("name", ["SIGNAL", "NAMESPACE"])
def test_open_and_signed_parameters_in_one_request_are_refused(
    server: Server, alice: SignedPeer, name: str
) -> None:
    assert server.post(alice.request(**{name: "x"})).status == 400
    with server.call({**alice.request(), name: ""}):
        server.until(waiting=1)  # an empty one is as if not sent


def test_a_wrong_type_comes_before_a_bad_signature(server: Server, alice: SignedPeer) -> None:
    assert server.post(alice.request(PUBLIC_KEY=5)).status == 400
    assert server.post(alice.request(SIGNED_SIGNAL="x", TYPE="HELLO")).status == 400


# --- replays -----------------------------------------------------------------------------------------------


def test_a_text_that_was_seen_before_is_refused(server: Server, alice: SignedPeer, bob: SignedPeer) -> None:
    request = alice.request(**named())
    with server.call(request):
        server.until(waiting=1)
        for again in (request, {**request, "SIGNED_SIGNAL": request["SIGNED_SIGNAL"] + "\n"}):
            reply = server.post(again)
            assert reply.status == 403
        assert eventually(lambda: 'why="replay"' in server.log)
        own = named()
        bounce = bob.request("his offer", **own)
        demote = server.post(bounce)
        bounced = bob.request("another", nonce=demote["NONCE"], type_="BOUNCE", **own)
        with server.call(bounced):
            server.until(waiting=2)
            assert server.post(bounced).status == 403


@pytest.mark.parametrize(("limit", "status"), [("MAX_WAITING", 503), ("HELD_PER_ADDRESS", 297)])
def test_what_was_refused_for_want_of_room_may_come_again(bob: SignedPeer, limit: str, status: int) -> None:
    with Server(SIGNATURES="optional", **{limit: 1}) as server:
        request = bob.request(**named())
        with server.offer("open"):
            server.until(waiting=1)
            assert [server.post(request).status for _ in range(3)] == [status] * 3
        server.until(waiting=0)
        with server.call(request) as call:
            server.until(waiting=1)
            assert call.is_held()
            assert server.post(request).status == 403


def test_a_delivered_answer_may_be_repeated(server: Server, alice: SignedPeer, bob: SignedPeer) -> None:
    own = named()
    call, demote = demoted(server, alice, bob, own)
    with call:
        answer = bob.request("his answer", nonce=demote["NONCE"], **own)
        assert server.post(answer).type == "DELIVERED"
        assert call.reply().type == "ANSWER"
        assert server.post(answer).type == "DELIVERED"  # the same to the byte
        signed_anew = bob.request("his answer", nonce=demote["NONCE"], **own)
        assert server.post(signed_anew).type == "DELIVERED"
        other = bob.request("another answer", nonce=demote["NONCE"], **own)
        assert server.post(other).type == "NO_NAMESPACE_PEER"
        assert server.post(other).status == 403


def test_an_answer_with_a_stale_nonce_is_no_replay_once_and_then_it_is(
    server: Server, bob: SignedPeer
) -> None:
    answer = bob.request("his answer", nonce="A" * 22, **named())
    assert server.post(answer).type == "NO_NAMESPACE_PEER"
    assert server.post(answer).status == 403


# --- settings ----------------------------------------------------------------------------------------------


def test_required_means_that_open_requests_are_refused(alice: SignedPeer) -> None:
    with Server(SIGNATURES="required", OPENPGP="sequoia") as server:
        reply = server.post(TYPE="CONNECT", SIGNAL="x")
        assert (reply.status, reply["PARAMETER"]) == (499, "SIGNED_NAMESPACE")
        assert server.post(SIGNAL="x")["PARAMETER"] == "TYPE"
        with server.call(alice.request()):
            server.until(waiting=1)
        assert server.get("/key")[0] == 404
        assert server.get("/ready")[0] == 200


def test_off_needs_no_gpg(monkeypatch: pytest.MonkeyPatch, alice: SignedPeer) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    before = children(os.getpid())
    client = create_app(Settings.from_env({})).test_client()
    assert client.get("/key").status_code == 404
    reply = client.post("/", json=alice.request())
    assert reply.status_code == 499
    assert reply.get_json()["PARAMETER"] == "SIGNAL"
    assert children(os.getpid()) == before


def test_the_limits_of_a_peer_come_after_its_signature(alice: SignedPeer) -> None:
    limits = {**NO_LIMITS, "REQUEST_LIMIT": "1 per minute"}
    with Server(limits=True, SIGNATURES="optional", REQUEST_TIMEOUT=0.2, **limits) as server:
        for _ in range(3):
            bad = alice.request(SIGNED_SIGNAL=armour(alice.author.message(b"{}", spoil=True)))
            assert server.post(bad).status == 403  # not counted
        assert server.post(alice.request()).status == 298
        assert server.post(alice.request()).status == 297
        bad = alice.request(SIGNED_SIGNAL=armour(alice.author.message(b"{}", spoil=True)))
        assert server.post(bad).status == 403


def test_only_trusted_keys_are_let_in_and_hup_reads_their_folder_again(
    tmp_path: Path, alice: SignedPeer, bob: SignedPeer
) -> None:
    (tmp_path / "alice.asc").write_text(alice.public_key)
    with Server(SIGNATURES="required", TRUSTED_KEYS=tmp_path, REQUEST_TIMEOUT=0.2) as server:
        assert server.post(alice.request()).status == 298
        assert server.post(bob.request()).status == 403
        (tmp_path / "bob.asc").write_text(bob.public_key)
        (tmp_path / "alice.asc").unlink()
        server.process.send_signal(signal.SIGHUP)
        until(lambda: server.post(bob.request()).status == 298, seconds=15)
        until(lambda: server.post(alice.request()).status == 403)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_nothing_is_left_when_the_server_ends(number: signal.Signals, alice: SignedPeer) -> None:
    with Server(SIGNATURES="required", PRIVATE_KEY=make_private_key("")) as server:
        with server.call(alice.request()):
            server.until(waiting=1)
            started = children(server.process.pid)
            pids = started | {server.process.pid}
            assert any("gpg-agent" in each for each in traces(pids))
            server.process.send_signal(number)
            server.process.wait(20)
        until(lambda: not any(Path(f"/proc/{each}").exists() for each in started))
        until(lambda: not traces(pids))


def test_a_bad_key_stops_the_start_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "bob.asc").write_text("hello")
    with pytest.raises(RuntimeError) as error, Server(SIGNATURES="required", TRUSTED_KEYS=tmp_path):
        pass
    assert "SPACERIFT_TRUSTED_KEYS: bob.asc: no armoured OpenPGP public key" in str(error.value)
    assert "Traceback" not in str(error.value)
