"""Odd keys, as trusted ones and as the server's own: both engines take and refuse the same."""

from __future__ import annotations

import ast
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pysequoia
import pytest
from click.testing import Result

from crafted import BORN, NOW, REVOKE_KEY, Author, Rsa, armour, packet, subpacket
from crafted_curves import Ecdsa, Ed448, Ed25519
from live import ROOT
from signal_server.app import create_app
from signal_server.errors import ConfigurationError, Untrusted
from signal_server.openpgp.certificate import NEEDS_SEQUOIA
from signal_server.openpgp.certificate_reader import read_certificate
from signal_server.openpgp.gnupg import without_false
from signal_server.openpgp.keyring import Keyring
from signal_server.openpgp.sequoia import SequoiaEngine
from signal_server.openpgp.trust import open_keyring
from signal_server.settings import Settings
from signed_peer import make_private_key

ENGINES = ["gnupg", "sequoia"]
TEXT = b"chess"
NAME = "x <x@x.invalid>"
MAY = subpacket(27, b"\x03")
HALF_A_DAY = subpacket(9, (43200).to_bytes(4, "big"))


@pytest.fixture(scope="module")
def alice() -> Author:
    return Author(Rsa())


def block(key: bytes) -> str:
    return armour(key, "PUBLIC KEY BLOCK")


def prolonged(alice: Author) -> bytes:
    """It ran out half a day ago, by the first of two statements."""
    later = alice.on_name(NAME, 0x13, hashed=MAY, created=NOW - 600)
    return alice.primary + alice.name(hashed=HALF_A_DAY) + later


def poisoned(alice: Author) -> bytes:
    """Somebody put statements beside its own that it never made, and newer ones."""
    false = {"hashed": subpacket(27, b"\x01"), "created": NOW - 600, "spoil": True}
    direct = alice.on_self(0x1F, **false)
    return alice.primary + direct + alice.name() + alice.on_name(NAME, 0x13, **false)


def with_many_names(alice: Author) -> bytes:
    return alice.certificate() + b"".join(alice.name(f"name {number}") for number in range(24))


def stated_directly(alice: Author) -> bytes:
    """No name says what it is for; and somebody put a newer statement beside the one that does."""
    false = alice.on_self(0x1F, hashed=subpacket(27, b"\x01"), created=NOW - 600, spoil=True)
    return alice.primary + false + alice.on_self(0x1F, hashed=MAY) + alice.name(flags=None)


@pytest.mark.parametrize("make", [prolonged, poisoned, with_many_names, stated_directly])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_key_is_the_same_among_the_trusted_and_by_itself(
    engine: str, make: Callable[[Author], bytes], alice: Author
) -> None:
    key, message = block(make(alice)), armour(alice.message(TEXT))
    with open_keyring(openpgp=engine, trusted_keys=key, private_key=None, passphrase=None) as keyring:
        assert keyring.verify(message, block(alice.certificate())).text == TEXT
        assert [keyring.state(each) for each in (keyring.trusted or {}).values()] == ["good"]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_key_in_two_files_is_revoked_if_one_says_so(engine: str, alice: Author, tmp_path: Path) -> None:
    revoked = alice.primary + alice.on_self(REVOKE_KEY, hashed=b"\x02\x1d\x00") + alice.name()
    (tmp_path / "a.asc").write_text(block(revoked))
    (tmp_path / "b.asc").write_text(block(alice.certificate()))
    with (
        open_keyring(
            openpgp=engine, trusted_keys=str(tmp_path), private_key=None, passphrase=None
        ) as keyring,
        pytest.raises(Untrusted) as refusal,
    ):
        keyring.verify(armour(alice.message(TEXT)), block(alice.certificate()))
    assert refusal.value.reason == "key revoked"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_private_key_needs_no_checksum(engine: str) -> None:
    for name in ("anna", "anna1", "anna12"):  # base64 ends in three ways, one of which gpg 2.2 misreads
        bare = re.sub(r"\n=[A-Za-z0-9+/]{4}\n", "\n", make_private_key("", name=name))
        with open_keyring(
            openpgp=engine, trusted_keys=None, private_key="A key:\n" + bare, passphrase=None
        ) as keyring:
            assert keyring.verify(keyring.sign("x"), keyring.public_key() or "").text == b"x"


def test_what_is_known_of_a_key_does_not_outlive_it(alice: Author) -> None:
    """A key comes again and again; what it allows changes with the time, and with when it signed."""
    now = float(NOW)
    lasting = subpacket(9, (NOW - BORN + 100).to_bytes(4, "big"))
    renewed = alice.on_name(NAME, 0x13, hashed=MAY + lasting, created=NOW - 600)
    key = block(alice.primary + alice.name(flags=1) + renewed)
    keyring = Keyring(SequoiaEngine(), None, clock=lambda: now)

    def verdict(signed_at: int) -> str:
        try:
            return keyring.verify(armour(alice.message(TEXT, created=signed_at)), key).text.decode()
        except Untrusted as refusal:
            return refusal.reason

    for _ in range(2):
        assert verdict(NOW) == "chess"
        assert verdict(NOW - 700) == "key not for signing"  # by the statement of that time
    now += 99
    assert verdict(NOW) == "chess"
    now += 1
    assert verdict(NOW) == "key expired"


