"""A real server for the tests: gunicorn on a free port, and a client that speaks to it by raw sockets."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

ROOT = Path(__file__).resolve().parent.parent

NO_LIMITS = dict.fromkeys(
    ("REQUEST_LIMIT", "PAIR_LIMIT", "ADDRESS_LIMIT", "HELD_PER_ADDRESS", "CONNECTIONS_PER_ADDRESS"), ""
)
"""Most tests ask faster than a person would."""


def eventually(says: Callable[[], object]) -> bool:
    """Does it say so within five seconds?"""
    deadline = time.monotonic() + 5
    while not says():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


_ports = itertools.count(secrets.randbelow(20_000))


def free_port() -> int:
    """One below those of outgoing connections, one of which might take it before its server does."""
    for number in _ports:
        port = 10_000 + number % 20_000
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError


def environment(**settings: object) -> dict[str, str]:
    """Ours without any SPACERIFT_ of the caller's shell, and with these settings."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("SPACERIFT_")}
    for name in ("PORT", "WEB_CONCURRENCY", "REDIS_URL", "GUNICORN_CMD_ARGS"):
        own.pop(name, None)
    platform = ("REDIS_URL", "WEB_CONCURRENCY")
    given = {
        name if name in platform else f"SPACERIFT_{name}": str(value) for name, value in settings.items()
    }
    return own | given


class Server:
    """`gunicorn` with the project's own configuration, as a context manager.

        with Server(REQUEST_TIMEOUT=2) as server:
            server.post({"TYPE": "CONNECT", "SIGNAL": "offer"})

    Args:
        arguments: for the command line.
        app: what to serve; by default the server itself, see tests/probe.py.
        limits: False turns the rate limits off, unless the settings name them.
        settings: without `SPACERIFT_`, or the platform's own names.
    """

    running: ClassVar[list[Server]] = []
    driver: ClassVar[str] = "callbacks"
    command: ClassVar[Sequence[str]] = (sys.executable, "-m", "gunicorn")

    def __init__(
        self, *arguments: str, limits: bool = False, app: str = "tests.probe:app()", **settings: object
    ) -> None:
        self.port = free_port()
        if self.driver == "wsgi" and "--worker-class" not in arguments:
            arguments = (*arguments, "--worker-class", "gevent")
        self._arguments = (*arguments, app)
        self._settings = settings if limits else {**NO_LIMITS, **settings}
        self._log = tempfile.NamedTemporaryFile("w+", prefix="spacerift-", suffix=".log")  # noqa: SIM115

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @property
    def workers(self) -> list[int]:
        """The processes of its workers, the oldest first."""
        parent = self.process.pid
        return [int(each) for each in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]

    def memory_mib(self) -> float:
        """Of its workers: what is theirs alone, and their share of what others have, too."""
        rolled_up = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in self.workers]
        lines = [line for each in rolled_up for line in each.splitlines()]
        return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024

    @property
    def log(self) -> str:
        return Path(self._log.name).read_text()

    def last_words(self) -> str:
        tail = "\n".join(self.log.splitlines()[-60:])
        return f"--- log of the server on port {self.port} ---\n{tail}"

    def __enter__(self) -> Server:
        environ = environment(**self._settings) | {"PORT": str(self.port)}
        command = [*self.command, *self._arguments]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environ, stdout=self._log, stderr=self._log, start_new_session=True
        )
        try:
            self._await_start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        Server.running.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)  # a session of its own: all of them are ours
                self.process.wait(10)
        if self in Server.running:
            Server.running.remove(self)
        if value is not None:
            print(self.last_words(), file=sys.stderr)
        self._log.close()

    def _await_start(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"gunicorn ended with {self.process.returncode}:\n{self.log}")
            with contextlib.suppress(OSError):
                if self.get(f"{self._settings.get('URL_PREFIX', '')}/health")[0] == 200:
                    return
            time.sleep(0.02)
        raise TimeoutError(f"gunicorn did not start:\n{self.log}")

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            given = {name.lower(): value for name, value in response.getheaders()}
            return response.status, given, response.read()
        finally:
            connection.close()

    def call(
        self,
        parameters: dict[str, object] | None = None,
        *,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        method: str = "POST",
        path: str = "/",
        **extra: object,
    ) -> Call:
        """Send a request and do not wait for its reply."""
        asked = {**(parameters or {}), **extra}
        return Call(self.port, asked, headers=headers, body=body, method=method, path=path)

    def post(self, parameters: dict[str, object] | None = None, **extra: object) -> Reply:
        """Send a request and wait for its reply."""
        with self.call(parameters, **extra) as call:
            return call.reply()

    def offer(self, name: str = "offer", **extra: object) -> Call:
        """A peer that offers, by a fingerprint of its own."""
        return self.call({"TYPE": "CONNECT", "SIGNAL": name, "FINGERPRINT": name, **extra})

    def statistics(self) -> dict[str, int]:
        """The store's counts; see tests/probe.py."""
        return json.loads(self.get("/test/statistics")[2])  # type: ignore[no-any-return]

    def until(self, **counts: int) -> None:
        """Return once the store has these counts, such as `waiting=1`."""
        deadline = time.monotonic() + 10
        while (now := self.statistics()).items() and not counts.items() <= now.items():
            assert time.monotonic() < deadline, f"{counts} was never reached, but {now}"
            time.sleep(0.005)


