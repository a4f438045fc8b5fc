"""The default engine: GnuPG, run by a helper process; see `gnupg_helper`.

Where there are unsigned peers, too, a second one verifies, which runs only when the core has nothing else to
do: so bad signatures, however many, take nothing from them. What this idle one has not done in a quarter of a
second the busy one does, which does all the rest.
"""

from __future__ import annotations

import json
import math
import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
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

BUSY: Final = "busy"
IDLE: Final = "idle"
"""The helpers: one that does everything, and one that verifies when its core has nothing else to do."""

AT_ONCE: Final = 4
"""Signatures that a helper process works on at the same time."""

START_SECONDS: Final = 60.0
"""For loading keys, of which there may be thousands."""

LEISURE_SECONDS: Final = 0.25
"""How long a verification may take that runs when nobody else does."""

PAUSE_SECONDS: Final = 1.0
"""After one that took longer none is tried for so long; twice as long each time, until one is in time."""

LONGEST_PAUSE_SECONDS: Final = 8.0


class GnupgEngine(Engine):
    """Keeps its helper processes running, and asks them.

    Args:
        private_key: in armour; without it, nothing is signed.
        passphrase: of the private key.
        yields: verify when there is nothing else to do, as far as possible.

    Raises:
        ConfigurationError: gpg is not there, or cannot use the private key. Never with a part of it.
    """

    takes_new = False
    at_once = AT_ONCE

    def __init__(
        self, private_key: str | None = None, passphrase: str | None = None, *, yields: bool = False
    ) -> None:
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
        self._helpers: dict[str, Helper] = {}
        self._leisure = Leisure() if yields else None
        try:
            self._current()
        except Untrusted as error:
            raise ConfigurationError(f"SPACERIFT_PRIVATE_KEY: {error.reason}") from None
        except Unavailable as error:
            raise ConfigurationError(f"SPACERIFT_SIGNATURES: {error.reason}") from None
        if yields:
            with suppress(Unavailable):
                self._current(IDLE)

    @property
    def public_key(self) -> str | None:
        return self._public_key

    def verify(self, message: Message, signer: Key, key: bytes) -> Signed:
        request = {"do": "verify", "key": to_base64(key), "message": to_base64(message.plain(signer))}
        reply = self._at_leisure(request) or self._ask(request)
        return Signed(from_base64(reply["text"]), reply["fingerprint"], reply["signed_at"])

    def sign(self, text: str, *, at: int | None = None) -> str:
        # Not counted: a reply belongs to a request that was let in.
        asked = {"do": "sign", "text": text} if at is None else {"do": "sign", "text": text, "at": str(at)}
        return str(self._ask(asked)["message"])

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
        for helper in self._helpers.values():
            helper.close()

    def _ask(self, request: dict[str, str]) -> dict[str, Any]:
        return self._current().ask(request, GPG_SECONDS + 1)

    def _at_leisure(self, request: dict[str, str]) -> dict[str, Any] | None:
        """Ask the idle helper. None: there is none, or it did not get to it."""
        began = time.monotonic()
        if self._leisure is None or not self._leisure.may_ask(began):
            return None
        try:
            reply = self._current(IDLE).ask(request, LEISURE_SECONDS)
        except Unavailable:
            self._leisure.was_late(began, time.monotonic())
            return None
        except Untrusted:
            self._leisure.was_in_time()
            raise
        self._leisure.was_in_time()
        return reply

    def _current(self, kind: str = BUSY) -> Helper:
        """The helper, a new one if the last one ended or belongs to the process that we were forked from."""
        with self._lock:
            if self._is_closed:
                raise Unavailable("shutting down")
            last = self._helpers.get(kind)
            if last is not None and last.is_running():
                return last
            helper = self._helpers[kind] = self._start(kind)
        if last is not None:
            # Aside, for it may have no time to run, and ends when it has.
            threading.Thread(target=last.close).start()
        return helper

    def _start(self, kind: str) -> Helper:
        helper = Helper(kind)
        if self._private_key is not None and kind == BUSY:
            request = {"do": "load", "private_key": self._private_key, "passphrase": self._passphrase}
            try:
                loaded = helper.ask(request, START_SECONDS)
                self._public_key, helper.home = loaded["public_key"], loaded["home"]
            except BaseException:
                helper.close()
                raise
        return helper


