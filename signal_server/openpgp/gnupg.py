"""The default engine: GnuPG, run by a helper process; see `gnupg_helper`."""

from __future__ import annotations

import json
import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ..errors import ConfigurationError, Unavailable, Untrusted
from .certificate import CERTIFICATIONS, Certificate, Component
from .certificate_reader import read_certificate, split_certificates
from .gnupg_helper import GPG_SECONDS, discard, from_base64, to_base64
from .key_packet import Key
from .keyring import Engine, Signed
from .message import Message
from .packets import USER_ID
from .signature_packet import Signature

AT_ONCE: Final = 4
"""Signatures that gpg works on at the same time."""

START_SECONDS: Final = 60.0
"""For loading keys, of which there may be thousands."""


class GnupgEngine(Engine):
    """Keeps a helper process running, and asks it.

    Args:
        private_key: in armour; without it, nothing is signed.
        passphrase: of the private key.

    Raises:
        ConfigurationError: gpg is not there, or cannot use the private key. Never with a part of it.
    """

    takes_new = False
    at_once = AT_ONCE

    def __init__(self, private_key: str | None = None, passphrase: str | None = None) -> None:
        for program in ("gpg", "gpgv", "gpgconf"):
            if shutil.which(program) is None:
                raise ConfigurationError(
                    f"SPACERIFT_SIGNATURES needs GnuPG, and there is no {program} on the PATH"
                )
        self._private_key = private_key
        self._passphrase = passphrase
        self._public_key: str | None = None
        self._lock = threading.Lock()
        self._is_closed = False
        try:
            self._helper: Helper | None = self._start()
        except Untrusted as error:
            raise ConfigurationError(f"SPACERIFT_PRIVATE_KEY: {error.reason}") from None
        except Unavailable as error:
            raise ConfigurationError(f"SPACERIFT_SIGNATURES: {error.reason}") from None

    @property
    def public_key(self) -> str | None:
        return self._public_key

    def verify(self, message: Message, signer: Key, key: bytes) -> Signed:
        reply = self._ask(do="verify", key=to_base64(key), message=to_base64(message.plain(signer)))
        return Signed(from_base64(reply["text"]), reply["fingerprint"], reply["signed_at"])

    def sign(self, text: str, *, at: int | None = None) -> str:
        # Not counted: a reply belongs to a request that was let in.
        asked = {"do": "sign", "text": text} if at is None else {"do": "sign", "text": text, "at": str(at)}
        return str(self._ask(**asked)["message"])

    def tidy(self, keys: bytes) -> bytes:
        reply = self._current().ask({"do": "tidy", "keys": to_base64(keys)}, START_SECONDS)
        minimal = {each.fingerprint: each for each in _certificates(reply["minimal"])}
        tidied = [without_false(each, minimal[each.fingerprint]) for each in _certificates(reply["keys"])]
        return b"".join(each.whole for each in tidied if each.is_stated)

    def is_ready(self) -> bool:
        try:
            return self._current().is_running()
        except (Unavailable, Untrusted):
            return False

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            if self._helper is not None:
                self._helper.close()

    def _ask(self, **request: str) -> dict[str, Any]:
        return self._current().ask(request, GPG_SECONDS + 1)

    def _current(self) -> Helper:
        """The helper, a new one if the last one ended or belongs to the process that we were forked from."""
        with self._lock:
            if self._is_closed:
                raise Unavailable("shutting down")
            if self._helper is None or not self._helper.is_running():
                if self._helper is not None:
                    self._helper.close()
                self._helper = self._start()
            return self._helper

    def _start(self) -> Helper:
        helper = Helper()
        if self._private_key is not None:
            request = {"do": "load", "private_key": self._private_key, "passphrase": self._passphrase}
            try:
                loaded = helper.ask(request, START_SECONDS)
                self._public_key, helper.home = loaded["public_key"], loaded["home"]
            except BaseException:
                helper.close()
                raise
        return helper


