"""A process that runs gpg for a worker: `python helper.py idle|busy FD…`, a socket for each gpg at a time.

Why a process of its own. A worker that holds ten thousand requests is large, and forking it stalls all of
them: 12 ms for each gpg at 400 MB, against 0.02 ms for a line to this small process. And when a worker is
killed, its sockets close, so that the gpg-agent and the private key's copy go even then.

It knows nothing of the server, imports nothing of it, and takes one JSON object a line:

    {"do": "load", "private_key": …, "passphrase": …}  →  {"public_key": …, "home": path}
    {"do": "tidy", "keys": base64}                     →  {"keys": base64, "minimal": base64}
    {"do": "verify", "key": base64, "message": base64} →  {"text": base64, "fingerprint": …, "signed_at": …}
    {"do": "sign", "text": …, "at": seconds}           →  {"message": armour}   (`at` may be missing)

or, to any of them, {"refused": reason} (the input is to blame) or {"failed": reason} (it is not).
"""

from __future__ import annotations

import base64
import contextlib
import errno
import functools
import json
import os
import re
import select
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any, Final

import gnupg

GPG_SECONDS: Final = 3.0
"""A gpg that takes longer hangs, and is killed."""

NICENESS: Final = os.nice(0) + 15
"""Of a gpg that takes long: the worker and the helper go first."""

ENVIRONMENT: Final = {"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath), "HOME": "/nonexistent"}

KEY_ROUNDS: Final = 65536
"""With gpg-agent's own number, made to take long, a key with a passphrase signs in 0.3 s instead of 5 ms. The
copy that we sign with lies in memory, and its passphrase in our environment."""

GPG_OPTIONS: Final = [
    "--no-options",
    "--batch",
    "--no-tty",
    "--quiet",
    "--disable-dirmngr",
    "--lock-never",
    "--no-random-seed-file",
    "--no-auto-check-trustdb",
    "--ignore-time-conflict",  # of a clock that is a minute ahead; we check times ourselves
    "--ignore-valid-from",
    "--no-auto-key-retrieve",
    "--no-auto-key-locate",
    "--trust-model=always",
    "--pinentry-mode=loopback",
    "--digest-algo=SHA512",
]

STATUS_IN_ORDER: Final = ["PLAINTEXT", "NEWSIG", "GOODSIG", "VALIDSIG"]
STATUS_BESIDE: Final = {
    "PLAINTEXT_LENGTH",
    "KEY_CONSIDERED",
    "SIG_ID",
    "NOTATION_NAME",  # openpgp.js and Sequoia put a salt into a notation
    "NOTATION_FLAGS",
    "NOTATION_DATA",
    "POLICY_URL",
    "SIG_SUBPACKET",  # a key server's URL
}

HASHES: Final = {"8", "9", "10"}
CLASSES: Final = {"00", "01"}


class Refused(Exception):
    """The input does not hold. The text is a reason for the log: a word of ours or of gpg's."""


class Failed(Exception):
    """gpg could not do its work."""


# --- gpg ---------------------------------------------------------------------------------------------------


def run(command: list[str], given: bytes, *, files: tuple[int, ...] = ()) -> tuple[int, bytes]:
    """Run a program with this on its standard input.

    Its input and output are files in memory, for a pipe would wake us for each piece, and it is spawned
    without `subprocess`: that takes two thirds of the time.

    Returns:
        Its exit code and its standard output.

    Raises:
        Failed: it is not there, or it was killed, by us if it took too long.
    """
    name = command[0]
    with source_of(given) as source, memory_file() as output:
        # What it gets twice under one number is what it inherits; and nothing else is.
        places = ((source.fileno(), 0), (output.fileno(), 1), *((each, each) for each in files))
        actions: list[Any] = [(os.POSIX_SPAWN_DUP2, here, there) for here, there in places]
        actions.append((os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0))
        try:
            pid = os.posix_spawn(
                path_of(name),
                command,
                ENVIRONMENT,
                file_actions=actions,
                setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),  # which Python ignores
            )
        except OSError as error:
            raise Failed(f"{name} does not run: {error.strerror}") from None
        with contextlib.suppress(OSError):  # it may be done already
            os.setpriority(os.PRIO_PROCESS, pid, NICENESS)
        in_time = ends(pid, GPG_SECONDS)
        if not in_time:
            os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if not in_time:
            raise Failed(f"{name} took more than {GPG_SECONDS:g} s")
        if code < 0:
            raise Failed(f"{name} was killed by signal {-code}")
        output.seek(0)
        return code, output.read()


def ends(pid: int, seconds: float) -> bool:
    """Does this child end in time? It is not reaped."""
    try:
        watched = os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux, or a sandbox that has none
        deadline = time.monotonic() + seconds
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        return True
    try:
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(watched)


@functools.cache
def path_of(program: str) -> str:
    """Where a program is: each `execve` that looks for it costs as much as a line to the worker."""
    path = shutil.which(program, path=ENVIRONMENT["PATH"])
    if path is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return path


