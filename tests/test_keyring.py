"""The keyring: what it verifies, what it refuses, and what is left of it afterwards."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from crafted import Author, Rsa, armour
from fuzz_openpgp import hunt
from live import ROOT
from signal_server.errors import ConfigurationError, Unavailable, Untrusted
from signal_server.openpgp.armour import dearmour
from signal_server.openpgp.gnupg import AT_ONCE, IDLE, GnupgEngine, Helper, Leisure
from signal_server.openpgp.gnupg_helper import GPG_SECONDS, Refused, read_status
from signal_server.openpgp.keyring import Engine, Keyring
from signal_server.openpgp.sequoia import SequoiaEngine
from signal_server.openpgp.trust import open_keyring
from signed_peer import make_private_key
from vectors import Vector, compare, flips, shared_vectors, to_flip, verdict

TEXT = b"chess"

Open = Callable[..., Keyring]


@pytest.fixture(scope="session")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> tuple[Vector, ...]:
    return shared_vectors(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def engines() -> Iterator[dict[str, Engine]]:
    made: dict[str, Engine] = {"gnupg": GnupgEngine(), "sequoia": SequoiaEngine()}
    yield made
    for engine in made.values():
        engine.close()


@pytest.fixture(scope="session")
def alice() -> Author:
    return Author(Rsa())


@pytest.fixture(scope="session")
def eve() -> Author:
    return Author(Rsa())


@pytest.fixture(scope="session")
def private_key() -> str:
    """One with a passphrase."""
    return make_private_key("open sesame")


@pytest.fixture(params=["gnupg", "sequoia"])
def opened(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens keyrings of one engine, and closes them."""
    keyrings: list[Keyring] = []

    def open_one(
        trusted: str | None = None, private_key: str | None = None, passphrase: str | None = None
    ) -> Keyring:
        keyring = open_keyring(
            openpgp=request.param, trusted_keys=trusted, private_key=private_key, passphrase=passphrase
        )
        keyrings.append(keyring)
        return keyring

    yield open_one
    for each in keyrings:
        each.close()


def public(author: Author) -> str:
    return armour(author.certificate(), "PUBLIC KEY BLOCK")


def message(author: Author, text: bytes = TEXT) -> str:
    return armour(author.message(text))


# --- what is verified --------------------------------------------------------------------------------------


def test_every_vector_has_its_verdict_and_both_engines_agree(
    vectors: tuple[Vector, ...], engines: dict[str, Engine]
) -> None:
    wrong, counts = compare(engines, vectors)
    assert not wrong
    assert counts["vectors"] >= 1250
    assert counts["accepted"] >= 640
    assert counts["for Sequoia alone"] >= 140
    assert counts["refused by the engine"] >= 10


REFUSED_BY_DESIGN = {
    "by hand: says nothing of signing": "key not for signing",
    "sq no name": "key without a name",
    "sqop no name": "key without a name",
    "pgpainless-cli no name": "key without a name",
    "by hand: compression 0": "compression",
    "gpg bzip2": "compression",
    "gpg dsa2048": "signature algorithm",
    "gpg brainpoolP256r1": "key algorithm",
    "gpg secp256k1": "key algorithm",
    "gpg rsa1024": "key size",
    "gpg ripemd": "hash",
    "gpg a name signed with sha1": "hash of the self-signature",
    "by hand: too long": "key size",
    "gpg by two": "several signatures",
    "gpg clearsigned": "armour",
    "python-gnupg by default": "armour",
    "gpg detached": "armour",
    "openpgp.js a critical notation": "critical subpacket",
    "pysequoia 100 years": "validity past 2106",
    "pysequoia ML-DSA": "signature algorithm",
}
"""Common software makes these. Each has one word for the log, whatever the engine."""


def test_what_is_refused_by_design_has_one_word(
    vectors: tuple[Vector, ...], engines: dict[str, Engine]
) -> None:
    made = {each.name: each for each in vectors}
    for engine in engines.values():
        assert {name: verdict(engine, made[name]) for name in REFUSED_BY_DESIGN} == REFUSED_BY_DESIGN


def test_no_flipped_bit_changes_what_is_read(vectors: tuple[Vector, ...], engines: dict[str, Engine]) -> None:
    wrong, counts = compare(engines, flips(to_flip(vectors), step=97))
    assert not wrong
    assert counts["vectors"] >= 400
    assert counts["refused by the engine"] >= 50


