"""The Python client's option `resume`: the two ends of a lost link meet again, and nobody else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from key_pairs import key_pair
from live import Server
from signal_server.client import (
    Cancel,
    Cancelled,
    Exchange,
    SpaceriftError,
    connect,
    connect_async,
    dtls_fingerprint,
)
from signal_server.client.resume import Former
from signal_server.openpgp.signer import OpenpgpSigner

SOON = 10


def signal(kind: str, first: int, *, case: Callable[[str], str] = str.upper) -> str:
    """As a browser makes it, with a certificate whose SHA-256 begins with this byte."""
    hashed = ":".join(f"{first + number:02x}" for number in range(32))
    lines = ["v=0", "a=fingerprint:sha-512 00:11", f"a=fingerprint:{case('sha-256')} {case(hashed)}", ""]
    return json.dumps({"type": kind, "sdp": "\r\n".join(lines), "id": "x"})


OURS, THEIRS, STRANGERS = 0x10, 0x80, 0x40
LOST = Exchange("responder", signal("offer", THEIRS), signal("answer", OURS))
"""By us. The other end's is the same with the other role."""

THEIR_LOST = Exchange("initiator", LOST.offer, LOST.answer)


def blocking(url: str, certificate: int, lost: Exchange, **options: Any) -> Exchange:
    return connect(
        url,
        offer=lambda: signal("offer", certificate),
        answer=lambda _: signal("answer", certificate),
        resume=lost,
        timeout=SOON,
        **options,
    )


def asynchronous(url: str, certificate: int, lost: Exchange, **options: Any) -> Exchange:
    async def run() -> Exchange:
        async with asyncio.timeout(SOON):
            return await connect_async(
                url,
                offer=lambda: signal("offer", certificate),
                answer=lambda _: signal("answer", certificate),
                resume=lost,
                **options,
            )

    return asyncio.run(run())


@pytest.fixture(params=[blocking, asynchronous], ids=["blocking", "asyncio"])
def client(request: pytest.FixtureRequest) -> Callable[..., Exchange]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def test_the_room_is_made_of_both_certificates_in_order() -> None:
    room = Former(LOST).room
    assert room == Former(THEIR_LOST).room
    digits = room[-128:]
    assert digits[:64] == "".join(f"{0x10 + number:02x}" for number in range(32))
    assert digits[64:] == "".join(f"{0x80 + number:02x}" for number in range(32))
    assert len(room) < 256


def test_a_certificate_is_found_in_any_case_and_in_a_bare_sdp() -> None:
    lower = signal("offer", OURS, case=str.lower)
    assert dtls_fingerprint(lower) == dtls_fingerprint(signal("offer", OURS))
    assert dtls_fingerprint(json.loads(lower)["sdp"]) == dtls_fingerprint(lower)
    assert dtls_fingerprint("a=fingerprint:sha-256 00:11") is None


def test_the_two_ends_meet_again_though_they_are_remembered_as_a_pair(
    server: Server, client: Callable[..., Exchange], threads: ThreadPoolExecutor
) -> None:
    for _ in range(2):
        first = threads.submit(client, server.url, OURS, LOST)
        server.until(waiting=1)
        assert client(server.url, THEIRS, THEIR_LOST).role == "responder"
        assert first.result(SOON).role == "initiator"


def test_a_stranger_who_knows_the_room_is_bounced(
    server: Server, client: Callable[..., Exchange], threads: ThreadPoolExecutor
) -> None:
    with server.offer(signal("offer", STRANGERS), NAMESPACE=Former(LOST).room) as stranger:
        server.until(waiting=1)
        ours = threads.submit(client, server.url, OURS, LOST)
        server.until(waiting=2)
        assert stranger.is_held()
        stranger.close()
        server.until(waiting=1)
    assert client(server.url, THEIRS, THEIR_LOST).role == "responder"
    assert ours.result(SOON).role == "initiator"


def test_a_stranger_who_answers_is_not_taken(
    server: Server, client: Callable[..., Exchange], threads: ThreadPoolExecutor
) -> None:
    reasons: list[str] = []

    def watch(state: str, why: SpaceriftError | None) -> None:
        if why is not None:
            reasons.append(str(why))

    ours = threads.submit(client, server.url, OURS, LOST, on_state=watch)
    server.until(waiting=1)
    stranger = {"TYPE": "CONNECT", "FINGERPRINT": "stranger", "NAMESPACE": Former(LOST).room}
    demote = server.post(stranger, SIGNAL=signal("offer", STRANGERS))
    answer = signal("answer", STRANGERS)
    assert server.post(stranger, SIGNAL=answer, NONCE=demote["NONCE"]).type == "DELIVERED"
    server.until(waiting=1)
    assert client(server.url, THEIRS, THEIR_LOST).role == "responder"
    assert ours.result(SOON).role == "initiator"
    assert reasons == ["another peer answered than the one of the lost link"]


def test_a_signed_peer_must_have_the_same_key(threads: ThreadPoolExecutor) -> None:
    alice, bob, mallory = (key_pair(name) for name in ("alice", "bob", "server"))
    with (
        Server(SIGNATURES="required") as server,
        OpenpgpSigner(alice.private) as alices,
        OpenpgpSigner(bob.private) as bobs,
        OpenpgpSigner(mallory.private) as mallorys,
    ):
        lost = Exchange("responder", LOST.offer, LOST.answer, bobs.fingerprint)
        of_bob = Exchange("initiator", LOST.offer, LOST.answer, alices.fingerprint)
        cancel = Cancel()
        stolen = threads.submit(blocking, server.url, THEIRS, of_bob, signer=mallorys, cancel=cancel)
        server.until(waiting=1)
        ours = threads.submit(blocking, server.url, OURS, lost, signer=alices)
        server.until(waiting=2)
        assert blocking(server.url, THEIRS, of_bob, signer=bobs).remote_key == alices.fingerprint
        assert ours.result(SOON).remote_key == bobs.fingerprint
        cancel.cancel()
        with pytest.raises(Cancelled):
            stolen.result(SOON)


def test_what_cannot_be_resumed_is_refused(client: Callable[..., Exchange]) -> None:
    with pytest.raises(ValueError, match="sha-256"):
        client("http://127.0.0.1:9/", OURS, Exchange("initiator", "offer", LOST.answer))
    with pytest.raises(ValueError, match="namespace of its own"):
        client("http://127.0.0.1:9/", OURS, LOST, namespace="chess")
    with pytest.raises(ValueError, match="certificate that it was made with"):
        client("http://127.0.0.1:9/", STRANGERS, LOST)