def source_of(content: bytes) -> IO[bytes]:
    """A file to be read. It may hold a passphrase, which does not go to a disk."""
    if hasattr(os, "memfd_create"):
        return memory_file(content)
    reader, writer = os.pipe()

    def feed() -> None:
        with contextlib.suppress(OSError), open(writer, "wb") as end:
            end.write(content)

    threading.Thread(target=feed, daemon=True).start()
    return open(reader, "rb")


def memory_file(content: bytes = b"") -> IO[bytes]:
    """A file without a name: nothing is left of it when it is closed, however that comes about."""
    if hasattr(os, "memfd_create"):
        file: IO[bytes] = open(os.memfd_create("spacerift"), "w+b")  # noqa: SIM115
    else:
        file = tempfile.TemporaryFile()  # noqa: SIM115
    file.write(content)
    file.flush()
    file.seek(0)
    return file


def verify(key: bytes, message: bytes) -> dict[str, Any]:
    """Verify a message with exactly this key, by `gpgv`: it has no agent, and no files of its own."""
    with memory_file(key) as ring, memory_file() as status:
        command = ["gpgv", "--homedir=/nonexistent", f"--keyring=/dev/fd/{ring.fileno()}"]
        command += [f"--status-fd={status.fileno()}", "--weak-digest=SHA1", "--output=-"]
        # Times are checked by who asks, with some tolerance for clocks.
        command += ["--ignore-time-conflict"]
        code, text = run(command, message, files=(ring.fileno(), status.fileno()))
        status.seek(0)
        fingerprint, signed_at = read_status(status.read())
    if code != 0:
        raise Refused(f"gpgv ended with {code}")
    return {"text": to_base64(text), "fingerprint": fingerprint, "signed_at": signed_at}


def read_status(status: bytes) -> tuple[str, int]:
    """The primary key's fingerprint and the signature's time, from what gpg says on its status descriptor.

    Everything that is not expected is a refusal. gpg's exit code, its words and python-gnupg's `valid` all
    say yes to some of: an expired key, a revoked one, two signatures, text around a signature.

    Raises:
        Refused: it is not one good signature.
    """
    seen: dict[str, list[str]] = {}
    for line in (
        status.decode("latin-1").removesuffix("\n").split("\n")
    ):  # and not at what Latin-1 has beside it
        prefix, _, rest = line.partition(" ")
        keyword, *fields = rest.split(" ")
        if prefix != "[GNUPG:]" or keyword not in (*STATUS_BESIDE, *STATUS_IN_ORDER):
            raise Refused(keyword[:20] if keyword.isascii() and keyword.isupper() else "status")
        if keyword in STATUS_BESIDE:
            continue
        if len(seen) == len(STATUS_IN_ORDER) or keyword != STATUS_IN_ORDER[len(seen)]:
            raise Refused("status order")
        seen[keyword] = fields
    if len(seen) != len(STATUS_IN_ORDER):
        raise Refused("no good signature")
    valid = seen["VALIDSIG"]
    # key date time expires version - algorithm hash class primary
    if len(valid) != 10 or valid[4] != "4" or valid[7] not in HASHES or valid[8] not in CLASSES:
        raise Refused("VALIDSIG")
    return valid[9], int(valid[2])


# --- keys --------------------------------------------------------------------------------------------------


class Home:
    """A directory for gpg that is gone when it is closed, with the agent that gpg starts in it."""

    def __init__(self) -> None:
        memory = "/dev/shm"
        self.path = tempfile.mkdtemp(
            prefix=f"spacerift-{os.getpid()}-", dir=memory if os.access(memory, os.W_OK | os.X_OK) else None
        )
        Path(self.path, "gpg-agent.conf").write_text(f"s2k-count {KEY_ROUNDS}\n")
        try:
            # Its text stays in latin-1, in which nothing can fail; we give and take ASCII and bytes.
            self.gpg = gnupg.GPG(gnupghome=self.path, options=GPG_OPTIONS, env=ENVIRONMENT)
        except (OSError, ValueError):
            shutil.rmtree(self.path, ignore_errors=True)
            raise Failed("gpg does not run: is GnuPG installed?") from None

    def __enter__(self) -> Home:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        discard(self.path)

    def add(self, keys: bytes) -> list[str]:
        """Import keys, and give the fingerprints of the primary ones."""
        found = self.gpg.import_keys(keys).fingerprints
        return [each for each in dict.fromkeys(found) if each]

    def export(self, *fingerprints: str, armour: bool, minimal: bool) -> Any:
        """Public keys. `minimal`: without what was said before the newest self-signature."""
        return self.gpg.export_keys(list(fingerprints), armor=armour, minimal=minimal)


def discard(home: str) -> None:
    """Remove a home, and end the agent that works in it."""
    for order in (["--kill", "all"], ["--remove-socketdir"]):
        with contextlib.suppress(Failed):
            run(["gpgconf", f"--homedir={home}", *order], b"")
    shutil.rmtree(home, ignore_errors=True)