def test_keys_and_messages_by_chance(engines: dict[str, Engine]) -> None:
    counts = Counter[str]()
    hunt(engines, examples=60, start=1, counts=counts)
    assert counts["vectors"] >= 120
    assert counts["accepted"] >= 1  # of 20; Hypothesis also reads our modules


def test_the_comparison_notices_a_wrong_verdict(engines: dict[str, Engine], alice: Author) -> None:
    right = Vector("right", message(alice), public(alice), TEXT)
    assert compare(engines, [right])[0] == []
    assert len(compare(engines, [Vector("", right.message, right.key, None)])[0]) == 2
    assert len(compare(engines, [Vector("", right.message, right.key, b"other")])[0]) == 2
    assert len(compare(engines, [Vector("", "", right.key, TEXT)])[0]) == 2
    assert len(compare(engines, [Vector("", right.message, right.key, TEXT, "0" * 40)])[0]) == 2


# --- trust -------------------------------------------------------------------------------------------------


def test_without_trusted_keys_each_key_speaks_for_itself(opened: Open, alice: Author, eve: Author) -> None:
    keyring = opened()
    assert keyring.verify(message(alice), public(alice)).fingerprint == alice.fingerprint
    assert keyring.verify(message(eve), public(eve)).fingerprint == eve.fingerprint


def test_only_trusted_keys_are_let_in(opened: Open, alice: Author, eve: Author) -> None:
    keyring = opened(public(alice))
    assert keyring.verify(message(alice), public(alice)).text == TEXT
    with pytest.raises(Untrusted) as refusal:
        keyring.verify(message(eve), public(eve))
    assert refusal.value.reason == "not a trusted key"


def test_the_key_that_is_shown_is_never_used_beside_the_trusted_one(
    opened: Open, alice: Author, eve: Author
) -> None:
    keyring = opened(public(alice))
    grafted = armour(alice.certificate() + alice.subkey(eve), "PUBLIC KEY BLOCK")
    assert opened().verify(message(eve), grafted).fingerprint == alice.fingerprint
    with pytest.raises(Untrusted):
        keyring.verify(message(eve), grafted)
    with pytest.raises(Untrusted):
        keyring.verify(message(eve), public(eve))


def test_trusted_keys_lie_in_a_folder(opened: Open, alice: Author, eve: Author, tmp_path: Path) -> None:
    (tmp_path / "alice.asc").write_text(public(alice))
    (tmp_path / "both.asc").write_text("Two keys:\n" + public(eve) + public(alice))
    (tmp_path / ".hidden").write_text("nothing")
    keyring = opened(str(tmp_path))
    assert set(keyring.trusted or ()) == {alice.fingerprint, eve.fingerprint}
    assert keyring.verify(message(eve), public(eve)).text == TEXT


def test_a_trusted_key_may_be_written_in_one_line(opened: Open, alice: Author) -> None:
    keyring = opened(public(alice).replace("\n", "\\n"))
    assert keyring.verify(message(alice), public(alice)).text == TEXT


def test_an_empty_folder_trusts_nobody(opened: Open, alice: Author, tmp_path: Path) -> None:
    keyring = opened(str(tmp_path))
    with pytest.raises(Untrusted):
        keyring.verify(message(alice), public(alice))


def test_a_trusted_key_that_was_revoked_is_refused(opened: Open, alice: Author) -> None:
    revoked = alice.primary + alice.on_self(0x20, hashed=b"\x02\x1d\x00") + alice.name()
    keyring = opened(armour(revoked, "PUBLIC KEY BLOCK"))
    with pytest.raises(Untrusted) as refusal:
        keyring.verify(message(alice), public(alice))
    assert refusal.value.reason == "key revoked"


# --- settings that cannot be used --------------------------------------------------------------------------


