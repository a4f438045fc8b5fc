"""Who counts as the same peer, and where it is."""

from __future__ import annotations

import pytest

from signal_server.matching.identity import Caller, Identity, is_address, normal_address
from signal_server.matching.pairs import PEER_BYTES

HEADERS = ("agent", "accept", "language")


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:5555", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:80", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:0DB8:1:2::", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::9]:443", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("<script>", "<script>"),
        ("", ""),
    ],
)
def test_one_text_for_each_address(text: str, normal: str) -> None:
    assert normal_address(text) == normal
    assert is_address(text) == (normal not in ("", "<script>"))


def open_caller(
    identity: Identity,
    *,
    address: str = "192.0.2.1",
    fingerprint: str | None = "f",
    headers: tuple[str, ...] = HEADERS,
) -> Caller:
    return identity.caller(identity.headers(*headers), identity.address(address), fingerprint)


def signed_caller(identity: Identity, signer: str) -> Caller:
    return identity.signed_caller(signer, "f")


def test_a_peer_is_all_that_the_server_sees() -> None:
    identity = Identity("secret")
    base = open_caller(identity)
    callers = [
        base,
        open_caller(identity, address="192.0.2.2"),
        open_caller(identity, fingerprint="g"),
        open_caller(identity, fingerprint=None),
        open_caller(identity, headers=("other", "accept", "language")),
        open_caller(identity, headers=("agent", "other", "language")),
        open_caller(identity, headers=("agent", "accept", "other")),
        open_caller(identity, headers=("agenta", "ccept", "language")),
        signed_caller(identity, "A" * 40),
        signed_caller(identity, "B" * 40),
    ]
    assert len({each.peer for each in callers}) == len(callers)
    assert open_caller(Identity("secret")) == base
    assert open_caller(Identity("other")).peer != base.peer
    assert {len(each) for caller in callers for each in caller} == {PEER_BYTES}


def test_a_head_may_be_used_for_many() -> None:
    identity = Identity("secret")
    head, address = identity.headers(*HEADERS), identity.address("192.0.2.1")
    first, other = identity.caller(head, address, "f"), identity.caller(head, address, "g")
    assert first != other
    assert identity.caller(head, address, "f") == first


def test_an_empty_fingerprint_is_none() -> None:
    identity = Identity("secret")
    assert open_caller(identity, fingerprint="") == open_caller(identity, fingerprint=None)
    assert identity.leaver("") == identity.leaver(None)


def test_a_signer_is_the_same_peer_everywhere_and_a_nonce_may_move() -> None:
    identity = Identity("secret")
    here, there = "192.0.2.1", "198.51.100.1"
    signed = signed_caller(identity, "A" * 40)  # whose address nobody asks
    open_ = [open_caller(identity, address=each) for each in (here, there)]
    assert open_[0].bearer == open_[1].bearer != signed.bearer
    assert open_[0].peer != open_[1].peer


def test_whoever_has_the_fingerprint_may_end_a_request() -> None:
    identity = Identity("secret")
    assert identity.leaver("f") == Identity("secret").leaver("f")
    assert len({identity.leaver("f"), identity.leaver("g"), identity.leaver(None)}) == 3
    assert identity.leaver("f") != Identity("other").leaver("f")


def test_a_shared_store_does_not_learn_the_name_of_a_request() -> None:
    identity, name = Identity("secret"), "a-name-of-22-character"
    assert identity.request_name(name) == Identity("secret").request_name(name)
    assert identity.request_name(name) != identity.request_name(name[::-1])
    assert name not in identity.request_name(name)


def test_addresses_are_known_again_however_many_there_were() -> None:
    identity = Identity("secret")
    first = identity.address("192.0.2.1")
    names = {identity.address(f"10.0.{number >> 8}.{number & 255}") for number in range(5_000)}
    assert len(names) == 5_000
    assert identity.address("192.0.2.1") == identity.address("::ffff:192.0.2.1") == first
    assert len(identity._addresses) < 4_200


def test_a_hash_tells_the_address_to_nobody_without_the_secret() -> None:
    identity = Identity("secret")
    assert identity.address("192.0.2.1") != Identity("other").address("192.0.2.1")
