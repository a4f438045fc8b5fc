"""Who counts as the same peer, and where it is."""

from __future__ import annotations

import pytest

from signal_server.matching.identity import Identity, is_address, normal_address

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


def test_a_peer_is_all_that_the_server_sees() -> None:
    identity = Identity("secret")
    base = {"address": identity.address("192.0.2.1"), "fingerprint": "f", "headers": HEADERS}
    others = [
        base,
        base | {"address": identity.address("192.0.2.2")},
        base | {"fingerprint": "g"},
        base | {"fingerprint": None},
        base | {"headers": ("other", "accept", "language")},
        base | {"headers": ("agent", "other", "language")},
        base | {"headers": ("agent", "accept", "other")},
        base | {"headers": ("agenta", "ccept", "language")},
        base | {"signer": "A" * 40},
        base | {"signer": "B" * 40},
    ]
    peers = [identity.caller(**each).peer for each in others]  # type: ignore[arg-type]
    assert len(set(peers)) == len(peers)
    assert Identity("secret").caller(**base).peer == peers[0]  # type: ignore[arg-type]
    assert Identity("other").caller(**base).peer != peers[0]  # type: ignore[arg-type]


def test_a_signer_is_the_same_peer_everywhere_and_a_nonce_may_move() -> None:
    identity = Identity("secret")
    here, there = (identity.address(each) for each in ("192.0.2.1", "198.51.100.1"))
    signed = [
        identity.caller(address=a, fingerprint="f", headers=HEADERS, signer="A" * 40) for a in (here, there)
    ]
    assert signed[0].peer == signed[1].peer
    open_ = [identity.caller(address=a, fingerprint="f", headers=HEADERS) for a in (here, there)]
    assert open_[0].bearer == open_[1].bearer != signed[0].bearer
    assert open_[0].peer != open_[1].peer


def test_no_hash_tells_the_address() -> None:
    caller = Identity("secret").caller(address="192.0.2.1", fingerprint="f", headers=HEADERS)
    assert "192" not in caller.peer
    assert "192" not in Identity("secret").address("192.0.2.1")