def test_each_bad_setting_is_one_line_without_a_key(
    opened: Open, alice: Author, private_key: str, tmp_path: Path
) -> None:
    (tmp_path / "bob.asc").write_text("hello")
    unsigned = armour(alice.primary + alice.name(spoil=True), "PUBLIC KEY BLOCK")
    in_base64 = b64encode(private_key.encode()).decode()
    neither_keys = "SPACERIFT_TRUSTED_KEYS is neither armoured keys nor a folder that is there"
    neither_key = "SPACERIFT_PRIVATE_KEY is neither an armoured key nor a file that is there"
    cases: list[tuple[str, dict[str, str]]] = [
        (neither_keys, {"trusted": "/nonexistent"}),
        (neither_keys, {"trusted": str(tmp_path / "bob.asc")}),
        (neither_keys, {"trusted": in_base64}),
        (neither_keys, {"trusted": "a\0b"}),
        ("SPACERIFT_TRUSTED_KEYS: bob.asc: no armoured", {"trusted": str(tmp_path)}),
        ("holds a private key", {"trusted": private_key}),
        (f"the key {alice.fingerprint} is not signed by itself", {"trusted": unsigned}),
        ("not a key that can be used", {"trusted": public(alice).replace("\n\n", "\n\n!!", 1)}),
        (neither_key, {"private_key": "/nonexistent"}),
        (neither_key, {"private_key": in_base64}),
        (neither_key, {"private_key": "a\0b"}),
        ("SPACERIFT_PRIVATE_KEY: cannot read it: Is a directory", {"private_key": str(tmp_path)}),
        ("SPACERIFT_PRIVATE_KEY: ", {"private_key": private_key}),
        ("SPACERIFT_PRIVATE_KEY: ", {"private_key": private_key, "passphrase": "wrong"}),
        ("SPACERIFT_PRIVATE_KEY: ", {"private_key": public(alice)}),
        ("SPACERIFT_PRIVATE_KEY: ", {"private_key": "-----BEGIN nothing"}),
    ]
    for expected, given in cases:
        with pytest.raises(ConfigurationError) as error:
            opened(**given)
        line = str(error.value)
        assert expected in line
        assert "\n" not in line
        assert "BEGIN" not in line
        assert in_base64[:20] not in line
        assert "wrong" not in line
        assert error.value.__cause__ is None


def test_a_private_key_that_peers_could_not_verify_stops_the_start(opened: Open) -> None:
    with pytest.raises(ConfigurationError, match="SPACERIFT_PRIVATE_KEY: "):
        opened(private_key=make_private_key("", "brainpoolP256r1"), passphrase="")


def test_a_machine_without_gpg_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ConfigurationError, match="needs GnuPG, and there is no gpg "):
        GnupgEngine()


# --- signing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "x", '{"TYPE":"DEMOTE"}', "名 ☕", "x" * 5000])
def test_what_is_signed_can_be_verified(opened: Open, private_key: str, text: str) -> None:
    keyring = opened(private_key=private_key, passphrase="open sesame")
    signed = keyring.verify(keyring.sign(text), keyring.public_key() or "")
    assert signed.text == text.encode()
    assert abs(signed.signed_at - time.time()) < 5


def test_a_private_key_without_a_passphrase(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "key.asc"
    path.write_text(make_private_key("", "rsa2048"))
    keyring = opened(private_key=str(path))
    assert keyring.verify(keyring.sign("x"), keyring.public_key() or "").text == b"x"


def test_without_a_private_key_there_is_no_public_one(opened: Open) -> None:
    assert opened().public_key() is None


# --- gpg's words -------------------------------------------------------------------------------------------

GOOD = """[GNUPG:] PLAINTEXT 62 1
[GNUPG:] PLAINTEXT_LENGTH 5
[GNUPG:] NEWSIG
[GNUPG:] KEY_CONSIDERED A 0
[GNUPG:] SIG_ID x 2026-01-01 5
[GNUPG:] GOODSIG B x
[GNUPG:] VALIDSIG SUB 2026-01-01 5 0 4 0 22 10 00 PRIMARY
"""


def test_the_primary_key_is_read_from_validsig() -> None:
    assert read_status(GOOD.encode()) == ("PRIMARY", 5)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("GOODSIG", "BADSIG"),
        ("GOODSIG", "EXPSIG"),
        ("GOODSIG", "EXPKEYSIG"),
        ("GOODSIG", "REVKEYSIG"),
        ("[GNUPG:] GOODSIG B x\n", ""),
        ("[GNUPG:] NEWSIG\n", ""),
        ("[GNUPG:] NEWSIG\n", "[GNUPG:] NEWSIG\n[GNUPG:] NEWSIG\n"),
        ("[GNUPG:] PLAINTEXT 62 1\n", ""),
        ("[GNUPG:] VALIDSIG", "[GNUPG:] NODATA 1\n[GNUPG:] VALIDSIG"),
        ("PRIMARY\n", "PRIMARY\n[GNUPG:] NO_PUBKEY A\n"),
        ("PRIMARY\n", "PRIMARY\n[GNUPG:] VALIDSIG SUB 2026-01-01 5 0 4 0 22 10 00 OTHER\n"),
        ("PRIMARY\n", "PRIMARY\n[GNUPG:] GOODSIG B x\n"),
        ("PRIMARY\n", "PRIMARY\ngpgv: hello\n"),
        ("PRIMARY\n", "PRIMARY\n\n"),
        (" 22 10 ", " 22 2 "),
        (" 10 00 ", " 10 10 "),
        (" 0 4 0 ", " 0 3 0 "),
        (" PRIMARY", ""),
        (GOOD, ""),
    ],
)
def test_anything_else_is_refused(old: str, new: str) -> None:
    assert old in GOOD
    with pytest.raises(Refused):
        read_status(GOOD.replace(old, new).encode())