def _certificates(keys: str) -> list[Certificate]:
    return [read_certificate(each) for each in split_certificates(from_base64(keys))]


def without_false(full: Certificate, minimal: Certificate) -> Certificate:
    """A key without self-signatures that do not hold, which gpg keeps beside one that does.

    Only one that is the newest would count; and the newest that holds stands in the minimal form. There, gpg
    2.4 leaves a name bare if none holds; gpg 2.2 has left the name out of both.
    """
    newest = {
        each.packet: each.newest(*CERTIFICATIONS)[0].created
        for each in minimal.components
        if each.packet.tag == USER_ID
    }

    def holds(component: Component, signature: Signature) -> bool:
        return component.packet.tag != USER_ID or signature.created <= newest[component.packet]

    kept = [each for each in full.components if each.packet.tag != USER_ID or each.packet in newest]
    return replace(
        full,
        components=tuple(each.saying(*(of for of in each.signatures if holds(each, of))) for each in kept),
    )


class Helper:
    """A helper process, and our ends of its sockets. Each socket carries one question at a time.

    Attributes:
        home: the directory of its private key. It removes that itself, unless it was killed.
    """

    def __init__(self) -> None:
        self.home: str | None = None
        pairs = [socket.socketpair() for _ in range(AT_ONCE)]
        theirs = [their.fileno() for _, their in pairs]
        script = Path(__file__).with_name("gnupg_helper.py")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(script), *map(str, theirs)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={name: value for name, value in os.environ.items() if not name.startswith("SPACERIFT_")},
                pass_fds=theirs,
                start_new_session=True,
            )
        except OSError as error:
            raise Unavailable(f"no helper process: {error.strerror}") from None
        finally:
            for _, their in pairs:
                their.close()
        self._owner = os.getpid()
        self._ours = [ours for ours, _ in pairs]
        self._idle: queue.Queue[socket.socket] = queue.Queue()
        for ours in self._ours:
            self._idle.put(ours)
        self._is_broken = False

    def is_running(self) -> bool:
        return not self._is_broken and self._owner == os.getpid()

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Put a question, wait for a free socket and for the answer.

        Raises:
            Untrusted: the input is refused.
            Unavailable: no answer came, or gpg failed.
        """
        try:
            channel = self._idle.get(timeout=seconds)
        except queue.Empty:
            raise Unavailable("gpg has too much to do") from None
        reply = self._exchange(channel, request, seconds)
        self._idle.put(channel)
        if "refused" in reply:
            raise Untrusted(reply["refused"])
        if "failed" in reply:
            raise Unavailable(reply["failed"])
        return reply

    def close(self) -> None:
        """Close our ends, upon which it tidies up and ends."""
        self._is_broken = True
        if self._owner != os.getpid():
            return
        for ours in self._ours:
            ours.close()
        try:
            self._process.wait(GPG_SECONDS + 2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self.home is not None and Path(self.home).exists():
            discard(self.home)

    def _exchange(self, channel: socket.socket, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """One line out, one line in. Whatever interrupts this, the socket is not used again, since the next
        to read from it would get the answer to this question."""
        name = os.urandom(8).hex()
        is_done = False
        try:
            channel.settimeout(seconds)
            channel.sendall(json.dumps({"id": name} | request).encode() + b"\n")
            line = _read_line(channel)
            reply: dict[str, Any] = json.loads(line)
            is_done = reply.get("id") == name
        except (OSError, ValueError):
            raise Unavailable("the helper process ended") from None
        finally:
            self._is_broken = self._is_broken or not is_done
        return reply


def _read_line(channel: socket.socket) -> bytes:
    pieces: list[bytes] = []
    while not pieces or not pieces[-1].endswith(b"\n"):
        piece = channel.recv(1 << 16)
        if not piece:
            raise ConnectionError
        pieces.append(piece)
    return b"".join(pieces)