class Signer:
    """The server's private key."""

    def __init__(self, private_key: str, passphrase: str | None) -> None:
        self.passphrase = passphrase or ""
        if re.search(r"[\r\n\0]", self.passphrase):
            raise Refused("the passphrase has a line break")
        self.home = Home()
        try:
            self.fingerprint = self._load(private_key)
            self.public_key = str(self.home.export(self.fingerprint, armour=True, minimal=True)).replace(
                "\r\n", "\n"
            )
            self.sign("ready")
        except BaseException:
            self.home.close()
            raise

    def sign(self, text: str, at: str | None = None) -> str:
        options = ["--armor", "--compress-level=0", f"--local-user={self.fingerprint}"]
        if at is not None:
            options.append(f"--faked-system-time={at}")
        return self._gpg(*options, "--sign", text=text).decode("ascii")

    def _gpg(self, *arguments: str, text: str = "") -> bytes:
        command = ["gpg", f"--homedir={self.home.path}", *GPG_OPTIONS, "--passphrase-fd=0", *arguments]
        code, output = run(command, f"{self.passphrase}\n{text}".encode())
        if code != 0:
            raise Refused("it cannot sign: is the passphrase right?")
        return output

    def _load(self, private_key: str) -> str:
        self.home.add(private_key.encode("ascii", "replace"))
        keys = self.home.gpg.list_keys(secret=True)
        if len(keys) != 1:
            raise Refused(f"one OpenPGP private key is needed, and gpg can read {len(keys)}")
        fingerprint = str(keys[0]["fingerprint"])
        if self.passphrase:
            # The same one again: this is what makes KEY_ROUNDS hold for a key that was imported.
            self._gpg("--passwd", fingerprint)
        return fingerprint


def make_private_key(name: str, passphrase: str | None) -> str:
    """A new private key that only signs, in armour."""
    if not (name + (passphrase or "")).isascii() or re.search(r"[\0-\x1f<>()]", name + (passphrase or "")):
        raise Refused("the name or the passphrase has a character that is none of ASCII, or a bracket")
    wanted = [
        "Key-Type: EDDSA",
        "Key-Curve: ed25519",
        "Key-Usage: sign",
        f"Name-Real: {name}",
        "Expire-Date: 0",
    ]
    wanted += ["%no-protection" if passphrase is None else f"Passphrase: {passphrase}", "%commit", ""]
    with Home() as home:
        Path(home.path, "gpg-agent.conf").unlink()  # here gpg-agent's own count of rounds is the right one
        made = home.gpg.gen_key("\n".join(wanted))
        if not made.fingerprint:
            raise Failed("gpg made no key: is the name shorter than 5 characters?")
        return str(home.gpg.export_keys(made.fingerprint, secret=True, passphrase=passphrase or ""))


def tidy(keys: bytes) -> dict[str, bytes]:
    """Public keys as gpg gives them back: no key that is not signed by itself, none twice.

    With `minimal`, each name has its newest self-signature that holds, and no other.
    """
    with Home() as home:
        found = home.add(keys)
        return {
            name: bytes(home.export(*found, armour=False, minimal=name == "minimal")) if found else b""
            for name in ("keys", "minimal")
        }


# --- the process -------------------------------------------------------------------------------------------


class Desk:
    """What can be asked."""

    def __init__(self) -> None:
        self.signer: Signer | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "verify":
                return verify(from_base64(request["key"]), from_base64(request["message"]))
            case "sign" if self.signer is not None:
                return {"message": self.signer.sign(request["text"], request.get("at"))}
            case "tidy":
                return {name: to_base64(each) for name, each in tidy(from_base64(request["keys"])).items()}
            case "load":
                self.signer = Signer(request["private_key"], request["passphrase"])
                return {"public_key": self.signer.public_key, "home": self.signer.home.path}
        raise Failed("no such request")

    def serve(self, channel: socket.socket) -> None:
        """Answer one request after the other, until the worker closes its end."""
        with contextlib.suppress(OSError), channel, channel.makefile("rb") as lines:
            for line in lines:
                channel.sendall(json.dumps(self._reply(json.loads(line))).encode() + b"\n")

    def _reply(self, request: dict[str, Any]) -> dict[str, Any]:
        name = {"id": request["id"]}
        try:
            return name | self.answer(request)
        except Refused as error:
            return name | {"refused": str(error)}
        except Failed as error:
            return name | {"failed": str(error)}
        except Exception as error:  # noqa: BLE001
            # python-gnupg's may be of any kind, and its text may hold anything.
            return name | {"failed": type(error).__name__}


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def from_base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def be_idle() -> None:
    """Run when nobody else wants to. Each gpg inherits that: many have ended before they could be told."""
    os.nice(19)  # as far as it goes
    with contextlib.suppress(AttributeError, OSError):  # not Linux, or a sandbox that does not allow it
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # A platform tells every process to end; we do when the worker has. gpg would inherit SIG_IGN.
        signal.signal(number, lambda *_: None)
    if sys.argv[1] == "idle":
        be_idle()
    desk = Desk()
    channels = [socket.socket(fileno=int(each)) for each in sys.argv[2:]]
    for channel in channels:
        channel.setblocking(True)  # a worker under gevent makes them otherwise
        channel.set_inheritable(False)
    threads = [threading.Thread(target=desk.serve, args=(each,)) for each in channels]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if desk.signer is not None:
        desk.signer.home.close()


if __name__ == "__main__":
    main()