# --- what it leaves, and what it takes ---------------------------------------------------------------------


def children(pid: int) -> set[int]:
    """The processes below a process, dead ones left out."""
    table = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if fields[0] not in "ZX":
                table[int(entry.name)] = int(fields[1])
    found: set[int] = set()
    while more := {each for each, parent in table.items() if parent in found | {pid}} - found:
        found |= more
    return found


def traces(pids: set[int]) -> set[str]:
    """What stays if these processes do not tidy up: their homes for gpg, and the agents that work in them."""
    names = tuple(f"spacerift-{each}-" for each in pids)
    homes = (each for folder in ("/dev/shm", "/tmp") for each in Path(folder).glob("spacerift-*/"))
    return {str(each) for each in homes if each.name.startswith(names)} | {
        line for line in agents() if any(each in line for each in names)
    }


def agents() -> Iterator[str]:
    """The command lines of the gpg-agents that run."""
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes()
        except (OSError, NotADirectoryError):
            continue
        if b"gpg-agent" in line:
            yield line.decode()


def until(condition: Callable[[], bool], seconds: float = 6) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


SIGNING = """
import os, sys, time
from signal_server.openpgp.trust import open_keyring
keyring = open_keyring(openpgp="gnupg", trusted_keys=None, private_key=sys.argv[1], passphrase="open sesame")
keyring.sign("x")
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_the_worker_is_killed(
    number: signal.Signals, private_key: str, tmp_path: Path
) -> None:
    path = tmp_path / "key.asc"
    path.write_text(private_key)
    worker = subprocess.Popen([sys.executable, "-c", SIGNING, str(path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"ready\n"
    started = children(worker.pid)
    assert started
    pids = started | {worker.pid}
    assert any("gpg-agent" in each for each in traces(pids))
    worker.send_signal(number)
    worker.wait(10)
    until(lambda: not any(Path(f"/proc/{each}").exists() for each in started))
    until(lambda: not traces(pids))
    worker.stdout.close()


def test_nothing_is_left_when_it_is_closed(private_key: str) -> None:
    before = children(os.getpid())
    engine = GnupgEngine(private_key, "open sesame")
    engine.sign("x")
    pids = children(os.getpid()) - before
    assert any("gpg-agent" in each for each in traces(pids))
    engine.close()
    until(lambda: not traces(pids))
    assert children(os.getpid()) <= before


def test_verifying_starts_no_agent_and_leaves_no_file(alice: Author) -> None:
    engine = GnupgEngine()
    try:
        for _ in range(3):
            assert Keyring(engine, None).verify(message(alice), public(alice)).text == TEXT
        assert not any("gpg-agent" in command_of(each) for each in children(os.getpid()))
        assert not Path("/nonexistent").exists()
    finally:
        engine.close()


def test_a_helper_that_dies_is_replaced(private_key: str, alice: Author) -> None:
    before = children(os.getpid())
    engine = GnupgEngine(private_key, "open sesame", yields=True)
    keyring = Keyring(engine, None)
    try:
        helpers = [each for each in children(os.getpid()) - before if "helper.py" in command_of(each)]
        assert len(helpers) == 2
        pids = children(os.getpid()) - before
        assert any("gpg-agent" in each for each in traces(pids))
        for helper in helpers:
            os.kill(helper, signal.SIGKILL)
            until(lambda helper=helper: not Path(f"/proc/{helper}/exe").exists())  # type: ignore[misc]
        with pytest.raises(Unavailable):
            keyring.sign("x")
        assert keyring.verify(keyring.sign("x"), keyring.public_key() or "").text == b"x"
        assert keyring.verify(message(alice), public(alice)).text == TEXT
    finally:
        pids |= children(os.getpid()) - before
        engine.close()
    until(lambda: not traces(pids))


@pytest.mark.parametrize("kind", ["MESSAGE", "PUBLIC KEY BLOCK"])
def test_armour_as_most_write_it_is_no_other_armour(alice: Author, kind: str) -> None:
    text = message(alice) if kind == "MESSAGE" else public(alice)
    chance = random.Random(1)
    good = 0
    for _ in range(4000):
        changed = text
        for _ in range(chance.choice((0, 1, 1, 2))):
            at, piece = chance.randrange(len(text) + 1), chance.choice(PIECES)
            at = chance.choice((at, at, len(text) - at % 50, at % 50, text.rindex("\n=") + at % 3))
            changed = changed[:at] + piece + changed[at + chance.choice((0, 0, 1, 5)) :]
        found = dearmoured(changed, kind)
        good += isinstance(found, bytes)
        # A blank line before it is allowed, and leads away from the shorter way of reading.
        assert found == dearmoured("\n" + changed, kind)
    assert good > 400


PIECES = ["", "=", "==", "\n", "\n\n", "\n=\n", " ", "\r\n", "A", "é", "-", "A=\n", "\n=AAAA", "Comment: x\n"]


def dearmoured(text: str, kind: str) -> bytes | str:
    try:
        return dearmour(text, kind)
    except Untrusted as refusal:
        return refusal.reason


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


@pytest.fixture
def patient_gpg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A gpgv that says with which right it runs. If that is only when nobody else does, it waits for `go`."""
    script = tmp_path / "gpgv"
    script.write_text(
        f"""#!/bin/sh
policy=$(cut -d' ' -f41 /proc/$$/stat)
echo $policy >> {tmp_path}/ran
until test -f {tmp_path}/go || test $policy = 0; do sleep 0.05; done
exec {shutil.which("gpgv")} "$@"
"""
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="only Linux has it")
def test_verifying_yields_to_others_and_is_not_kept_waiting_for_ever(
    patient_gpg: Path, alice: Author, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle, busy = str(os.SCHED_IDLE), str(os.SCHED_OTHER)
    ran, go = patient_gpg / "ran", patient_gpg / "go"
    monkeypatch.setattr("signal_server.openpgp.gnupg.PAUSE_SECONDS", 0.0)
    engine = GnupgEngine(yields=True)
    keyring = Keyring(engine, None)

    def verified(leisure_seconds: float) -> list[str]:
        """With which right gpgs ran for one verification."""
        monkeypatch.setattr("signal_server.openpgp.gnupg.LEISURE_SECONDS", leisure_seconds)
        ran.write_text("")
        assert keyring.verify(message(alice), public(alice)).text == TEXT
        return ran.read_text().splitlines()

    try:
        go.touch()
        assert idle in verified(60)  # on a busy machine maybe in vain
        go.unlink()
        for _ in range(AT_ONCE):
            assert busy in verified(0.01)
            until(lambda: idle in ran.read_text().split(), seconds=60)
        started = time.monotonic()
        assert busy in verified(60)  # what the idle one can do at a time is late
        assert time.monotonic() - started < 30
        go.touch()
        until(lambda: idle in verified(60), seconds=60)
        assert all(idle in verified(60) for _ in range(2 * AT_ONCE))  # late answers are nobody's
    finally:
        go.touch()
        engine.close()


@pytest.mark.parametrize(
    ("late", "until"),
    [
        ([(0, 0.25)], 1.25),
        ([(0, 0.25), (0.1, 0.35)], 1.25),  # at the same time, for the same reason
        ([(0, 0.25), (1.25, 1.5)], 3.5),  # again: twice as long
        ([(0, 0.25), (100, 100.25)], 102.25),
        ([(0, 0), (1, 1), (3, 3), (7, 7), (15, 15)], 23),  # that long at most
        ([(0, 0), (1, 1), (3, 3), None, (7, 7)], 8),  # one was in time
        ([None, (7, 7)], 8),
    ],
)
def test_the_idle_helper_has_a_pause_after_it_was_late(
    late: list[tuple[float, float] | None], until: float
) -> None:
    leisure = Leisure()
    assert leisure.may_ask(0.0)
    for each in late:
        if each is None:
            leisure.was_in_time()
        else:
            leisure.was_late(*each)
            assert not leisure.may_ask(each[1])
    assert not leisure.may_ask(until - 0.01)
    assert leisure.may_ask(until)


SLOW = """
import json, socket, sys, threading, time

def serve(channel):
    channel.setblocking(True)
    for line in channel.makefile("rb"):
        asked = json.loads(line)
        reply = json.dumps({"id": asked["id"], "text": asked["text"]}).encode() + b"\\n"
        before, after, at = asked["waits"]
        time.sleep(before)
        channel.sendall(reply[:at])
        time.sleep(after)
        channel.sendall(reply[at:])

for number in sys.argv[2:]:
    threading.Thread(target=serve, args=(socket.socket(fileno=int(number)),)).start()
"""


@pytest.fixture
def slow_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Helper]:
    """An idle helper that echoes `text`: after so long, and in two parts with so long between them."""
    script = tmp_path / "gnupg_helper.py"
    script.write_text(SLOW)
    monkeypatch.setattr("signal_server.openpgp.gnupg.__file__", str(tmp_path / "gnupg.py"))
    helper = Helper(IDLE)
    yield helper
    helper.close()