def test_a_name_that_gpg_leaves_bare_is_not_the_key_s(alice: Author) -> None:
    """gpg 2.4.7 imports a key whose self-signature does not hold, unlike 2.2, and exports it like this."""
    bare = alice.primary + packet(13, NAME.encode())
    full = alice.primary + alice.name(spoil=True)
    assert not without_false(read_certificate(full), read_certificate(bare)).is_stated
    both = without_false(read_certificate(full + alice.name("y")), read_certificate(bare + alice.name("y")))
    assert both.is_stated
    assert both.name == "y"
    assert len(both.components) == 2


# --- the command line --------------------------------------------------------------------------------------


def spacerift(*arguments: str, given: str | None = None, **settings: object) -> Result:
    environ = {f"SPACERIFT_{name}": str(value) for name, value in settings.items()}
    app = create_app(Settings.from_env(environ))
    try:
        return app.test_cli_runner().invoke(args=["spacerift", *arguments], input=given)
    finally:
        if signatures := app.extensions["spacerift"].signatures:
            signatures.close()


def odd_keys() -> dict[str, str]:
    """Keys that are refused, by what `keys import` must say of them."""
    alice = Author(Rsa())
    weak, strange = Author(Ecdsa("P-384")), Author(Ecdsa("secp256k1"))
    six = Author(Ed25519(new=True), version=6)
    return {
        "key without a name": block(alice.primary),
        "key without a direct signature": block(six.primary + six.name()),
        "hash of the self-signature": block(weak.primary + weak.name(hash_="sha256")),
        "is not signed by itself": block(alice.primary + alice.name(spoil=True)),
        "key algorithm": block(strange.certificate()),
        "key version": block(packet(6, b"\x05" + six.body[1:]) + six.name()),
        "key size": block(Author(Rsa(1024)).certificate()),
        "critical subpacket": block(
            alice.primary + alice.name(hashed=subpacket(20, b"\x80" + bytes(4) + b"\1\0\0a", critical=True))
        ),
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_keys_import_says_what_is_wrong_with_a_key(engine: str, tmp_path: Path) -> None:
    for words, key in odd_keys().items():
        done = spacerift("keys", "import", "-", given=key, TRUSTED_KEYS=tmp_path, OPENPGP=engine)
        if engine == "gnupg" and "direct" in words:
            words = "needs sequoia"
        assert done.exit_code != 0
        assert words in done.output
        assert done.output.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_a_key_of_a_clock_that_is_ahead_is_imported(engine: str, tmp_path: Path) -> None:
    soon = int(time.time()) + 40
    young = Author(Rsa(), soon)
    key = block(young.primary + young.name(created=soon))
    done = spacerift("keys", "import", "-", given=key, TRUSTED_KEYS=tmp_path, OPENPGP=engine)
    assert done.exit_code == 0, done.output
    listed = spacerift("keys", "list", "--json", TRUSTED_KEYS=tmp_path, OPENPGP=engine)
    assert [each["fingerprint"] for each in json.loads(listed.output)] == [young.fingerprint]


def test_both_engines_show_the_same_name(tmp_path: Path) -> None:
    alice = Author(Rsa())
    first = alice.name("zoe", hashed=subpacket(25, b"\x01"), created=BORN)
    key = block(alice.primary + alice.name("b", created=BORN + 60) + first + alice.name("a"))
    (tmp_path / "alice.asc").write_text(key)
    for engine in ENGINES:
        listed = spacerift("keys", "list", "--json", TRUSTED_KEYS=tmp_path, OPENPGP=engine)
        assert [each["name"] for each in json.loads(listed.output)] == ["zoe"]


@pytest.mark.parametrize("engine", ENGINES)
def test_doctor_tells_of_trusted_keys_that_may_not_sign(engine: str, tmp_path: Path) -> None:
    good, old = Author(Rsa()), Author(Rsa())
    (tmp_path / "good.asc").write_text(block(good.certificate()))
    settings = {"SIGNATURES": "required", "OPENPGP": engine, "TRUSTED_KEYS": tmp_path}
    (line,) = (each for each in spacerift("doctor", **settings).output.splitlines() if "trusted keys" in each)
    assert "1, which may sign now, with either engine" in line
    (tmp_path / "old.asc").write_text(block(old.primary + old.name(hashed=HALF_A_DAY)))
    (line,) = (each for each in spacerift("doctor", **settings).output.splitlines() if "trusted keys" in each)
    assert f"{old.fingerprint}: key expired" in line
    assert good.fingerprint not in line


# --- what came with RFC 9580 -------------------------------------------------------------------------------


def new_keys() -> dict[str, Author]:
    return {
        "version 6": Author(Ed25519(new=True), version=6),
        "RSA of version 6": Author(Rsa(), version=6),
        "Ed25519 in its new form": Author(Ed25519(new=True)),
        "Ed448": Author(Ed448()),
    }


def test_sequoia_trusts_new_keys_by_their_whole_fingerprints(tmp_path: Path) -> None:
    settings = {"TRUSTED_KEYS": tmp_path, "OPENPGP": "sequoia"}
    made = new_keys()
    for author in made.values():
        done = spacerift("keys", "import", "-", given=block(author.certificate()), **settings)
        assert done.exit_code == 0, done.output
        assert author.fingerprint in done.output
        assert (tmp_path / f"{author.fingerprint}.asc").exists()
    listed = json.loads(spacerift("keys", "list", "--json", **settings).output)
    assert {each["fingerprint"] for each in listed} == {each.fingerprint for each in made.values()}
    assert {len(each["fingerprint"]) for each in listed} == {40, 64}
    assert {each["state"] for each in listed} == {"good"}
    stranger = Author(Ed25519(new=True), version=6)
    with open_keyring(
        openpgp="sequoia", trusted_keys=str(tmp_path), private_key=None, passphrase=None
    ) as keyring:
        for author in made.values():
            signed = keyring.verify(armour(author.message(TEXT)), block(author.certificate()))
            assert (signed.text, signed.fingerprint) == (TEXT, author.fingerprint)
        with pytest.raises(Untrusted) as refusal:
            keyring.verify(armour(stranger.message(TEXT)), block(stranger.certificate()))
    assert refusal.value.reason == "not a trusted key"


def test_gnupg_says_that_a_new_key_needs_sequoia(tmp_path: Path) -> None:
    old = Author(Rsa())
    (tmp_path / "old.asc").write_text(block(old.certificate()))
    for name, author in new_keys().items():
        key = block(author.certificate())
        done = spacerift("keys", "import", "-", given=key, TRUSTED_KEYS=tmp_path, OPENPGP="gnupg")
        assert done.exit_code != 0, name
        assert done.output.rstrip().endswith(f"the key {author.fingerprint} cannot be used: needs sequoia")
        with open_keyring(openpgp="gnupg", trusted_keys=None, private_key=None, passphrase=None) as keyring:
            with pytest.raises(Untrusted) as refusal:
                keyring.verify(armour(author.message(TEXT)), key)
            assert refusal.value.reason == "needs sequoia"
            assert keyring.verify(armour(old.message(TEXT)), block(old.certificate())).text == TEXT
    assert [each.name for each in tmp_path.iterdir()] == ["old.asc"]


def test_doctor_tells_of_keys_that_gnupg_could_not_use(tmp_path: Path) -> None:
    old, six, sub = Author(Rsa()), Author(Ed25519(new=True), version=6), Author(Ed25519(new=True))
    mixed = old.primary + old.name(flags=1) + old.subkey(sub)  # an old key that signs with a new one
    (tmp_path / "six.asc").write_text(block(six.certificate()))
    (tmp_path / "mixed.asc").write_text(block(mixed))
    settings = {"SIGNATURES": "required", "TRUSTED_KEYS": tmp_path}

    def line(engine: str) -> str:
        told = spacerift("doctor", OPENPGP=engine, **settings).output.splitlines()
        return next(each for each in told if "trusted keys" in each)

    told = line("sequoia")
    assert f"with gnupg, {six.fingerprint} cannot be used: needs sequoia" in told
    assert f"with gnupg, {old.fingerprint} may not sign: needs sequoia" in told
    (tmp_path / "six.asc").unlink()
    assert f"{old.fingerprint}: needs sequoia" in line("gnupg")


def test_a_new_private_key_signs_with_sequoia_and_is_refused_by_gnupg() -> None:
    for cipher_suite in (pysequoia.CipherSuite.Cv25519, pysequoia.CipherSuite.RSA2k):
        secret = pysequoia.Tsk.generate(
            "server", profile=pysequoia.Profile.RFC9580, cipher_suite=cipher_suite
        )
        private_key = str(secret)
        with open_keyring(
            openpgp="sequoia", trusted_keys=None, private_key=private_key, passphrase=None
        ) as keyring:
            signed = keyring.verify(keyring.sign("x"), keyring.public_key() or "")
            assert signed.fingerprint == secret.extract_certificate().fingerprint.upper()
        with pytest.raises(ConfigurationError, match=r"SPACERIFT_PRIVATE_KEY: .*needs sequoia"):
            open_keyring(openpgp="gnupg", trusted_keys=None, private_key=private_key, passphrase=None)


# --- the words ---------------------------------------------------------------------------------------------


def test_every_reason_stands_in_the_document() -> None:
    said = set()
    for path in (ROOT / "signal_server" / "openpgp").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                texts = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)]
                if name in ("Untrusted", "check_end"):
                    said |= {text for text in texts if isinstance(text, str)}
    document = (ROOT / "docs" / "signatures.md").read_text()
    table = document.split("| reason |")[1].split("\n\n")[0]
    told = {word for row in table.splitlines()[2:] for word in re.findall(r"`([^`]+)`", row.split("|")[1])}
    assert said - {"sequoia: ", "refused"} | {NEEDS_SEQUOIA} == told