class Leisure:
    """Whether the idle helper is asked: not for a while after it was late, and longer if it is late again."""

    def __init__(self) -> None:
        self._pause, self._until = 0.0, -math.inf

    def may_ask(self, now: float) -> bool:
        return now >= self._until

    def was_late(self, began: float, now: float) -> None:
        """A verification has waited in vain from `began` to `now`, in seconds of one clock."""
        if began >= self._until:  # else one that waited at the same time has said so
            self._pause = min(2 * self._pause or PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
            self._until = now + self._pause

    def was_in_time(self) -> None:
        self._pause = 0.0


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

    Args:
        kind: `BUSY`, or `IDLE`.

    Attributes:
        home: the directory of its private key. It removes that itself, unless it was killed.
    """

    def __init__(self, kind: str) -> None:
        self.home: str | None = None
        self._kind = kind
        self._ours: list[socket.socket] = []
        theirs: list[socket.socket] = []
        try:
            for _ in range(AT_ONCE):
                ours, their = socket.socketpair()
                self._ours.append(ours)
                theirs.append(their)
            numbers = [each.fileno() for each in theirs]
            script = Path(__file__).with_name("gnupg_helper.py")
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(script), kind, *map(str, numbers)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={name: value for name, value in os.environ.items() if not name.startswith("SPACERIFT_")},
                pass_fds=numbers,
                # Linux may divide a core among sessions, and what yields does so within its own. So the idle
                # helper stays in the worker's; the busy one has as much of a core as the worker.
                start_new_session=kind == BUSY,
                process_group=0 if kind == IDLE else None,
            )
        except OSError as error:
            for each in self._ours:
                each.close()
            raise Unavailable(f"no helper process: {error.strerror}") from None
        finally:
            for each in theirs:
                each.close()
        self._owner = os.getpid()
        self._free: queue.Queue[socket.socket] = queue.Queue()
        self._late: queue.Queue[socket.socket] = queue.Queue()
        for each in self._ours:
            self._free.put(each)
        self._is_broken = False

    def is_running(self) -> bool:
        return not self._is_broken and self._owner == os.getpid()

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Put a question, wait for a free socket and for the answer.

        Raises:
            Untrusted: the input is refused.
            Unavailable: no answer came, or gpg failed.
        """
        self._take_back_late()
        try:
            # The keyring verifies AT_ONCE at a time, so a socket that the idle one lacks is late.
            channel = self._free.get(timeout=0 if self._kind == IDLE else seconds)
        except queue.Empty:
            raise Unavailable("gpg has too much to do") from None
        reply = self._exchange(channel, request, seconds)
        self._free.put(channel)
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
        to read from it would get the answer to this question. Only of an idle helper is it waited for."""
        name = os.urandom(8).hex()
        until = time.monotonic() + seconds
        is_sent = is_usable = False
        try:
            channel.settimeout(seconds)
            channel.sendall(json.dumps({"id": name} | request).encode() + b"\n")
            is_sent = True
            reply: dict[str, Any] = json.loads(_read_line(channel, until))
            is_usable = reply.get("id") == name
        except TimeoutError:
            if is_sent and self._kind == IDLE:
                is_usable = True
                self._late.put(channel)
            raise Unavailable("no answer from the helper process") from None
        except (OSError, ValueError):
            raise Unavailable("the helper process ended") from None
        finally:
            self._is_broken = self._is_broken or not is_usable
        if not is_usable:
            raise Unavailable("an answer to something else")
        return reply

    def _take_back_late(self) -> None:
        """A socket may be used again once its late answer has come, which nobody waits for any longer."""
        with suppress(queue.Empty):
            for _ in range(self._late.qsize()):
                channel = self._late.get_nowait()
                channel.settimeout(0)
                try:
                    while not (piece := channel.recv(1 << 16)).endswith(b"\n"):
                        if not piece:
                            raise ConnectionError
                    self._free.put(channel)
                except BlockingIOError:
                    self._late.put(channel)
                except OSError:
                    self._is_broken = True


def _read_line(channel: socket.socket, until: float) -> bytes:
    pieces: list[bytes] = []
    while not pieces or not pieces[-1].endswith(b"\n"):
        channel.settimeout(max(0.001, until - time.monotonic()))
        piece = channel.recv(1 << 16)
        if not piece:
            raise ConnectionError
        pieces.append(piece)
    return b"".join(pieces)