@pytest.mark.parametrize("waits", [(2, 0, 0), (0, 2, 5), (0, 2, 10_000)])
def test_a_late_answer_is_nobodys(slow_helper: Helper, waits: tuple[float, float, int]) -> None:
    def ask(text: str, waits: tuple[float, float, int], seconds: float) -> str:
        return str(slow_helper.ask({"text": text, "waits": waits}, seconds)["text"])

    for number in range(AT_ONCE):
        with pytest.raises(Unavailable):
            ask(f"late {number} " + 20_000 * "x", waits, 0.1)
    started = time.monotonic()
    with pytest.raises(Unavailable):
        ask("no socket is free", (0, 0, 0), 60)
    assert time.monotonic() - started < 30
    assert slow_helper.is_running()

    def is_answered() -> bool:
        with suppress(Unavailable):
            return ask("in time", (0, 0, 0), 60) == "in time"
        return False

    until(is_answered, seconds=60)
    for number in range(4 * AT_ONCE):
        assert ask(f"in time {number}", (0, 0, 0), 60) == f"in time {number}"
    assert slow_helper.is_running()


def test_where_no_idle_helper_can_be_started_the_busy_one_verifies(
    alice: Author, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = subprocess.Popen

    def start_others(command: list[str], **options: Any) -> object:
        if IDLE in command:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return start(command, **options)

    monkeypatch.setattr("signal_server.openpgp.gnupg.subprocess.Popen", start_others)
    engine = GnupgEngine(yields=True)
    try:
        assert Keyring(engine, None).verify(message(alice), public(alice)).text == TEXT
    finally:
        engine.close()


def test_only_the_idle_helper_shares_the_session_of_the_worker() -> None:
    before = children(os.getpid())
    engine = GnupgEngine(yields=True)
    try:
        helpers = {command_of(each).split("\0")[3]: each for each in children(os.getpid()) - before}
        assert os.getsid(helpers["idle"]) == os.getsid(0)
        assert os.getsid(helpers["busy"]) == helpers["busy"]
        assert os.getpgid(helpers["idle"]) == helpers["idle"]  # so Ctrl-C is not told to it
    finally:
        engine.close()


@pytest.fixture
def hanging_gpg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A gpgv that never ends, and says which process it is."""
    script = tmp_path / "gpgv"
    script.write_text(f"#!/bin/sh\necho $$ >> {tmp_path}/pids\nexec sleep 1000\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def test_a_hung_gpg_is_killed_and_at_most_four_run(
    hanging_gpg: Path, alice: Author, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 32  # to start more threads would take as long as gpg may
    monkeypatch.setattr("signal_server.openpgp.keyring.MAX_QUEUE", most)
    engine = GnupgEngine()
    keyring = Keyring(engine, None)
    refusals: list[float] = []

    def verify(address: bytes) -> None:
        started = time.monotonic()
        with pytest.raises(Unavailable):
            keyring.verify(message(alice), public(alice), address)
        refusals.append(time.monotonic() - started)

    addresses = [bytes([number]) for number in range(AT_ONCE + most + 5)]
    threads = [threading.Thread(target=verify, args=(each,)) for each in addresses]
    try:
        for thread in threads:
            thread.start()
        until(lambda: len(refusals) >= 5, seconds=2)  # past the queue: at once
        pids = (hanging_gpg / "pids").read_text().split()
        assert len(pids) == AT_ONCE
        for thread in threads:
            thread.join(10)
        assert len(refusals) == len(threads)
        assert max(refusals) < 2 * GPG_SECONDS + 2
        for pid in (hanging_gpg / "pids").read_text().split():
            until(lambda pid=pid: not Path(f"/proc/{pid}").exists())  # type: ignore[misc]
    finally:
        engine.close()