class Reply:
    """A response, whole."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status_line = lines[0].split(" ", 1)[1] if lines[0] else ""
        self.status = int(self.status_line.split(" ")[0]) if self.status_line else 0
        self.headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def type(self) -> str:
        return str(self.json["TYPE"])

    def __getitem__(self, name: str) -> Any:
        return self.json[name]

    def __repr__(self) -> str:
        return f"<{self.status_line}: {self.body[:200]!r}>"


class Call:
    """One request on a connection of its own, which stays open until it is closed, or the test ends."""

    open: ClassVar[set[Call]] = set()

    def __init__(
        self,
        port: int,
        parameters: object,
        *,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        method: str = "POST",
        path: str = "/",
    ) -> None:
        self.port = port
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        Call.open.add(self)
        self._received = b""
        self._awaited = 0
        self.send(parameters, headers=headers, body=body, method=method, path=path)

    def send(
        self,
        parameters: object,
        *,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        method: str = "POST",
        path: str = "/",
    ) -> None:
        """Send a request (another one, on a connection that was kept)."""
        payload = json.dumps(parameters).encode() if body is None else body
        given = {"Host": "test", "Content-Type": "application/json", "Content-Length": str(len(payload))}
        given |= headers or {}
        head = "".join(f"{k}: {v}\r\n" for k, v in given.items() if v)
        self.socket.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + payload)
        self._awaited += 1

    def reply(self, timeout: float = 30) -> Reply:
        """Wait for the reply. An empty one means that the server closed the connection without one."""
        self.socket.settimeout(timeout)
        while not self._complete():
            piece = self.socket.recv(65536)
            if not piece:
                break
            self._received += piece
        end = self._length() or len(self._received)
        raw, self._received = self._received[:end], self._received[end:]
        self._awaited -= 1
        return Reply(raw)

    def is_held(self) -> bool:
        """A reply is awaited, no byte of it has come, and the connection is open."""
        return self._awaited > 0 and self.is_quiet()

    def is_quiet(self) -> bool:
        """Nothing has come that was not read, and the connection is open."""
        return not self._received and not select.select([self.socket], [], [], 0)[0]

    def close(self) -> None:
        Call.open.discard(self)
        self.socket.close()

    def reset(self) -> None:
        """Close with a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close()

    def __enter__(self) -> Call:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _length(self) -> int:
        """Bytes of the whole reply, 0 while they are not known."""
        head, found, _ = self._received.partition(b"\r\n\r\n")
        if not found:
            return 0
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                return len(head) + 4 + int(value)
        return len(head) + 4

    def _complete(self) -> bool:
        length = self._length()
        return bool(length) and len(self._received) >= length
